//! The end of a program: what it counted is shown, though it closed nothing, and it leaves the folder that looks like
//! /sys.

use std::time::Instant;

use super::Host;

/// Makes sure of it.
pub(super) fn prepare() {
    at_exit(leave);
}

extern "C" fn leave() {
    let Ok(host) = Host::of_process() else { return };
    // Not waited for: whoever holds the lock does not end any more.
    if let Some(mut engine) = host.engine.try_lock() {
        engine.show_counters(Instant::now());
    }
    host.sysfs.leave();
}

#[expect(unsafe_code, reason = "registers a function with the C library")]
fn at_exit(function: extern "C" fn()) {
    // SAFETY: a function without arguments, of a library that is never unloaded before the program ends.
    unsafe { libc::atexit(function) };
}
