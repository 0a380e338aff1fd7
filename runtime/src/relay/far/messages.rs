//! Messages of a launch, and how they are cut and passed.
//!
//! Pure. A message of more than [`SHORT_BYTES`] is cut into slices of [`SLICE_BYTES`], of which each goes by a channel and a place of
//! it; a shorter one goes whole, through cells. Slice s, whatever else is sent, is carried by lane s modulo their count, and what is short by
//! the first, so that both ends of a message agree on it without knowing each other's launches.

use efarun_wire::Rank;

use super::parameters::{BLOCKS_MAX, CHANNELS, LONG_MAX, SLICE_BYTES};
#[cfg(doc)]
use crate::relay::parameters::SHORT_BYTES;
use crate::relay::parameters::SPANS_MAX;
use crate::relay::transfer::{Stretch, is_short};

/// One end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarMessage {
    /// The other end's rank.
    pub peer: Rank,
    /// Where it lies on this rank's GPU, or is to lie; not empty.
    pub stretch: Stretch,
}

/// Messages that are on their way at the same time. Of those between two ranks the n-th that one sends is the n-th that the
/// other receives, over all launches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// What is sent.
    pub sends: Vec<FarMessage>,
    /// What is received.
    pub receives: Vec<FarMessage>,
}

impl Messages {
    /// Whether a launch has room for them.
    pub fn fit(&self) -> bool {
        [self.puts(), self.gets()].iter().all(|it| it.count() <= SPANS_MAX && it.long_count() <= LONG_MAX)
    }

    pub(crate) fn puts(&self) -> Direction<'_> {
        Direction(&self.sends)
    }

    pub(crate) fn gets(&self) -> Direction<'_> {
        Direction(&self.receives)
    }

    /// How many of so many lanes have a part in them: the first has always.
    pub(crate) fn lanes(&self, count: usize) -> usize {
        let longest = self.sends.iter().chain(&self.receives).map(|it| it.slices()).max();
        longest.unwrap_or(0).clamp(1, count)
    }

    /// How many blocks pass them.
    pub(crate) fn grid_blocks(&self) -> u32 {
        let of = |direction: Direction<'_>| direction.long_count() * direction.blocks();
        let blocks = (of(self.puts()) + of(self.gets()) + 1) as u32;
        debug_assert!(blocks <= BLOCKS_MAX);
        blocks
    }
}

impl FarMessage {
    pub(crate) fn is_short(&self) -> bool {
        is_short(self.stretch.bytes)
    }

    /// How many slices it has; one where it is short, which goes whole.
    pub(crate) fn slices(&self) -> usize {
        self.stretch.bytes.div_ceil(SLICE_BYTES)
    }

    pub(crate) fn slice_len(&self, slice: usize) -> usize {
        self.stretch.bytes.saturating_sub(slice * SLICE_BYTES).min(SLICE_BYTES)
    }
}

/// What is sent, or what is received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direction<'m>(&'m [FarMessage]);

impl<'m> Direction<'m> {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn long_count(&self) -> usize {
        self.0.iter().filter(|message| !message.is_short()).count()
    }

    /// As the kernel has them: the long ones first.
    pub(crate) fn kernel_order(self) -> impl Iterator<Item = &'m FarMessage> {
        let long = self.0.iter().filter(|message| !message.is_short());
        long.chain(self.0.iter().filter(|message| message.is_short()))
    }

    /// Of each message, in order, its number among the kernel's.
    pub(crate) fn kernel_numbers(self) -> Vec<usize> {
        let (mut long, mut short) = (0, self.long_count());
        let mut number = |message: &FarMessage| {
            let next = if message.is_short() { &mut short } else { &mut long };
            *next += 1;
            *next - 1
        };
        self.0.iter().map(&mut number).collect()
    }

    /// How many channels each long message has, by which its slices go in turn: of each lane as many.
    pub(crate) fn channels(&self) -> usize {
        match self.long_count() {
            ..=4 => CHANNELS / 4,
            _ => CHANNELS / LONG_MAX,
        }
    }

    /// How many blocks each long message has, of which each has as many channels.
    pub(crate) fn blocks(&self) -> usize {
        LONG_MAX / self.long_count().clamp(1, LONG_MAX).next_power_of_two()
    }
}

/// Where a slice goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Of the channels of its direction.
    pub(crate) channel: usize,
    /// How many of the launch's rounds of this channel come before it.
    pub(crate) before: usize,
}

impl Way {
    /// Of a slice of the kernel's so-manieth message of a direction whose messages have so many channels each.
    pub(crate) fn of(number: usize, slice: usize, channels: usize) -> Way {
        Way { channel: number * channels + slice % channels, before: slice / channels }
    }
}
