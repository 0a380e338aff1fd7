//! Signals to the launcher, as a stream of numbers.
//!
//! INT, TERM, HUP and QUIT ask for the end of the job; USR1, USR2, ALRM and CONT, and what `--forward-signals` lists, are
//! passed on to the ranks. TSTP, a
//! terminal's Ctrl-Z, stops the ranks and then the launcher ([`stop_this_process`]). A HUP that was ignored when the
//! launcher started, as under `nohup`, stays ignored.

use std::collections::BTreeSet;
use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::job::ForwardedSignals;

/// Signals that end the job.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// Signals that go to the ranks unless `--forward-signals` says otherwise.
const FORWARDED: [i32; 3] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM];

/// The terminal's stop signal.
pub const STOPPING: i32 = libc::SIGTSTP;

/// Whether this signal ends the job; the others are passed on.
pub fn ends_the_job(number: i32) -> bool {
    ENDING.contains(&number)
}

/// Whether a signal to the launcher can be passed on: its own faults, its children's ends and what no process can handle
/// cannot.
pub fn can_be_passed_on(number: i32) -> bool {
    let own = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGCHLD,
    ];
    // Between the named ones and the first of the real-time ones are the C library's.
    !own.contains(&number) && !(libc::SIGSYS + 1..libc::SIGRTMIN()).contains(&number)
}

/// Starts listening; must be called on the runtime. Signals that arrived before are not seen.
///
/// # Errors
///
/// When a handler cannot be installed.
pub fn listen(forwarded: &ForwardedSignals) -> io::Result<mpsc::UnboundedReceiver<i32>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let hangup_is_ignored = ignored_at_start(libc::SIGHUP);
    let mut numbers = BTreeSet::from([STOPPING, libc::SIGCONT]);
    numbers.extend(ENDING.into_iter().chain(FORWARDED));
    let mut dropped = &FORWARDED[..0];
    match forwarded {
        ForwardedSignals::Usual => {}
        ForwardedSignals::None => dropped = &FORWARDED,
        ForwardedSignals::Also(others) => numbers.extend(others),
    }
    for number in numbers {
        if number == libc::SIGHUP && hangup_is_ignored {
            continue;
        }
        let mut stream = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        let is_dropped = dropped.contains(&number);
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if !is_dropped && sender.send(number).is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

/// Stops this process as Ctrl-Z stops any other, until somebody sends it CONT.
pub fn stop_this_process() {
    // STOP cannot be refused.
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
}

/// Whether whoever started the launcher had it ignore this signal.
fn ignored_at_start(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (number - 1) & 1 == 1)
}

/// The name of a signal: `SIGKILL`; `signal 63` where it has none.
pub fn name(number: i32) -> String {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("signal {number}"),
    }
}
