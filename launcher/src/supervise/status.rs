//! The line at the bottom of a terminal that says how far starting and ending have come.
//!
//! It appears when that takes long enough to wonder, and goes when it is over; it never stands there while ranks run,
//! whose own progress bars it would disturb. Without a terminal there is none. The output thread draws it, so that no
//! rank's line runs into it.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::writer::Writer;

/// Nothing is shown before this.
pub const QUIET: Duration = Duration::from_millis(700);
/// How often it is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// The line of one phase, and of those that follow it.
#[derive(Debug)]
pub struct Status<'a> {
    writer: &'a Writer,
    next: Cell<Instant>,
    is_shown: Cell<bool>,
}

impl Status<'_> {
    /// A line that is not shown yet.
    pub fn new(writer: &Writer) -> Status<'_> {
        Status { writer, next: Cell::new(Instant::now() + QUIET), is_shown: Cell::new(false) }
    }

    /// When [`Status::show`] should be called; none where there is no terminal.
    pub fn due_at(&self) -> Option<Instant> {
        self.writer.has_terminal().then(|| self.next.get())
    }

    /// Shows this text, if it is time.
    pub fn show(&self, text: &str) {
        let now = Instant::now();
        if self.due_at().is_some_and(|due| due <= now) {
            self.writer.status(Some(text.to_owned()));
            self.next.set(now + REDRAW);
            self.is_shown.set(true);
        }
    }

    /// Takes the line away. What comes next is a phase of its own.
    pub fn clear(&self) {
        if self.is_shown.replace(false) {
            self.writer.status(None);
        }
        self.next.set(Instant::now() + QUIET);
    }
}
