//! The two ends of one ring: slots from one local rank to another (rules 2, 3 and 4 of the module above).
//!
//! # Safety
//! Payload ranges are handed to the arena only while the rules say that they are this end's.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering;

use efarun_wire::Rank;

use super::arena::{Arena, Geometry};
use crate::transport::{Header, Message, TransportError};

/// The end that writes.
#[derive(Debug)]
pub(super) struct SendEnd {
    ring: Ring,
    /// Number of the next message.
    next: u64,
    /// Whether the receiver was seen to have opened its end.
    ready: bool,
}

impl SendEnd {
    pub(super) fn new(peer: Rank, from: usize, to: usize) -> Self {
        SendEnd { ring: Ring { peer, from, to }, next: 0, ready: false }
    }

    /// Copies a message into the next slot and publishes it; `false` if no slot is free.
    pub(super) fn try_send(
        &mut self,
        arena: &Arena,
        header: Header,
        payload: &[u8],
    ) -> Result<bool, TransportError> {
        let geometry = arena.geometry();
        assert!(payload.len() <= geometry.slot_bytes as usize, "a message fits a slot");
        let base = self.ring.base(geometry);
        self.ready = self.ready || arena.word32(base + OPENED_OFFSET).load(Ordering::Acquire) != 0;
        if !self.ready {
            return Ok(false);
        }
        let released = arena.word64(base + RELEASED_OFFSET).load(Ordering::Acquire);
        match self.next.checked_sub(released) {
            Some(used) if used < u64::from(geometry.slots) => {}
            Some(used) if used == u64::from(geometry.slots) => return Ok(false),
            _ => {
                let what = format!("it released {released} messages of the {} sent to it", self.next);
                return Err(self.ring.corrupt(&what));
            }
        }
        let slot = self.ring.slot_of(self.next, geometry);
        // SAFETY: the slot's last message was released (rule 4), or it never had one and the ring is open (rule 2);
        // until the store below it belongs to this end.
        unsafe { arena.write(base + geometry.payload_offset(slot), payload) };
        let words = base + geometry.slot_header_offset(slot);
        arena.word64(words + SIGNATURE_OFFSET).store(header.signature, Ordering::Relaxed);
        arena.word32(words + SEQUENCE_OFFSET).store(header.sequence, Ordering::Relaxed);
        let len_bytes = u32::try_from(payload.len()).expect("a slot is smaller than 4 GiB");
        arena.word32(words + LEN_OFFSET).store(len_bytes, Ordering::Relaxed);
        self.next += 1;
        arena.word64(words + NUMBER_OFFSET).store(self.next, Ordering::Release);
        Ok(true)
    }
}

/// The end that reads.
#[derive(Debug)]
pub(super) struct ReceiveEnd {
    ring: Ring,
    /// Number of the message that is awaited or held.
    next: u64,
}

impl ReceiveEnd {
    /// Takes the ring's memory and tells the sender that it may begin.
    pub(super) fn open(arena: &Arena, peer: Rank, from: usize, to: usize) -> Result<Self, TransportError> {
        let ring = Ring { peer, from, to };
        let geometry = arena.geometry();
        let base = ring.base(geometry);
        arena.reserve(base, geometry.ring_bytes())?;
        arena.word32(base + OPENED_OFFSET).store(1, Ordering::Release);
        Ok(ReceiveEnd { ring, next: 0 })
    }

    /// The next message, if it was published.
    pub(super) fn arrived<'a>(&self, arena: &'a Arena) -> Result<Option<Message<'a>>, TransportError> {
        let geometry = arena.geometry();
        let base = self.ring.base(geometry);
        let slot = self.ring.slot_of(self.next, geometry);
        let words = base + geometry.slot_header_offset(slot);
        let number = arena.word64(words + NUMBER_OFFSET).load(Ordering::Acquire);
        if number != self.next + 1 {
            let before = (self.next + 1).saturating_sub(u64::from(geometry.slots));
            if number == before {
                return Ok(None);
            }
            let what = format!("a slot that awaits message {} holds number {number}", self.next + 1);
            return Err(self.ring.corrupt(&what));
        }
        let header = Header {
            signature: arena.word64(words + SIGNATURE_OFFSET).load(Ordering::Relaxed),
            sequence: arena.word32(words + SEQUENCE_OFFSET).load(Ordering::Relaxed),
            len_bytes: arena.word32(words + LEN_OFFSET).load(Ordering::Relaxed),
        };
        if header.len_bytes > geometry.slot_bytes {
            let what = format!(
                "its message of {} bytes is larger than a slot of {}",
                header.len_bytes, geometry.slot_bytes
            );
            return Err(self.ring.corrupt(&what));
        }
        // SAFETY: published (rule 3) and not released by this end, which alone can do so (rule 4). The message
        // borrows the arena; the transport hands it out under a borrow of itself, so `release` comes after it.
        let payload = unsafe { arena.read(base + geometry.payload_offset(slot), header.len_bytes as usize) };
        Ok(Some(Message { header, payload }))
    }

    /// Gives the slot back.
    pub(super) fn release(&mut self, arena: &Arena) {
        self.next += 1;
        let base = self.ring.base(arena.geometry());
        arena.word64(base + RELEASED_OFFSET).store(self.next, Ordering::Release);
    }
}

/// Which ring it is.
#[derive(Debug, Clone, Copy)]
struct Ring {
    /// The rank at the other end.
    peer: Rank,
    from: usize,
    to: usize,
}

impl Ring {
    fn base(self, geometry: Geometry) -> usize {
        geometry.ring_offset(self.from, self.to)
    }

    fn slot_of(self, number: u64, geometry: Geometry) -> usize {
        (number % u64::from(geometry.slots)) as usize
    }

    fn corrupt(self, what: &str) -> TransportError {
        let cause = format!("shared memory is corrupt: {what}");
        TransportError::PeerLost { peer: self.peer, cause }
    }
}

const RELEASED_OFFSET: usize = 0;
const OPENED_OFFSET: usize = 8;

const NUMBER_OFFSET: usize = 0;
const SIGNATURE_OFFSET: usize = 8;
const SEQUENCE_OFFSET: usize = 16;
const LEN_OFFSET: usize = 20;
