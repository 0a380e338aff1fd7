//! What the ranks of a node show each other without messages.
//!
//! Every rank has a *board* in the arena, which it alone writes and all others read. On it are a few *posts*, each with a
//! *cell* for what it shows, and words that say how far its rank has read and which call it is in.
//!
//! # Memory order
//! All ranks count *epochs* alike, from 1. What is shown in epoch e is shown in post e mod [`POSTS`], and its cell is a piece
//! of the board's memory that all ranks know alike.
//! 1. Every word and cell has one writer, the board's rank, and no two of what is written at different times share a pair of
//!    cache lines.
//! 2. The writer writes the cell, then the post's signature and its number e by release. A reader loads the number by
//!    acquire, and reads the cell only where it is e. So it sees all that was shown.
//! 3. A reader reads nothing of epoch e any more when it stores its `done = e` by release. The writer loads every other
//!    rank's `done` by acquire and writes for epoch e only when all are e - [`POSTS`] or more, and are as far as the last
//!    epoch whose cell lies where this one's does. So no cell is written while it is read, and no number ever goes back.
//! 4. Whoever has shown something passes a full fence and looks whether others sleep; who lies down says so, passes a full
//!    fence and looks once more. One of the two sees the other, so that no wake-up is lost; and where nobody sleeps nothing
//!    is written that others read. The one who shows may put this off until it waits itself, or its call ends.
//!
//! # What a peer can do wrong
//! It runs as the same user and may write anything. What is read from its board is a number that is compared, a signature
//! that is compared, a wish how to write, and bytes that are copied or reduced; never a length, an index or an address.
//!
//! # Safety
//! Heads are views on the arena's mapping, which lives as long as the [`Board`]; their offsets come from the geometry, which
//! the arena checks. All of their words are atomics. Cells are raw memory here: who turns one into a slice keeps the rules.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::arena::{Arena, Geometry};
use super::post::{Calling, Done, Post, Seen};
use crate::transport::TransportError;

/// All boards of a node, as one rank has them.
#[derive(Debug)]
pub(crate) struct Board {
    /// By local rank; within `arena`.
    heads: Vec<NonNull<Head>>,
    arena: Arc<Arena>,
    me: usize,
}

// SAFETY: the pointers lead into the arena's mapping, which any thread may access, and which the `Arc` keeps; cells are
// accessed by the module's rules, which speak of ranks, and the board's owner is one.
unsafe impl Send for Board {}

impl Board {
    /// Takes a rank's memory for its board and looks at the others'.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when the system has no memory for it.
    pub(crate) fn new(arena: Arc<Arena>, me: usize) -> Result<Self, TransportError> {
        let geometry = arena.geometry();
        arena.reserve(geometry.board_offset(me), board_bytes(geometry))?;
        let head = |rank| {
            let head = arena.raw(geometry.board_offset(rank), board_bytes(geometry)).cast::<Head>();
            assert!(head.is_aligned(), "boards begin at pages");
            head
        };
        Ok(Board { heads: (0..geometry.ranks as usize).map(head).collect(), me, arena })
    }

    /// How many ranks there are.
    pub(crate) fn ranks(&self) -> usize {
        self.heads.len()
    }

    /// Shows what was written to this rank's cell of an epoch.
    pub(crate) fn show(&self, epoch: u64, signature: u64) {
        self.head(self.me).post(epoch).show(epoch, signature);
    }

    /// What is to be seen of a rank's epoch.
    pub(crate) fn seen(&self, rank: usize, epoch: u64) -> Seen {
        self.head(rank).post(epoch).seen(epoch)
    }

    /// Says that this rank reads nothing of an epoch any more, and of no earlier one.
    pub(crate) fn finish(&self, epoch: u64) {
        self.head(self.me).done.0.finish(epoch);
    }

    /// The epoch up to which a rank has read.
    pub(crate) fn done(&self, rank: usize) -> u64 {
        self.head(rank).done.0.epoch()
    }

    /// Bytes that each board has for cells: a power of two, and [`LEAST_CELLS_BYTES`] or more.
    pub(crate) fn cells_bytes(&self) -> usize {
        cells_bytes(self.arena.geometry())
    }

    /// Where a rank's content of an epoch is, of so many bytes, aligned to 16 bytes: beside the post where it fits there; in
    /// the post's own small cell, up to [`SMALL_BYTES`]; or else `offset` bytes from the beginning of the board's cells on.
    ///
    /// # Panics
    ///
    /// When the board ends before the content does.
    pub(crate) fn cell(&self, rank: usize, epoch: u64, offset: usize, len_bytes: usize) -> *mut u8 {
        let head = self.heads[rank].as_ptr().cast::<u8>();
        let offset = if len_bytes <= INLINE_BYTES {
            std::mem::offset_of!(Head, posts) + place(epoch) * size_of::<PostLine>() + size_of::<Post>()
        } else if len_bytes <= SMALL_BYTES {
            HEAD_BYTES + place(epoch) * SMALL_BYTES
        } else {
            assert!(offset + len_bytes <= self.cells_bytes(), "what is shown fits the board");
            HEAD_BYTES + POSTS * SMALL_BYTES + offset
        };
        // SAFETY: within the rank's board, which was checked to be in the mapping.
        unsafe { head.add(offset) }
    }

