//! The unfinished line of one stream.

use std::borrow::Cow;
use std::time::{Duration, Instant};

/// The longest line that is kept until its end. A longer one is passed on in parts.
pub const LONGEST_LINE_BYTES: usize = 64 * 1024;

/// Bytes of a line whose end has not come yet.
#[derive(Debug, Default)]
pub(super) struct PartialLine {
    bytes: Vec<u8>,
    /// When the first of them came.
    since: Option<Instant>,
}

impl PartialLine {
    /// Takes more of the stream and returns what can be written now: everything up to the last end of line, and
    /// a line that has grown too long as far as it goes.
    pub(super) fn push<'a>(&mut self, bytes: &'a [u8], now: Instant) -> Cow<'a, [u8]> {
        let mut ready = Cow::Borrowed(&bytes[..0]);
        let rest = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => {
                let (lines, rest) = bytes.split_at(end + 1);
                ready = match self.take() {
                    begun if begun.is_empty() => Cow::Borrowed(lines),
                    mut begun => {
                        begun.extend_from_slice(lines);
                        Cow::Owned(begun)
                    }
                };
                rest
            }
            None => bytes,
        };
        if !rest.is_empty() {
            self.bytes.extend_from_slice(rest);
            self.since.get_or_insert(now);
        }
        if self.bytes.len() >= LONGEST_LINE_BYTES {
            ready.to_mut().append(&mut self.take());
        }
        ready
    }

    /// Returns the unfinished line and forgets it.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.since = None;
        std::mem::take(&mut self.bytes)
    }

    /// Says whether the unfinished line has waited for its end this long.
    pub(super) fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= age)
    }

    /// Returns when the unfinished line began.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }
}
