//! What a consumer asks a queue pair to do.

use crate::address::{Endpoint, Qpn};

/// A piece of registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Piece {
    /// Where, as operations address it.
    pub address: u64,
    /// How much.
    pub len_bytes: u32,
    /// The region's key.
    pub key: u32,
}

/// Pieces of memory that follow each other in an operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pieces {
    list: [Piece; Pieces::MAX],
    count: u8,
}

impl Pieces {
    /// The most that any profile permits.
    pub const MAX: usize = 4;

    /// The pieces, unless there are too many.
    pub fn new(pieces: impl IntoIterator<Item = Piece>) -> Option<Pieces> {
        let mut all = Pieces::default();
        for piece in pieces {
            *all.list.get_mut(usize::from(all.count))? = piece;
            all.count += 1;
        }
        Some(all)
    }

    /// The pieces.
    pub fn as_slice(&self) -> &[Piece] {
        &self.list[..usize::from(self.count)]
    }

    /// How long they are together.
    pub fn len_bytes(&self) -> u64 {
        self.as_slice().iter().map(|piece| u64::from(piece.len_bytes)).sum()
    }

    /// The parts of the pieces that hold `len_bytes` of the operation from `offset_bytes` on.
    pub fn span(&self, offset_bytes: u64, len_bytes: u64) -> impl Iterator<Item = Piece> + '_ {
        let mut skip = offset_bytes;
        let mut left = len_bytes;
        self.as_slice().iter().filter_map(move |piece| {
            let len = u64::from(piece.len_bytes);
            let start = skip.min(len);
            skip -= start;
            let take = left.min(len - start);
            left -= take;
            // Both fit, as neither is longer than the piece.
            (take != 0).then(|| Piece {
                address: piece.address + start,
                len_bytes: take as u32,
                key: piece.key,
            })
        })
    }
}

/// What an operation sends or fills.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Bytes that the request carried.
    Inline(Vec<u8>),
    /// Registered memory.
    Memory(Pieces),
}

impl Payload {
    /// How long it is.
    pub fn len_bytes(&self) -> u64 {
        match self {
            Payload::Inline(bytes) => bytes.len() as u64,
            Payload::Memory(pieces) => pieces.len_bytes(),
        }
    }
}

/// What kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A message for whatever receive the target has posted.
    Send,
    /// Memory of the target's into memory of ours.
    Read {
        /// The target's region.
        remote_key: u32,
        /// Where in it.
        address: u64,
    },
    /// Memory of ours into memory of the target's.
    Write {
        /// The target's region.
        remote_key: u32,
        /// Where in it.
        address: u64,
    },
}

/// A work request of a send queue.
#[derive(Clone, Debug)]
pub struct Work {
    /// The consumer's name for it.
    pub id: u64,
    /// What is to be done.
    pub operation: Operation,
    /// With which bytes.
    pub payload: Payload,
    /// What the target's completion is to carry.
    pub immediate: Option<u32>,
    /// To whom; none when the consumer's address handle is none.
    pub target: Option<Endpoint>,
    /// The key of the target's queue pair.
    pub qkey: u32,
    /// What was found to be wrong with it while it was put together.
    pub flaw: Option<crate::status::Status>,
}

/// A work request of a receive queue.
#[derive(Clone, Copy, Debug)]
pub struct Receive {
    /// The consumer's name for it.
    pub id: u64,
    /// Where the message goes.
    pub pieces: Pieces,
}

/// What a completion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// A send of ours.
    Send,
    /// A read of ours.
    Read,
    /// A write of ours.
    Write,
    /// A message that came.
    Receive,
    /// Immediate data of a write that came.
    ReceiveWrite,
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The consumer's name for the work request; zero for one that needed none.
    pub id: u64,
    /// How it ended.
    pub status: crate::status::Status,
    /// What it is about.
    pub what: Completed,
    /// How many bytes it moved.
    pub len_bytes: u32,
    /// Data that came with it.
    pub immediate: Option<u32>,
    /// The queue pair that it is of.
    pub pair: Qpn,
    /// Who caused it, for what came.
    pub source: Option<Endpoint>,
    /// Whether it took no posted receive.
    pub is_unsolicited: bool,
}

impl Completed {
    /// Whether it gives an entry of the send queue back.
    pub fn is_ours(self) -> bool {
        matches!(self, Completed::Send | Completed::Read | Completed::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(address: u64, len_bytes: u32) -> Piece {
        Piece { address, len_bytes, key: 1 }
    }

    #[test]
    fn spans_cross_pieces() {
        let pieces = Pieces::new([piece(100, 10), piece(200, 0), piece(300, 20)]).unwrap();
        assert_eq!(pieces.len_bytes(), 30);
        let span = |offset, len| pieces.span(offset, len).collect::<Vec<_>>();
        assert_eq!(span(0, 10), [piece(100, 10)]);
        assert_eq!(span(5, 10), [piece(105, 5), piece(300, 5)]);
        assert_eq!(span(10, 20), [piece(300, 20)]);
        assert_eq!(span(29, 100), [piece(319, 1)]);
        assert_eq!(span(30, 1), []);
    }

    #[test]
    fn too_many_pieces_are_refused() {
        assert!(Pieces::new([piece(0, 1); Pieces::MAX]).is_some());
        assert!(Pieces::new([piece(0, 1); Pieces::MAX + 1]).is_none());
    }
}