    /// Tells everybody whether this rank found memory to be nearer than the others' caches.
    pub(crate) fn tell_far(&self, is_far: bool) {
        self.head(self.me).is_far.0.store(u32::from(is_far), Ordering::Relaxed);
    }

    /// What a rank told of that.
    pub(crate) fn is_far(&self, rank: usize) -> bool {
        self.head(rank).is_far.0.load(Ordering::Relaxed) != 0
    }

    /// Says which call this rank is in: one more than its number.
    pub(crate) fn enter(&self, number: u64, signature: u64) {
        self.head(self.me).calling.0.enter(number, signature);
    }

    /// Which call a rank is in, unless that is just changing.
    pub(crate) fn calling(&self, rank: usize) -> Option<(u64, u64)> {
        self.head(rank).calling.0.now()
    }

    /// Whether a rank has closed.
    pub(crate) fn is_closed(&self, rank: usize) -> bool {
        self.arena.is_closed(rank)
    }

    /// Wakes those that sleep, after something was shown.
    pub(crate) fn wake(&self) {
        for rank in (0..self.heads.len()).filter(|&rank| rank != self.me) {
            // Nobody sleeps on a cord: all ranks are on this node, and there is no other transport to sleep on.
            self.arena.bell(rank).ring_if_asleep();
        }
    }

    /// Sleeps until it is woken, for `timeout` at most; not where it is over already.
    pub(crate) fn sleep_unless(&self, timeout: Duration, is_over: impl FnOnce() -> bool) {
        self.arena.bell(self.me).sleep_unless(timeout, is_over);
    }

    /// Tells the others on which processors this rank may run, as a set of bits.
    pub(crate) fn tell_processors(&self, set: [u64; PROCESSOR_WORDS]) {
        for (word, bits) in self.head(self.me).processors.iter().zip(set) {
            word.store(bits, Ordering::Relaxed);
        }
    }

    /// What a rank told of its processors. To be asked when all ranks are known to have told.
    pub(crate) fn processors(&self, rank: usize) -> [u64; PROCESSOR_WORDS] {
        std::array::from_fn(|index| self.head(rank).processors[index].load(Ordering::Relaxed))
    }

    fn head(&self, rank: usize) -> &Head {
        // SAFETY: within the mapping and aligned, both checked when it was made; the arena lives as long as `self`; all
        // fields are atomics, but for content that no reference to a head reaches.
        unsafe { self.heads[rank].as_ref() }
    }
}

/// What is on a board besides cells.
#[derive(Debug)]
#[repr(C)]
struct Head {
    done: Apart<Done>,
    calling: Apart<Calling>,
    is_far: Apart<AtomicU32>,
    processors: [AtomicU64; PROCESSOR_WORDS],
    posts: [PostLine; POSTS],
}

impl Head {
    fn post(&self, epoch: u64) -> &Post {
        &self.posts[place(epoch)].post
    }
}

/// On a pair of cache lines of its own: neighbouring lines are fetched in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
struct Apart<T>(T);

/// A post and what it shows, where that is short.
#[derive(Debug)]
#[repr(C, align(128))]
struct PostLine {
    post: Post,
    /// Reached by address only.
    inline: std::cell::UnsafeCell<[u8; INLINE_BYTES]>,
}

fn place(epoch: u64) -> usize {
    (epoch % POSTS as u64) as usize
}

/// How many epochs a rank may be ahead of the slowest reader.
pub(crate) const POSTS: usize = 16;
/// Words of a set of processors: 1024 of them.
pub(crate) const PROCESSOR_WORDS: usize = 16;
/// What fits beside a post, in the pair of cache lines that says that it is there.
const INLINE_BYTES: usize = 112;
/// What each post has a cell of its own for: so little that all of them stay in a first-level cache.
pub(crate) const SMALL_BYTES: usize = 1024;
const HEAD_BYTES: usize = 4096;
const _: () = assert!(size_of::<Head>() <= HEAD_BYTES);

/// Memory of a board.
pub(super) fn board_bytes(geometry: Geometry) -> usize {
    HEAD_BYTES + POSTS * SMALL_BYTES + cells_bytes(geometry)
}

/// What few ranks have of memory for cells together stays in a third-level cache. With many, each has the least that will do.
fn cells_bytes(geometry: Geometry) -> usize {
    let share = ALL_CELLS_BYTES / geometry.ranks.next_power_of_two() as usize;
    share.clamp(LEAST_CELLS_BYTES, MOST_CELLS_BYTES)
}

/// More than a second-level cache holds, so that what is written again has come to the third.
const MOST_CELLS_BYTES: usize = 2 << 20;
/// Several of the longest cells.
pub(crate) const LEAST_CELLS_BYTES: usize = 512 << 10;
/// Half of a third-level cache.
const ALL_CELLS_BYTES: usize = 16 << 20;
