//! The operations that may be in flight, each with the context that names it to the provider.
//!
//! Per peer and slot there are two for each piece, per block of slots two for the credit, and per rail one for what goes
//! round another; and each is in flight once at most: a context has a fixed place, and its address says whose it is.

use std::ffi::c_void;

use efarun_wire::Rank;

use crate::fabric::Memory;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    /// The other rank.
    pub(super) peer: Rank,
    /// Of a credit the block of slots; of a detour 0.
    pub(super) slot: usize,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of the sending end: sends a piece of a message into the peer's slot.
    SendPiece(usize),
    /// Of the receiving end: receives a piece of a message into the slot.
    ReceivePiece(usize),
    /// Of the sending end: receives the peer's word that its slots are free.
    ReceiveCredit,
    /// Of the receiving end: tells the peer that slots are free.
    SendCredit,
    /// Of both ends: receives, on this rail, what belongs to another.
    ReceiveDetour(usize),
}

/// A place for each operation's context.
#[derive(Debug)]
pub(super) struct Contexts {
    memory: Memory,
    slots: usize,
    pieces: usize,
}

impl Contexts {
    pub(super) fn new(world_size: u32, slots: usize, pieces: usize) -> Self {
        let count = world_size as usize * slots * kinds(pieces);
        Contexts { memory: Memory::new(count * CONTEXT_BYTES), slots, pieces }
    }

    /// The context of an operation: 64 bytes that are the provider's while it is in flight.
    pub(super) fn context(&self, operation: Operation) -> *mut c_void {
        let kind = match operation.kind {
            Kind::ReceiveCredit => 0,
            Kind::SendCredit => 1,
            Kind::SendPiece(piece) => 2 + piece,
            Kind::ReceivePiece(piece) => 2 + self.pieces + piece,
            Kind::ReceiveDetour(rail) => 2 + 2 * self.pieces + rail,
        };
        let index = (operation.peer.index() * self.slots + operation.slot) * kinds(self.pieces) + kind;
        self.memory.piece(index * CONTEXT_BYTES..(index + 1) * CONTEXT_BYTES).cast()
    }

    /// The operation whose context is at an address, if one is.
    pub(super) fn operation(&self, address: usize) -> Option<Operation> {
        let whole = self.memory.whole();
        let offset = address.checked_sub(whole.cast::<u8>() as usize)?;
        if offset >= whole.len() || offset % CONTEXT_BYTES != 0 {
            return None;
        }
        let index = offset / CONTEXT_BYTES;
        let (pair, kind) = (index / kinds(self.pieces), index % kinds(self.pieces));
        let kind = match kind {
            0 => Kind::ReceiveCredit,
            1 => Kind::SendCredit,
            piece if piece < 2 + self.pieces => Kind::SendPiece(piece - 2),
            piece if piece < 2 + 2 * self.pieces => Kind::ReceivePiece(piece - 2 - self.pieces),
            rail => Kind::ReceiveDetour(rail - 2 - 2 * self.pieces),
        };
        let peer = Rank(u32::try_from(pair / self.slots).ok()?);
        Some(Operation { kind, peer, slot: pair % self.slots })
    }
}

fn kinds(pieces: usize) -> usize {
    2 + 3 * pieces
}

/// `struct fi_context2`.
pub(super) const CONTEXT_BYTES: usize = 64;

/// How many ranks there can be: what tells operations apart on the wire has room for so many,
pub(super) const MAX_RANKS: u32 = 1 << 16;
/// so many slots,
pub(super) const MAX_SLOTS: usize = 1 << 5;
/// and so many pieces of a message, which is how many rails a rank can have.
pub(super) const MAX_PIECES: usize = 1 << 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found_by_its_context() {
        let contexts = Contexts::new(3, 2, 2);
        let mut seen = std::collections::HashSet::new();
        let pieces = (0..2).flat_map(|piece| {
            [Kind::SendPiece(piece), Kind::ReceivePiece(piece), Kind::ReceiveDetour(piece)]
        });
        let kinds: Vec<Kind> = pieces.chain([Kind::ReceiveCredit, Kind::SendCredit]).collect();
        for peer in (0..3).map(Rank) {
            for &kind in &kinds {
                for slot in 0..2 {
                    let operation = Operation { kind, peer, slot };
                    let address = contexts.context(operation) as usize;
                    assert!(seen.insert(address));
                    assert_eq!(contexts.operation(address), Some(operation));
                    assert_eq!(contexts.operation(address + 8), None);
                }
            }
        }
        let first = *seen.iter().min().expect("some");
        let last = *seen.iter().max().expect("some");
        for outside in [0, first - 64, last + 64, usize::MAX] {
            assert_eq!(contexts.operation(outside), None);
        }
    }
}
