//! What the programs of `bin/` share: they are ranks that misbehave, and say first that they are there.

use std::io::Write;

use nix::sys::signal::{SigHandler, Signal, signal};

/// This rank's number.
///
/// # Panics
///
/// When the program was not started by efarun.
pub fn rank() -> u32 {
    let rank = std::env::var("EFARUN_RANK").expect("EFARUN_RANK is set");
    rank.parse().expect("EFARUN_RANK is a number")
}

/// Writes one line, at once and in one piece.
pub fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // Nobody may be listening any more, and that is no reason to end early.
    let _ = stdout.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdout.flush());
}

/// Lets standard error go where standard output goes, for a test that waits for lines of both.
///
/// # Panics
///
/// When standard output was closed.
pub fn merge_stderr() {
    nix::unistd::dup2_stderr(std::io::stdout()).expect("standard output is open");
}

/// Sleeps until a signal ends the process.
pub fn hang() -> ! {
    loop {
        nix::unistd::pause();
    }
}

/// Makes this process, and what it starts, deaf to TERM, INT and HUP.
///
/// # Panics
///
/// Never on Linux, where these can be ignored.
#[expect(unsafe_code, reason = "signal(2) is unsafe for handlers; ignoring installs none")]
pub fn ignore_signals() {
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: the disposition is SIG_IGN, so no handler of ours ever runs.
        unsafe { signal(ignored, SigHandler::SigIgn) }.expect("these signals can be ignored");
    }
}
