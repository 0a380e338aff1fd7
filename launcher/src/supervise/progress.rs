//! What the user sees while hosts are being connected.
//!
//! On a terminal a line with a count, and the slow hosts by name ([`super::status`]); elsewhere one plain line every few
//! seconds, fewer the longer it takes, and none at all when connecting is quick. It writes to standard error and leaves nothing on the screen.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::status::Status;
use super::writer::Writer;

/// How often a plain line is written where there is no terminal, at first.
const PLAIN_INTERVAL: Duration = Duration::from_secs(3);
/// How often to look.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows how far connecting has come.
#[derive(Debug)]
pub struct Progress<'a> {
    writer: &'a Writer,
    status: Status<'a>,
    started: Instant,
    next_line: Cell<Duration>,
}

impl Progress<'_> {
    /// A progress that has shown nothing yet.
    pub fn new(writer: &Writer) -> Progress<'_> {
        let (status, started) = (Status::new(writer), Instant::now());
        Progress { writer, status, started, next_line: Cell::new(PLAIN_INTERVAL) }
    }

    /// Shows the count, and what is waited for.
    pub fn connecting(&self, done: usize, all: usize, waiting_for: impl Fn() -> String) {
        let elapsed = self.started.elapsed();
        if self.writer.has_terminal() {
            self.status.show(&format!("connecting: {done}/{all} hosts; waiting for {}", waiting_for()));
        } else if elapsed >= self.next_line.get() {
            self.next_line.set(elapsed + PLAIN_INTERVAL.max(elapsed / 4));
            let waiting_for = waiting_for();
            let seconds = elapsed.as_secs();
            self.writer
                .note(format!("{done}/{all} hosts connected after {seconds} s; waiting for {waiting_for}"));
        }
    }

    /// How soon to call again when nothing happens.
    pub fn redraw_in(&self) -> Duration {
        REDRAW
    }

    /// Takes everything off the screen.
    pub fn connected(&self) {
        self.status.clear();
    }
}
