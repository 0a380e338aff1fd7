//! The launcher's standard input, for the one rank that reads it.
//!
//! A terminal is read only while the launcher is in its foreground group: reading from the background would stop
//! the launcher. It may be moved there and back at any time, so who reads waits for input first and then looks once
//! more; what is typed meanwhile is the shell's. The reader is a plain thread, because a file cannot be polled
//! everywhere; it reads one chunk ahead and waits until that chunk is taken, so the rank's pace is the pace at which
//! input is consumed. File status flags are never changed: another process may share the terminal.

use std::io::{IsTerminal, Read, Stdin};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::sync::mpsc;

/// The most that one chunk holds.
pub const CHUNK_BYTES: usize = 32 << 10;

/// Starts to read; each chunk as it came, an empty one at the end of the input. `None` where the system has no thread for
/// it. Nothing comes while the launcher is in the background of its terminal.
pub fn read() -> Option<mpsc::Receiver<Vec<u8>>> {
    let stdin = std::io::stdin();
    let is_terminal = stdin.is_terminal();
    let (sender, receiver) = mpsc::channel(1);
    let spawned = std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            if is_terminal && !await_turn(&stdin, &sender) {
                return;
            }
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

/// Waits until a terminal has input and it is the launcher's. False when nobody wants it any more.
fn await_turn(terminal: &Stdin, sender: &mpsc::Sender<Vec<u8>>) -> bool {
    while !sender.is_closed() {
        if is_in_background(terminal) {
            // Nothing tells of a change of the foreground group.
            std::thread::sleep(LOOK);
            continue;
        }
        let mut files = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
        let is_ready = poll(&mut files, PollTimeout::NONE).is_ok_and(|ready| ready > 0);
        if is_ready && !is_in_background(terminal) {
            return true;
        }
    }
    false
}

/// Whether reading from a terminal would stop the launcher. From one that is not its controlling terminal, which has no group to
/// be told, it would not.
fn is_in_background(terminal: &Stdin) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group != getpgrp())
}

/// How often a launcher in the background looks whether it has the terminal again.
const LOOK: Duration = Duration::from_millis(200);
