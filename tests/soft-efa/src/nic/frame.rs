//! What goes over a link: a header of fixed size, and the bytes that it announces.
//!
//! One kind of frame per thing that a device tells another. A frame carries one MTU at most; a longer transfer is
//! several frames, each of which says where its bytes belong, so that they may come in any order. The encoding is
//! little-endian and the same for every medium. What a link delivers is a stranger's word: [`Frame::decode`]
//! refuses what it does not know, and every length is checked again where it is used.

use crate::address::Qpn;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message for a posted receive.
    Send = 1,
    /// A piece of memory to be written.
    Write = 2,
    /// A wish for memory to be read.
    ReadRequest = 3,
    /// A piece of what was wished for.
    ReadData = 4,
    /// How an operation ended at the other end.
    Answer = 5,
    /// The sender's queue pair closes.
    Farewell = 6,
}

/// A header. Fields that a kind does not use are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is about.
    pub kind: Kind,
    /// For [`Kind::Answer`], EFA's code.
    pub status: u8,
    /// The queue pair that says it.
    pub source: Qpn,
    /// The queue pair that is meant.
    pub target: Qpn,
    /// What the target's queue pair must have been given as its key.
    pub qkey: u32,
    /// How many bytes follow.
    pub len_bytes: u32,
    /// The operation, by its initiator's number.
    pub operation: u64,
    /// Data for the completion at the target.
    pub immediate: Option<u32>,
    /// The region at the target.
    pub remote_key: u32,
    /// Where the bytes belong in it, or where they are to be read.
    pub address: u64,
    /// How long the whole operation is.
    pub total_bytes: u32,
    /// Where in the operation these bytes are.
    pub offset_bytes: u32,
}

impl Frame {
    /// A header with everything but what every frame has at zero.
    pub fn new(kind: Kind, source: Qpn, target: Qpn, operation: u64) -> Frame {
        Frame {
            kind,
            status: 0,
            source,
            target,
            qkey: 0,
            len_bytes: 0,
            operation,
            immediate: None,
            remote_key: 0,
            address: 0,
            total_bytes: 0,
            offset_bytes: 0,
        }
    }

    /// Writes the header.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1] = self.status;
        bytes[2] = u8::from(self.immediate.is_some());
        let words = [
            self.len_bytes,
            self.source.0,
            self.target.0,
            self.qkey,
            self.immediate.unwrap_or(0),
            self.remote_key,
            self.total_bytes,
            self.offset_bytes,
        ];
        for (place, word) in bytes[4..36].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes[40..48].copy_from_slice(&self.operation.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.address.to_le_bytes());
        bytes
    }

    /// Reads a header; none when it is not one.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Frame> {
        let word = |place: usize| {
            let start = 4 + 4 * place;
            u32::from_le_bytes([bytes[start], bytes[start + 1], bytes[start + 2], bytes[start + 3]])
        };
        let long = |start: usize| {
            let mut long = [0; 8];
            long.copy_from_slice(&bytes[start..start + 8]);
            u64::from_le_bytes(long)
        };
        let kind = match bytes[0] {
            1 => Kind::Send,
            2 => Kind::Write,
            3 => Kind::ReadRequest,
            4 => Kind::ReadData,
            5 => Kind::Answer,
            6 => Kind::Farewell,
            _ => return None,
        };
        Some(Frame {
            kind,
            status: bytes[1],
            len_bytes: word(0),
            source: Qpn(word(1)),
            target: Qpn(word(2)),
            qkey: word(3),
            immediate: (bytes[2] & 1 != 0).then(|| word(4)),
            remote_key: word(5),
            total_bytes: word(6),
            offset_bytes: word(7),
            operation: long(40),
            address: long(48),
        })
    }
}

/// How long a header is.
pub const HEADER_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_decoded_encodes_to_the_same_meaning(mut bytes in prop::array::uniform32(any::<u8>()), kind in 1_u8..=6) {
            bytes[0] = kind;
            let mut header = [0; HEADER_BYTES];
            header[..32].copy_from_slice(&bytes);
            header[32..].copy_from_slice(&bytes);
            let frame = Frame::decode(&header).expect("the kind is known");
            prop_assert_eq!(Frame::decode(&frame.encode()), Some(frame));
        }
    }

    #[test]
    fn every_field_survives() {
        let frame = Frame {
            status: 9,
            qkey: 0x8000_0001,
            len_bytes: 8928,
            immediate: Some(0),
            remote_key: 77,
            address: u64::MAX - 5,
            total_bytes: 1 << 30,
            offset_bytes: 89_280,
            ..Frame::new(Kind::Write, Qpn(3), Qpn(250), u64::MAX)
        };
        assert_eq!(Frame::decode(&frame.encode()), Some(frame));
    }

    #[test]
    fn unknown_kinds_are_refused() {
        let mut bytes = Frame::new(Kind::Send, Qpn(1), Qpn(2), 3).encode();
        for kind in [0, 7, 255] {
            bytes[0] = kind;
            assert_eq!(Frame::decode(&bytes), None);
        }
    }
}
