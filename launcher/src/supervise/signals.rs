//! Signals to the launcher, as a stream of numbers.
//!
//! INT, TERM, HUP and QUIT ask for the end of the job; USR1, USR2, ALRM and CONT are passed on to the ranks. The
//! terminal's stop signal keeps its default, so that Ctrl-Z stops the launcher and nothing else.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that end the job.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// Signals that go to the ranks.
const FORWARDED: [i32; 4] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGCONT];

/// Whether this signal ends the job; the others are passed on.
pub fn ends_the_job(number: i32) -> bool {
    ENDING.contains(&number)
}

/// Starts listening; must be called on the runtime. Signals that arrived before are not seen.
///
/// # Errors
///
/// When a handler cannot be installed.
pub fn listen() -> io::Result<mpsc::UnboundedReceiver<i32>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for number in ENDING.into_iter().chain(FORWARDED) {
        let mut stream = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(number).is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

/// The name of a signal: `SIGKILL`; `signal 63` where it has none.
pub fn name(number: i32) -> String {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {number}"),
    }
}
