//! What travels on a connection after the handshake: frames of a fixed head, and behind a message's its payload.
//!
//! Pure: bytes in, [`Frame`]s out. A head that no peer of this version sends is refused with what is wrong about it.
//!
//! ```text
//! 0   kind        "EFM1" a message, "EFC1" a credit
//! 4   len_bytes   of the payload
//! 8   signature   16 sequence   20 number, its low 32 bits      (0 in a credit)
//! 24  granted     how many messages of the other direction may have been sent, since the beginning
//! ```
//!
//! All little endian. Every message carries the grant, so that a credit travels alone only where nothing flows back.

use crate::transport::Header;

/// A head as it was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The message that follows; none in a credit.
    pub(super) message: Option<Announced>,
    /// How many messages the sender of this frame has made room for, since the beginning.
    pub(super) granted: u64,
}

/// A message whose payload follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// What the sender wrote in front.
    pub(super) header: Header,
    /// The low bits of its number.
    pub(super) number: u32,
}

impl Frame {
    /// A message and a grant.
    pub(super) fn message(header: Header, number: u64, granted: u64) -> Frame {
        Frame { message: Some(Announced { header, number: low_bits(number) }), granted }
    }

    /// Nothing but a grant.
    pub(super) fn credit(granted: u64) -> Frame {
        Frame { message: None, granted }
    }

    /// As it travels.
    pub(super) fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let kind = if self.message.is_some() { MESSAGE } else { CREDIT };
        let Announced { header, number } = self.message.unwrap_or_default();
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(kind);
        bytes[4..8].copy_from_slice(&header.len_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&header.signature.to_le_bytes());
        bytes[16..20].copy_from_slice(&header.sequence.to_le_bytes());
        bytes[20..24].copy_from_slice(&number.to_le_bytes());
        bytes[24..].copy_from_slice(&self.granted.to_le_bytes());
        bytes
    }

    /// From what arrived.
    pub(super) fn from_bytes(bytes: &[u8; HEAD_BYTES]) -> Result<Frame, NotAFrame> {
        let announced = Announced {
            header: Header {
                len_bytes: word32(bytes, 4),
                signature: word64(bytes, 8),
                sequence: word32(bytes, 16),
            },
            number: word32(bytes, 20),
        };
        let granted = word64(bytes, 24);
        match bytes.first_chunk::<4>() {
            Some(MESSAGE) => Ok(Frame { message: Some(announced), granted }),
            Some(CREDIT) if announced == Announced::default() => Ok(Frame { message: None, granted }),
            _ => Err(NotAFrame { began_with: *bytes.first_chunk().expect("a head has 8 bytes") }),
        }
    }
}

/// Bytes that are no frame of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it sent bytes that are no frame: \"{}\"", began_with.escape_ascii())]
pub(super) struct NotAFrame {
    /// The first of them.
    pub(super) began_with: [u8; 8],
}

/// The part of a message's number that travels.
pub(super) fn low_bits(number: u64) -> u32 {
    (number & u64::from(u32::MAX)) as u32
}

fn word32(bytes: &[u8; HEAD_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the head"))
}

fn word64(bytes: &[u8; HEAD_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within the head"))
}

/// Bytes in front of every payload.
pub(super) const HEAD_BYTES: usize = 32;
const MESSAGE: &[u8; 4] = b"EFM1";
const CREDIT: &[u8; 4] = b"EFC1";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_their_bytes(
            signature: u64, sequence: u32, len_bytes: u32, number: u64, granted: u64
        ) {
            let header = Header { signature, sequence, len_bytes };
            for frame in [Frame::message(header, number, granted), Frame::credit(granted)] {
                prop_assert_eq!(Frame::from_bytes(&frame.to_bytes()), Ok(frame));
            }
        }

        #[test]
        fn bytes_are_a_frame_that_makes_the_same_bytes_or_none(bytes: [u8; HEAD_BYTES], kind in 0..3) {
            let mut bytes = bytes;
            match kind {
                0 => bytes[..4].copy_from_slice(MESSAGE),
                1 => bytes[..4].copy_from_slice(CREDIT),
                _ => {}
            }
            if let Ok(frame) = Frame::from_bytes(&bytes) {
                prop_assert_eq!(frame.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_credit_with_a_payload_and_strangers_bytes_are_refused() {
        let mut bytes = Frame::credit(4).to_bytes();
        bytes[4] = 1;
        assert!(Frame::from_bytes(&bytes).is_err());
        let mut bytes = [b' '; HEAD_BYTES];
        bytes[..15].copy_from_slice(b"GET / HTTP/1.1\n");
        let refused = Frame::from_bytes(&bytes).unwrap_err().to_string();
        assert_eq!(refused, "it sent bytes that are no frame: \"GET / HT\"");
    }
}
