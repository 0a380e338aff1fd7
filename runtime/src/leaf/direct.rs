//! Leaves on buffers that all ranks of the node reach: one copy instead of two.
//!
//! Before a long call every rank shows whether its buffers are in memory that others reach ([`Region`]), and where. All see the
//! same, and so come to the same answer: either all buffers that the call needs are, or it is done by cells as any other.
//!
//! | collective | must be shared | who does what |
//! |---|---|---|
//! | all_reduce | all inputs and outputs | each reduces its share of all inputs, and writes it to all outputs |
//! | reduce | all inputs, the root's output | each reduces its share of all inputs, and writes it to the root's output |
//! | broadcast | the root's input | the others copy it |
//! | all_gather | all inputs | each copies all |
//! | reduce_scatter | all inputs | each reduces its block of all inputs |
//!
//! In place a share of an output is where the same share of the input is, which nobody reads but the rank that writes it. A
//! call ends when all ranks are done with all buffers.
//!
//! # Safety
//! Between the moment at which all have shown where their buffers are and the one at which all have shown that they are done,
//! all of these are borrowed by calls of their ranks, which do not touch them but by this. What a rank says of its buffers is
//! checked against the region's length. On an error a rank detaches the pages of its output before its call returns
//! ([`Detach`]), so that a late rank cannot write to what the caller has back.
#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::run::{Piece, Place, Run, Shown};
use super::{Leaves, order, stream};
use crate::coll::executor::ExecError;
use crate::coll::leaf::Leaf;
use crate::transport::shm::region::Region;

/// What of a rank's buffers others reach.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) input: *const u8,
    output: *mut u8,
}

// SAFETY: addresses in regions, which any thread may access; used in calls only, by the rules of the page.
unsafe impl Send for Reached {}

impl Default for Reached {
    fn default() -> Self {
        Reached { input: std::ptr::null(), output: std::ptr::null_mut() }
    }
}

/// Where a rank's buffers are, as it is shown: region and offset of each, the region counted from 1, 0 where others do not
/// reach it.
type Whereabouts = [u64; 4];

/// Detaches the output when it goes out of scope, on a panic too, unless all ranks are known to be done with it.
struct Detach {
    region: Arc<Region>,
    rank: usize,
    offset: usize,
    len: usize,
    is_done: bool,
}

impl Drop for Detach {
    fn drop(&mut self) {
        if !self.is_done {
            // SAFETY: this rank is in a call that borrows the output.
            unsafe { self.region.detach(self.rank, self.offset, self.len) };
        }
    }
}

/// What a rank has shown and cannot have.
struct Impossible;

impl Run<'_, '_> {
    /// Whether the buffers of this call may be reached by others: all ranks come to the same answer.
    pub(super) fn asks_where(&self) -> bool {
        !self.leaves.regions.is_empty() && self.len_bytes() >= LEAST_BYTES
    }

    /// Does a leaf's part of this rank, on the buffers themselves if all ranks reach what they need.
    pub(super) fn by_reach(&mut self, leaf: Leaf) -> Result<(), ExecError> {
        let (region, offset) =
            self.leaves.reachable(self.output.cast::<u8>().cast_const(), self.output.len());
        let region = (region as usize).checked_sub(1).map(|index| Arc::clone(&self.leaves.regions[index]));
        let (rank, offset, len) = (self.leaves.me, offset as usize, self.output.len());
        let mut detach = region.map(|region| Detach { region, rank, offset, len, is_done: false });
        let result = self.directly(leaf).and_then(|is_done| if is_done { Ok(()) } else { self.by(leaf) });
        if let Some(detach) = &mut detach {
            detach.is_done = result.is_ok();
        }
        result
    }

    /// Does it on the buffers themselves; says whether it could.
    fn directly(&mut self, leaf: Leaf) -> Result<bool, ExecError> {
        let epoch = self.begin(WHEREABOUTS_BYTES)?;
        let own: Whereabouts = {
            let [input, output] = [
                self.leaves.reachable(self.input.cast::<u8>(), self.input.len()),
                self.leaves.reachable(self.output.cast::<u8>().cast_const(), self.output.len()),
            ];
            [input.0, input.1, output.0, output.1]
        };
        let cell = self.cell(self.leaves.me, epoch, WHEREABOUTS_BYTES);
        // SAFETY: this rank's own cell of an epoch that has begun, as long as this, and aligned for any element.
        unsafe { cell.cast::<Whereabouts>().write(own) };
        self.show(epoch);
        self.await_all(epoch)?;
        let is_reached = self.reach(leaf, epoch)?;
        self.finish(epoch);
        self.leaves.know_finished(epoch - 1);
        self.first = epoch + 1;
        if !is_reached {
            return Ok(false);
        }
        match leaf {
            Leaf::Flags => {}
            Leaf::OneShot | Leaf::TwoShot | Leaf::Fan => self.reduce_share(epoch, None),
            Leaf::Up => self.reduce_share(epoch, Some(self.root)),
            Leaf::Down => self.copy_from_root(),
            Leaf::Spread => self.copy_blocks(),
            Leaf::Collect => self.reduce_block(epoch),
        }
        stream::settle();
        let end = self.begin(0)?;
        self.show(end);
        self.await_all(end)?;
        self.finish(end);
        self.leaves.know_finished(end - 1);
        Ok(true)
    }

