//! The launcher's standard input, for the one rank that reads it.
//!
//! A terminal is read only while the launcher is in its foreground group: reading from the background would stop
//! the launcher. The reader is a plain thread, because a terminal or a file cannot be polled everywhere; it reads
//! one chunk ahead and waits until that chunk is taken, so the rank's pace is the pace at which input is consumed.
//! File status flags are never changed: another process may share the terminal.

use std::io::{IsTerminal, Read};

use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::sync::mpsc;

/// The most that one chunk holds.
pub const CHUNK_BYTES: usize = 32 << 10;

/// Starts to read; each chunk as it came, an empty one at the end of the input. `None` where nothing is to be read:
/// the launcher is in the background of its terminal.
pub fn read() -> Option<mpsc::Receiver<Vec<u8>>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() && tcgetpgrp(&stdin).ok() != Some(getpgrp()) {
        return None;
    }
    let (sender, receiver) = mpsc::channel(1);
    let spawned = std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let len = match stdin.lock().read(&mut chunk) {
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if sender.blocking_send(chunk[..len].to_vec()).is_err() || len == 0 {
                return;
            }
        }
    });
    spawned.ok().map(|_| receiver)
}
