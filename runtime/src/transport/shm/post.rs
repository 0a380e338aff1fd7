//! The words by which ranks of a node show and see without messages, and their order (the board's page says what for).
//!
//! Only atomics: no memory, no address and no sleep, so that loom can take every interleaving of them
//! (`tests/loom.rs`). Each word has one writer.

use super::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Says that a rank has shown something.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Post {
    number: AtomicU64,
    signature: AtomicU64,
}

/// What is to be seen of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not yet this epoch.
    Nothing,
    /// This epoch, by a call of this signature; what was written before it can be read.
    Shown(u64),
    /// A later epoch, which cannot be before this one was seen by all.
    Later(u64),
}

impl Post {
    /// Shows what was written for an epoch.
    pub(super) fn show(&self, epoch: u64, signature: u64) {
        self.signature.store(signature, Ordering::Relaxed);
        self.number.store(epoch, Ordering::Release);
    }

    /// What is to be seen of an epoch.
    pub(super) fn seen(&self, epoch: u64) -> Seen {
        match self.number.load(Ordering::Acquire) {
            number if number < epoch => Seen::Nothing,
            number if number == epoch => Seen::Shown(self.signature.load(Ordering::Relaxed)),
            number => Seen::Later(number),
        }
    }
}

/// How far a rank has read.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Done {
    epoch: AtomicU64,
}

impl Done {
    /// Says that all of an epoch has been read.
    pub(super) fn finish(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// The last epoch of which that was said.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

/// Which call a rank is in, by whatever path.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Calling {
    /// One more than the call's number.
    number: AtomicU64,
    /// By the number's lowest bit, so that the signature of a call that is looked at is not overwritten by the next.
    signatures: [AtomicU64; 2],
}

impl Calling {
    /// Says which call begins.
    pub(crate) fn enter(&self, number: u64, signature: u64) {
        // Released too: who sees it sees that the number behind it has left the call before.
        self.signatures[(number & 1) as usize].store(signature, Ordering::Release);
        self.number.store(number, Ordering::Release);
    }

    /// Number and signature of the call, unless it is just changing.
    pub(crate) fn now(&self) -> Option<(u64, u64)> {
        let number = self.number.load(Ordering::Acquire);
        let signature = self.signatures[(number & 1) as usize].load(Ordering::Acquire);
        (self.number.load(Ordering::Relaxed) == number).then_some((number, signature))
    }
}

/// Says in its bell's word that a rank sleeps, and returns the word as it was. Whoever shows something and then looks by
/// [`sleeps`] finds this, or it was shown early enough for this rank to see it now: both have a full fence between
/// what they write and what they read.
pub(super) fn lie_down(word: &AtomicU32, bit: u32) -> u32 {
    let before = word.fetch_or(bit, Ordering::AcqRel);
    fence(Ordering::SeqCst);
    before
}

/// Whether the rank of a bell's word sleeps, for whoever has shown something before.
pub(super) fn sleeps(word: &AtomicU32, bits: u32) -> bool {
    fence(Ordering::SeqCst);
    word.load(Ordering::Relaxed) & bits != 0
}