    /// Takes in where all ranks' buffers are; says whether everybody reaches what the leaf needs.
    fn reach(&mut self, leaf: Leaf, epoch: u64) -> Result<bool, ExecError> {
        let mut is_reached = true;
        for rank in 0..self.ranks() {
            let cell = self.cell(rank, epoch, WHEREABOUTS_BYTES);
            // SAFETY: what was seen there is as long as this, and aligned; any numbers will do.
            let shown = unsafe { cell.cast::<Whereabouts>().read() };
            let is_root = rank == self.root;
            let (needs_input, needs_output) = match leaf {
                Leaf::Flags => (false, false),
                Leaf::OneShot | Leaf::TwoShot | Leaf::Fan => (true, true),
                Leaf::Up => (true, is_root),
                Leaf::Down => (is_root, false),
                Leaf::Spread | Leaf::Collect => (true, false),
            };
            let len = match leaf {
                // Each has as many; and who is asked for one may have none itself.
                Leaf::Spread | Leaf::Collect => self.input.len(),
                _ => self.len_bytes(),
            };
            let align = self.call.buffers.element().size_bytes();
            let found = [(needs_input, 0), (needs_output, 2)].map(|(is_needed, at)| match is_needed {
                true => self.leaves.address(rank, [shown[at], shown[at + 1]], len, align),
                false => Ok(Some(std::ptr::null_mut())),
            });
            let [Ok(input), Ok(output)] = found else { return Err(self.corrupt(rank, epoch)) };
            is_reached &= input.is_some() && output.is_some();
            let [input, output] = [input, output].map(|it| it.unwrap_or(std::ptr::null_mut()));
            self.leaves.reached[rank] = Reached { input, output };
        }
        Ok(is_reached)
    }

    /// Reduces this rank's share of all inputs, and writes it to all outputs or to the one rank's.
    fn reduce_share(&mut self, epoch: u64, only: Option<usize>) {
        let len = self.len_bytes();
        let share = self.share(Piece { start: 0, len }, self.leaves.me);
        let ranks = self.ranks();
        for index in 0..share.len.div_ceil(BLOCK_BYTES) {
            let block = Piece::of(share.len, BLOCK_BYTES, index);
            let part = Piece { start: share.start + block.start, len: block.len };
            let shown = Shown { part, is_direct: true, ..Shown::of(epoch, len) };
            match only {
                None => self.reduce_all(shown, Place::Block),
                Some(root) => {
                    order::chain(ranks, root).for_each(|merge| self.merge(merge, shown, Place::Block));
                }
            }
            for rank in (0..ranks).filter(|&rank| only.is_none_or(|only| only == rank)) {
                let from = self.leaves.block.as_ptr().cast::<u8>();
                // SAFETY: the share of an output that was checked to be as long as the vector; nobody else reads or writes it
                // now, as the module's page says. The block is as long, and apart.
                unsafe {
                    let to = self.leaves.reached[rank].output.add(part.start);
                    match self.streams {
                        true => stream::copy(from, to, part.len),
                        false => std::ptr::copy_nonoverlapping(from, to, part.len),
                    }
                }
            }
        }
    }

    fn copy_from_root(&mut self) {
        if self.leaves.me != self.root {
            let all = Piece { start: 0, len: self.output.len() };
            self.copy_out(self.leaves.reached[self.root].input, all);
        }
    }

    fn copy_blocks(&mut self) {
        let block = self.input.len();
        self.keep(Piece { start: 0, len: block });
        // Beginning with the next, so that not all read from one.
        for distance in 1..self.ranks() {
            let rank = (self.leaves.me + distance) % self.ranks();
            self.copy_out(self.leaves.reached[rank].input, Piece { start: rank * block, len: block });
        }
    }

    fn reduce_block(&mut self, epoch: u64) {
        let (ranks, me, len) = (self.ranks(), self.leaves.me, self.output.len());
        let element = self.call.buffers.element();
        let is_wide = element.accumulator() != element;
        for index in 0..len.div_ceil(BLOCK_BYTES) {
            let piece = Piece::of(len, BLOCK_BYTES, index);
            let part = Piece { start: me * len + piece.start, len: piece.len };
            let shown = Shown { part, is_wide, is_direct: true, ..Shown::of(epoch, self.input.len()) };
            let into = Place::Output(piece.start);
            order::chain(ranks, (me + 1) % ranks).for_each(|merge| self.merge(merge, shown, into));
        }
    }
}

impl Leaves {
    /// Region and offset of memory of this rank's, the region counted from 1; 0 where others do not reach it.
    fn reachable(&self, start: *const u8, len: usize) -> (u64, u64) {
        let place = self.regions.iter().enumerate().find_map(|(index, region)| {
            let offset = start.addr().checked_sub(region.part(self.me).addr())?;
            let is_within = offset.checked_add(len).is_some_and(|end| end <= region.part_bytes());
            is_within.then_some((index as u64 + 1, offset as u64))
        });
        place.unwrap_or_default()
    }

    /// Where what a rank has shown is: none where others do not reach it; an error where it cannot be.
    fn address(
        &self,
        rank: usize,
        [region, offset]: [u64; 2],
        len: usize,
        align: usize,
    ) -> Result<Option<*mut u8>, Impossible> {
        let Some(index) = (region as usize).checked_sub(1) else { return Ok(None) };
        let (region, offset) = (self.regions.get(index).ok_or(Impossible)?, offset as usize);
        let is_within = offset.checked_add(len).is_some_and(|end| end <= region.part_bytes());
        if !is_within || !offset.is_multiple_of(align) {
            return Err(Impossible);
        }
        // SAFETY: within the part, just checked.
        Ok(Some(unsafe { region.part(rank).add(offset) }))
    }
}

/// From this length on asking where buffers are costs little beside the call.
const LEAST_BYTES: usize = 32 << 10;
const WHEREABOUTS_BYTES: usize = size_of::<Whereabouts>();
/// What is reduced at a time: with as much of every other rank's it stays in a second-level cache.
const BLOCK_BYTES: usize = 16 << 10;
