//! What the library says: on stderr, and only when asked or when it cannot go on.

use std::sync::atomic::{AtomicBool, Ordering};

/// Says something that a user must know.
#[expect(clippy::print_stderr, reason = "the one place of this library that writes to the program's stderr")]
pub fn say(message: &str) {
    eprintln!("soft-efa[{}]: {message}", std::process::id());
}

/// Says something that only a curious user wants to know.
pub fn whisper(message: impl FnOnce() -> String) {
    if IS_TALKATIVE.load(Ordering::Relaxed) {
        say(&message());
    }
}

/// Makes whispers heard.
pub fn be_talkative() {
    IS_TALKATIVE.store(true, Ordering::Relaxed);
}

static IS_TALKATIVE: AtomicBool = AtomicBool::new(false);
