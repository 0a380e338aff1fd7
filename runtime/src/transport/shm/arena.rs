//! The memory that the ranks of one node share for what they say to each other.
//!
//! One [`Mapping`]: a page that says what it is, a bell, a `closed` word and a cord per rank, then a board per rank and a ring
//! per ordered pair.
//!
//! # Safety
//! Offsets come from [`Geometry`], which is checked once, and stay below the mapping's length. Everything but payloads is
//! accessed as atomics.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::bell::Bell;
use super::board::board_bytes;
use super::mapping::{Kind, Mapping, Offer, PAGE_BYTES};
use crate::transport::TransportError;

/// A node's shared memory, mapped.
#[derive(Debug)]
pub struct Arena {
    memory: Mapping,
    geometry: Geometry,
}

impl Arena {
    /// Makes an arena that is empty and not yet known to anybody.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when the system has no memory or descriptor for it.
    pub fn create(geometry: Geometry) -> Result<Self, TransportError> {
        let memory = Mapping::create(geometry.arena_bytes(), geometry.kind(), &geometry)?;
        memory.reserve(0, geometry.boards_offset())?;
        Ok(Arena { memory, geometry })
    }

    /// Opens the arena that another rank of this node offered.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when it cannot be opened, or is not what was offered.
    pub fn open(offer: &Offer, geometry: Geometry) -> Result<Self, TransportError> {
        let memory = Mapping::open(offer, geometry.arena_bytes(), geometry.kind(), &geometry)?;
        Ok(Arena { memory, geometry })
    }

    /// What another rank needs to open this arena. Good for as long as the arena lives.
    pub fn offer(&self) -> Offer {
        self.memory.offer()
    }

    /// How it is laid out.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The bell of a local rank.
    pub(super) fn bell(&self, local_rank: usize) -> Bell<'_> {
        Bell::new(self.word32(self.geometry.bell_offset(local_rank)))
    }

    /// Whether a local rank has closed.
    pub(super) fn is_closed(&self, local_rank: usize) -> bool {
        self.word32(self.geometry.bell_offset(local_rank) + CLOSED_OFFSET).load(Ordering::Acquire) != 0
    }

    /// Says that a local rank closes. Called by that rank only.
    pub(super) fn mark_closed(&self, local_rank: usize) {
        self.word32(self.geometry.bell_offset(local_rank) + CLOSED_OFFSET).store(1, Ordering::Release);
    }

    /// Where a local rank's cord is: the process and its descriptor. None where it has shown none.
    pub(super) fn cord(&self, local_rank: usize) -> Option<(u32, u32)> {
        let word = self.word64(self.geometry.bell_offset(local_rank) + CORD_OFFSET).load(Ordering::Acquire);
        (word != 0).then_some(((word >> 32) as u32, word as u32))
    }

    /// Shows where a local rank's cord is. Called by that rank only.
    pub(super) fn show_cord(&self, local_rank: usize, pid: u32, fd: u32) {
        let word = u64::from(pid) << 32 | u64::from(fd);
        self.word64(self.geometry.bell_offset(local_rank) + CORD_OFFSET).store(word, Ordering::Release);
    }

    /// Takes memory for a range of the arena, so that touching it later cannot fail.
    pub(super) fn reserve(&self, offset: usize, len_bytes: usize) -> Result<(), TransportError> {
        self.memory.reserve(offset, len_bytes)
    }

    /// The 32-bit word at an offset.
    pub(super) fn word32(&self, offset: usize) -> &AtomicU32 {
        self.memory.word32(offset)
    }

    /// The 64-bit word at an offset.
    pub(super) fn word64(&self, offset: usize) -> &AtomicU64 {
        self.memory.word64(offset)
    }

    /// Copies bytes into the arena.
    ///
    /// # Safety
    ///
    /// The range belongs to the caller: by rule 4 nobody reads it now.
    pub(super) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.raw(offset, bytes.len());
        // SAFETY: the target is within the mapping; `bytes` is no part of the arena, for a caller's buffer never
        // is; and nobody else accesses the target, as the caller promises.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.as_ptr(), bytes.len()) };
    }

    /// Shows bytes of the arena.
    ///
    /// # Safety
    ///
    /// The range belongs to the caller while it holds the result: by rule 3 it was published, by rule 4 it is not
    /// overwritten before it is released.
    pub(super) unsafe fn read(&self, offset: usize, len_bytes: usize) -> &[u8] {
        let source = self.raw(offset, len_bytes);
        // SAFETY: within the mapping, which the borrow keeps; not written meanwhile by a rank that keeps the rules.
        // One that breaks them runs as the same user, and what it can do to this slice is to change bytes that are
        // only ever reduced or copied.
        unsafe { std::slice::from_raw_parts(source.as_ptr(), len_bytes) }
    }

    /// A range of the arena as raw memory.
    pub(super) fn raw(&self, offset: usize, len_bytes: usize) -> NonNull<u8> {
        self.memory.range(offset, len_bytes)
    }
}

/// How an arena is laid out; the same on every rank of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Ranks on the node.
    pub ranks: u32,
    /// Slots per ring.
    pub slots: u32,
    /// Payload bytes of a slot.
    pub slot_bytes: u32,
}

impl Geometry {
    /// The layout for so many ranks: rings of 8 slots of 64 KiB.
    pub fn new(ranks: u32) -> Self {
        Geometry { ranks, slots: 8, slot_bytes: 64 << 10 }
    }

    fn kind(self) -> Kind {
        Kind([u64::from(self.ranks), u64::from(self.slots) << 32 | u64::from(self.slot_bytes)])
    }

    fn arena_bytes(self) -> usize {
        self.rings_offset() + self.ranks as usize * self.ranks as usize * self.ring_bytes()
    }

    fn bell_offset(self, local_rank: usize) -> usize {
        PAGE_BYTES + local_rank * BELL_BYTES
    }

    fn boards_offset(self) -> usize {
        self.bell_offset(self.ranks as usize).next_multiple_of(PAGE_BYTES)
    }

    /// Where a local rank's board begins: at a page.
    pub(super) fn board_offset(self, local_rank: usize) -> usize {
        self.boards_offset() + local_rank * board_bytes(self)
    }

    fn rings_offset(self) -> usize {
        self.board_offset(self.ranks as usize).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of one ring: a page of control words, then the slots' payloads.
    pub(super) fn ring_bytes(self) -> usize {
        debug_assert!((1 + self.slots as usize) * SLOT_HEADER_BYTES <= PAGE_BYTES);
        (PAGE_BYTES + self.slots as usize * self.slot_bytes as usize).next_multiple_of(PAGE_BYTES)
    }

    /// Where the ring from one local rank to another begins.
    pub(super) fn ring_offset(self, from: usize, to: usize) -> usize {
        self.rings_offset() + (from * self.ranks as usize + to) * self.ring_bytes()
    }

    /// Where a slot's header lies within its ring.
    pub(super) fn slot_header_offset(self, slot: usize) -> usize {
        (1 + slot) * SLOT_HEADER_BYTES
    }

    /// Where a slot's payload lies within its ring.
    pub(super) fn payload_offset(self, slot: usize) -> usize {
        PAGE_BYTES + slot * self.slot_bytes as usize
    }
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shared memory for {} ranks, {} bytes, mostly unused", self.ranks, self.arena_bytes())
    }
}

/// Two cache lines: neighbouring lines are fetched in pairs.
const BELL_BYTES: usize = 128;
const CLOSED_OFFSET: usize = 4;
const CORD_OFFSET: usize = 8;
const SLOT_HEADER_BYTES: usize = 64;
