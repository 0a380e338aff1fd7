//! What is transferred, and how it is cut.
//!
//! Pure. Both ends of a stretch cut it alike: by [`Transfer::slice_bytes`], which they must agree on.

use efarun_wire::Rank;

use super::parameters::{CHANNELS, SHORT_BYTES, SLOT_BYTES, SPANS_MAX};
use crate::cuda::DevicePointer;
use crate::nvlink::{DeviceElement, DeviceOp};

/// Consecutive bytes of a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where they are.
    pub pointer: DevicePointer,
    /// How many.
    pub bytes: usize,
}

/// One rank's part in what GPUs of several nodes give each other. Ranks that ever exchange something make the same transfers, in the same
/// order, and of as many slices: which lane of the hosts carries a slice follows from how many transfers there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// What the GPU gives, [`SPANS_MAX`] at most.
    pub puts: Vec<Stretch>,
    /// Where what it gets goes. With a reduction they are all as long as the first, where the result goes.
    pub gets: Vec<Stretch>,
    /// Who is sent which of the puts. Of the messages between two ranks the n-th that one sends is the n-th that the other
    /// receives.
    pub sends: Vec<(Rank, usize)>,
    /// Who sends which of the gets.
    pub receives: Vec<(Rank, usize)>,
    /// To whom the first get is sent on, when it is here.
    pub passes_on: Vec<Rank>,
    /// What this rank has for itself, and where that goes, as long as the longest put or get at most.
    pub copy: Option<(Stretch, DevicePointer)>,
    /// How what is got becomes one.
    pub reduction: Option<Reduction>,
    /// How long slices are; the same at both ends of every stretch. See [`Transfer::slice_bytes`].
    pub slice_bytes: usize,
}

/// The call that a transfer is a part of, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name.
    pub operation: &'static str,
    /// Its number among such calls, from 0.
    pub sequence: u32,
}

/// How the nodes' parts become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduction {
    /// This node's part.
    pub own: DevicePointer,
    /// How many nodes' parts come before it.
    pub place: u32,
    /// What they are made of.
    pub element: DeviceElement,
    /// How they are reduced. A factor is this node's part's, also where that is put.
    pub op: DeviceOp,
    /// By how many an average is divided.
    pub ranks: u32,
}

impl Transfer {
    /// A length of slices for stretches of so many bytes, of which one rank puts or gets so many: short ones, so that several
    /// are on their way, and no longer than there is room for.
    pub fn slice_bytes(bytes: usize, stretches_max: usize) -> usize {
        let room = SLOT_BYTES / stretches_max.clamp(1, SPANS_MAX) / UNIT_BYTES * UNIT_BYTES;
        let share = bytes.div_ceil(CHANNELS / 2).next_multiple_of(UNIT_BYTES);
        share.clamp(SLICE_BYTES_MIN.min(room), SLICE_BYTES_MAX.min(room))
    }

    /// How many slices the longest stretch has.
    pub fn slices(&self) -> usize {
        let longest = self.puts.iter().chain(&self.gets).map(|it| it.bytes).max().unwrap_or(0);
        longest.div_ceil(self.slice_bytes.max(1))
    }

    /// Whether one block does it, in one slice and through cells alone.
    pub fn is_short(&self) -> bool {
        self.slices() == 1 && self.puts.iter().chain(&self.gets).all(|stretch| is_short(stretch.bytes))
    }

    /// Whether each rank only gives or only gets, which is the same on all of them.
    pub fn goes_one_way(&self) -> bool {
        self.puts.is_empty() || self.gets.is_empty()
    }

    /// By how many channels they go, a block for each.
    pub(crate) fn blocks(&self) -> u32 {
        self.slices().min(CHANNELS) as u32
    }
}

/// The slice of a stretch of so many bytes.
pub(crate) fn part_len(bytes: usize, slice: usize, slice_bytes: usize) -> usize {
    bytes.saturating_sub(slice * slice_bytes).min(slice_bytes)
}

/// Whether a stretch of so many bytes goes through cells, whole and with the first slice.
pub(crate) fn is_short(bytes: usize) -> bool {
    bytes <= SHORT_BYTES
}

/// What a block's threads move at once.
const UNIT_BYTES: usize = 8 << 10;
/// Below this a slice costs its own way and no more.
const SLICE_BYTES_MIN: usize = 32 << 10;
const SLICE_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_fit_the_room_and_cover_a_stretch() {
        for bytes in [1, 8, 40_000, 1 << 20, (1 << 24) + 3] {
            for stretches in [1, 2, 7, SPANS_MAX] {
                let slice_bytes = Transfer::slice_bytes(bytes, stretches);
                assert!(slice_bytes * stretches <= SLOT_BYTES && slice_bytes.is_multiple_of(UNIT_BYTES));
                let stretch = Stretch { pointer: DevicePointer(0), bytes };
                let transfer = Transfer { puts: vec![stretch], slice_bytes, ..Transfer::default() };
                let covered: usize =
                    (0..transfer.slices()).map(|slice| part_len(bytes, slice, slice_bytes)).sum();
                assert_eq!(covered, bytes);
                assert_eq!(part_len(bytes, transfer.slices(), slice_bytes), 0);
            }
        }
    }
}
