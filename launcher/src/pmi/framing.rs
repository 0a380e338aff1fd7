//! Where a message of a rank begins and ends.
//!
//! Given bytes in pieces of any size, [`Inbox`] gives whole messages. PMI-1 has lines, and for `mcmd=` several lines that
//! end with `endcmd`; PMI-2 has six characters with the length in front. It keeps no more than one message of
//! [`MAX_MESSAGE_BYTES`] and what came behind it in the same piece.

use super::request::Fault;

/// How messages are set apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// PMI-1: lines.
    Lines,
    /// PMI-2: a length in front.
    Counted,
}

/// What a rank has sent and nobody has looked at.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    framing: Framing,
    /// Up to where a message's end has been looked for in vain.
    searched: usize,
}

impl Inbox {
    /// An empty one, for lines.
    pub(super) fn new() -> Inbox {
        Inbox { bytes: Vec::new(), framing: Framing::Lines, searched: 0 }
    }

    /// Takes bytes that have arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Reads on with this framing.
    pub(super) fn set_framing(&mut self, framing: Framing) {
        (self.framing, self.searched) = (framing, 0);
    }

    /// Whether a message has begun and is not whole.
    pub(super) fn has_partial(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Gives the next whole message: a line without its end, the lines of a `mcmd` up to `endcmd`, or what a length
    /// counted.
    ///
    /// # Errors
    ///
    /// A message that is too long, or has no length where it needs one.
    pub(super) fn next_message(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some((start, end, next)) = (match self.framing {
            Framing::Lines => self.lines(),
            Framing::Counted => self.counted()?,
        }) else {
            let too_long = self.bytes.len() > MAX_MESSAGE_BYTES;
            return if too_long { Err(Fault::TooLong { limit_bytes: MAX_MESSAGE_BYTES }) } else { Ok(None) };
        };
        let message = self.bytes[start..end].to_vec();
        self.bytes.drain(..next);
        self.searched = 0;
        Ok(Some(message))
    }

    /// Start, end and next start of the message at the front.
    fn lines(&mut self) -> Option<(usize, usize, usize)> {
        let is_several = self.bytes.starts_with(SEVERAL_LINES);
        loop {
            let rest = &self.bytes[self.searched..];
            let end = self.searched + rest.iter().position(|byte| *byte == b'\n')?;
            let line = &self.bytes[self.searched..end];
            if !is_several {
                return Some((0, end, end + 1));
            }
            if line == LAST_LINE {
                return Some((0, self.searched, end + 1));
            }
            self.searched = end + 1;
        }
    }

    fn counted(&self) -> Result<Option<(usize, usize, usize)>, Fault> {
        let Some(digits) = self.bytes.get(..LENGTH_BYTES) else { return Ok(None) };
        let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.trim().parse::<usize>().ok());
        let Some(length) = length else { return Err(Fault::no_message(&self.bytes)) };
        if length > MAX_MESSAGE_BYTES {
            return Err(Fault::TooLong { limit_bytes: MAX_MESSAGE_BYTES });
        }
        let end = LENGTH_BYTES + length;
        Ok((self.bytes.len() >= end).then_some((LENGTH_BYTES, end, end)))
    }
}

/// The longest message. Clients have lines of 1024 bytes; only a spawn, with a command line in it, is longer.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// Digits of a length, with blanks in front.
pub(super) const LENGTH_BYTES: usize = 6;

const SEVERAL_LINES: &[u8] = b"mcmd=";
const LAST_LINE: &[u8] = b"endcmd";

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(inbox: &mut Inbox, bytes: &[u8], piece_bytes: usize) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for piece in bytes.chunks(piece_bytes) {
            inbox.push(piece);
            while let Some(message) = inbox.next_message().unwrap() {
                messages.push(message);
            }
        }
        messages
    }

    #[test]
    fn messages_are_the_same_however_they_are_cut() {
        let lines = b"cmd=init a=b\ncmd=get_maxes\nmcmd=spawn\nnprocs=2\nendcmd\ncmd=finalize\n";
        let expected: [&[u8]; 4] =
            [b"cmd=init a=b", b"cmd=get_maxes", b"mcmd=spawn\nnprocs=2\n", b"cmd=finalize"];
        let counted = b"    13cmd=fullinit;\x20   14cmd=finalize;x";
        for piece_bytes in [1, 2, 3, 7, 1000] {
            assert_eq!(messages(&mut Inbox::new(), lines, piece_bytes), expected);
            let mut inbox = Inbox::new();
            inbox.set_framing(Framing::Counted);
            let whole = messages(&mut inbox, counted, piece_bytes);
            assert_eq!(whole, [&b"cmd=fullinit;"[..], b"cmd=finalize;x"][..]);
            assert!(!inbox.has_partial());
        }
    }

    #[test]
    fn a_message_without_an_end_is_refused_and_one_at_the_limit_is_not() {
        let mut inbox = Inbox::new();
        inbox.push(&vec![b'x'; MAX_MESSAGE_BYTES]);
        assert_eq!(inbox.next_message(), Ok(None));
        inbox.push(b"x");
        assert!(matches!(inbox.next_message(), Err(Fault::TooLong { .. })));
        for counted in [&b"999999"[..], b"cmd=in", b"    -1"] {
            let mut inbox = Inbox::new();
            inbox.set_framing(Framing::Counted);
            inbox.push(counted);
            assert!(inbox.next_message().is_err(), "{counted:?}");
        }
    }
}
