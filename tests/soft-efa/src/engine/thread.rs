//! The thread that is the device while the program does something else.

use std::time::Instant;

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use super::{ATTENTION, Host};
use crate::report;

/// Starts it. Signals are the program's: the thread takes none.
pub(super) fn start(host: &'static Host) {
    let mut before = SigSet::empty();
    let masked = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before)).is_ok();
    let started = std::thread::Builder::new().name("soft-efa".to_owned()).spawn(move || run(host));
    if masked {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    if let Err(error) = started {
        report::say(&format!("no thread: {error}; devices only work while the program polls"));
    }
}

fn run(host: &'static Host) {
    loop {
        let now = Instant::now();
        let mut engine = host.engine();
        if host.is_attended(now) {
            drop(engine);
            std::thread::sleep(ATTENTION);
            continue;
        }
        engine.progress(now, true);
        let wait = if engine.fall_asleep() {
            engine.next_due().map(|due| due.saturating_duration_since(Instant::now()))
        } else {
            Some(std::time::Duration::ZERO)
        };
        engine.thread_wakes = wait.map(|wait| now + wait);
        engine.is_thread_asleep = true;
        drop(engine);
        host.poller.wait(wait);
        host.engine().is_thread_asleep = false;
    }
}
