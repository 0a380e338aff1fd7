//! A call by a leaf under way, and what its steps are made of: to begin an epoch, show, await, reduce, copy.
//!
//! # Safety
//! Cells are read and written by the board's rules: a rank's own cell of an epoch between [`Run::begin`], which waits for the
//! readers of what lay there before, and `show`; another's between its being seen and `finish`. The caller's memory is
//! borrowed by the call's `Buffers`; where input and output are one memory, no piece of the output is written before the
//! same piece of the input was copied to a cell, or it is the destination of the very reduction that reads it, or nobody
//! reads it.
#![allow(unsafe_code)]

use std::time::Instant;

use super::nearness::{self, Act, Manner};
use super::order::{Merge, Operand};
use super::{CELL_WORDS, Leaves, stream};
use crate::coll::collective::Collective;
use crate::coll::executor::signature::Signature;
use crate::coll::executor::{Call, ExecError, Interrupt};
use crate::coll::fault::Wait;
use crate::coll::leaf::CELL_BYTES;
use crate::coll::reduce::{Source, Target, reduce_into};
use crate::coll::schedule::Span;
use crate::element::ReduceOp;
use crate::transport::shm::Seen;
use crate::transport::shm::board::{Board, SMALL_BYTES};

/// A call under way.
pub(super) struct Run<'r, 'a> {
    pub(super) leaves: &'r mut Leaves,
    pub(super) call: Call<'a>,
    pub(super) signature: Signature,
    pub(super) input: *const [u8],
    pub(super) output: *mut [u8],
    pub(super) root: usize,
    /// Whether what all ranks of the node give is what all ranks give.
    is_whole: bool,
    /// Whether the output is written past the caches.
    pub(super) streams: bool,
    /// The call's first epoch.
    pub(super) first: u64,
    /// How many epochs of the call are behind this rank.
    pub(super) step: usize,
    pub(super) interrupt: &'r mut dyn FnMut() -> Option<Interrupt>,
}

/// Consecutive bytes of a vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) len: usize,
}

impl Piece {
    /// Of a vector that is cut into pieces no longer than `longest`.
    pub(super) fn of(vector_len: usize, longest: usize, index: usize) -> Self {
        let start = index * longest;
        Piece { start, len: longest.min(vector_len - start) }
    }
}

/// Where a result goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// To the output, from this byte on.
    Output(usize),
    /// To this rank's cell of an epoch.
    Cell(u64),
    /// To memory of this rank's own, to be copied on.
    Block,
}

/// What is reduced: a part of what all ranks have shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) epoch: u64,
    /// Bytes that each has shown.
    pub(super) len: usize,
    /// The part, within them.
    pub(super) part: Piece,
    /// Where the part is in the input of this rank, if that has not shown it.
    pub(super) own_at: Option<usize>,
    /// Whether partial results are accumulators.
    pub(super) is_wide: bool,
    /// Whether it is in the ranks' own buffers, and not in cells.
    pub(super) is_direct: bool,
}

impl Shown {
    /// All of what was shown in an epoch, by everybody.
    pub(super) fn of(epoch: u64, len: usize) -> Self {
        Shown { epoch, len, part: Piece { start: 0, len }, own_at: None, is_wide: false, is_direct: false }
    }
}

impl<'r, 'a> Run<'r, 'a> {
    pub(super) fn new(
        leaves: &'r mut Leaves,
        collective: Collective,
        signature: Signature,
        call: Call<'a>,
        is_whole: bool,
        interrupt: &'r mut dyn FnMut() -> Option<Interrupt>,
    ) -> Self {
        let (input_len, output_len) = call.buffers.lens();
        let input = call.buffers.raw(Span::input(0, input_len)).cast_const();
        let output = call.buffers.raw(Span::output(0, output_len));
        // Where all is in place the output's lines have just been read.
        let is_long = output.len() >= STREAM_BYTES && !std::ptr::addr_eq(input, output);
        let streams = is_long && !leaves.warmth.take(output, input_len);
        let root = collective.root().map_or(0, |root| root.index());
        let first = leaves.places.epoch() + 1;
        Run { leaves, call, signature, input, output, root, is_whole, streams, first, step: 0, interrupt }
    }
}

impl Run<'_, '_> {
    pub(super) fn ranks(&self) -> usize {
        self.leaves.board.ranks()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len_bytes() == 0
    }

    /// Bytes of the longer buffer, which is the vector where all ranks give or get all of it.
    pub(super) fn len_bytes(&self) -> usize {
        self.input.len().max(self.output.len())
    }

    /// Pieces of so many bytes.
    pub(super) fn pieces(&self, len: usize) -> usize {
        len.div_ceil(CELL_BYTES)
    }

    pub(super) fn piece(&self, len: usize, index: usize) -> Piece {
        Piece::of(len, CELL_BYTES, index)
    }

    /// A rank's share of a piece, within it: whole cache lines, but for the last.
    pub(super) fn share(&self, piece: Piece, rank: usize) -> Piece {
        let len = piece.len.div_ceil(self.ranks()).next_multiple_of(SHARE_BYTES);
        let start = (rank * len).min(piece.len);
        Piece { start, len: len.min(piece.len - start) }
    }

    /// The next epoch, in which this rank shows something: its cell of so many bytes is free then.
    pub(super) fn begin(&mut self, len: usize) -> Result<u64, ExecError> {
        let epoch = self.skip(len);
        let needed = self.leaves.places.needed();
        if needed > self.leaves.finished_by_all {
            self.await_readers(needed)?;
        }
        Ok(epoch)
    }

    /// The next epoch, in which this rank shows nothing, and others so many bytes.
    pub(super) fn skip(&mut self, len: usize) -> u64 {
        self.leaves.places.next(if len <= SMALL_BYTES { 0 } else { len })
    }

    fn await_readers(&mut self, needed: u64) -> Result<(), ExecError> {
        for rank in self.others() {
            let is_over = |board: &Board| board.done(rank) >= needed;
            self.wait(Wait::Credit { to: self.leaves.node[rank] }, is_over)?;
        }
        let done = self.others().map(|rank| self.leaves.board.done(rank)).min();
        self.leaves.know_finished(done.unwrap_or(needed));
        Ok(())
    }

    /// Where a rank's content of an epoch is.
    pub(super) fn cell(&self, rank: usize, epoch: u64, len: usize) -> *mut u8 {
        self.leaves.board.cell(rank, epoch, self.leaves.places.offset(epoch), len)
    }

    /// Shows a piece of the input in the next epoch.
    pub(super) fn show_input(&mut self, index: usize) -> Result<u64, ExecError> {
        let piece = self.piece(self.input.len(), index);
        self.show_by(piece.len, |run, cell, is_past| run.write(piece, cell, is_past))
    }

    /// Shows the same piece of every other rank's block of the input in the next epoch, one behind the other.
    pub(super) fn show_blocks(&mut self, piece: Piece) -> Result<u64, ExecError> {
        let (ranks, block) = (self.ranks(), self.input.len() / self.ranks());
        self.show_by(ranks * piece.len, |run, cell, is_past| {
            for rank in run.others() {
                // SAFETY: a part of the cell, which is as long as all of them.
                let part = unsafe { cell.add(rank * piece.len) };
                run.write(Piece { start: rank * block + piece.start, ..piece }, part, is_past);
            }
        })
    }

    /// Shows in the next epoch what `write` writes to this rank's cell of so many bytes, past the caches or not.
    fn show_by(&mut self, len: usize, write: impl FnOnce(&Self, *mut u8, bool)) -> Result<u64, ExecError> {
        let epoch = self.begin(len)?;
        let (cell, is_past) = (self.cell(self.leaves.me, epoch, len), self.is_past(epoch, len));
        self.timed(Act::Write, epoch, len, |run| {
            write(run, cell, is_past);
            if is_past {
                stream::settle();
            }
        });
        self.show(epoch);
        Ok(epoch)
    }

    /// Writes a piece of the input to this rank's cell of an epoch that has begun, or to a part of it.
    fn write(&self, piece: Piece, to: *mut u8, is_past: bool) {
        let Piece { start, len } = piece;
        assert!(start + len <= self.input.len(), "a piece is within the input");
        // SAFETY: within the input, just checked; the cell is this rank's own, of an epoch that has begun, and apart from the
        // caller's memory.
        unsafe {
            let from = self.input.cast::<u8>().add(start);
            match is_past {
                true => stream::copy(from, to, len),
                false => std::ptr::copy_nonoverlapping(from, to, len),
            }
        }
    }

    /// Shows a piece of the output, in which the result is.
    pub(super) fn show_result(&mut self, epoch: u64, piece: Piece) {
        let cell = self.cell(self.leaves.me, epoch, piece.len);
        assert!(piece.start + piece.len <= self.output.len(), "a piece is within the output");
        // SAFETY: within the output, just checked, and this rank's own cell of an epoch that has begun; they are apart.
        unsafe { std::ptr::copy_nonoverlapping(self.output.cast::<u8>().add(piece.start), cell, piece.len) };
        self.show(epoch);
    }

    pub(super) fn show(&mut self, epoch: u64) {
        self.leaves.board.show(epoch, self.signature.0);
        self.leaves.owes_wake = true;
    }

    pub(super) fn finish(&mut self, epoch: u64) {
        self.leaves.board.finish(epoch);
        self.leaves.owes_wake = true;
        self.step += 1;
    }

    /// Wakes others in the middle of a call, where they may wait for what is behind this rank.
    pub(super) fn wake_between(&mut self, index: usize, count: usize) {
        if index + 1 < count {
            self.leaves.wake();
        }
    }

    /// Puts what was written to the output before everything that is written later.
    pub(super) fn settle(&self) {
        if self.streams {
            stream::settle();
        }
    }

    /// Whether cells of an epoch, of so many bytes, are written past the caches: where a rank wants it, or to find out.
    fn is_past(&self, epoch: u64, len: usize) -> bool {
        match nearness::sample(epoch, len) {
            Some(manner) => manner == Manner::Past,
            None => len >= PAST_BYTES && (0..self.ranks()).any(|rank| self.leaves.board.is_far(rank)),
        }
    }

    /// Reads by `read` what was shown.
    pub(super) fn reading(&mut self, shown: Shown, read: impl FnOnce(&mut Self)) {
        self.timed(Act::Read, shown.epoch, shown.len, read);
    }

    /// Does something to a cell, and takes the time of it where that is a sample.
    fn timed(&mut self, act: Act, epoch: u64, len: usize, work: impl FnOnce(&mut Self)) {
        let Some(manner) = nearness::sample(epoch, len) else { return work(self) };
        let since = Instant::now();
        work(self);
        if let Some(is_far) = self.leaves.nearness.take(manner, act, len, since.elapsed()) {
            self.leaves.board.tell_far(is_far);
        }
    }

    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.leaves.me;
        (0..self.ranks()).filter(move |&rank| rank != me)
    }

    pub(super) fn await_all(&mut self, epoch: u64) -> Result<(), ExecError> {
        self.others().try_for_each(|rank| self.await_one(rank, epoch))
    }

    /// Waits until a rank has shown an epoch, by a call of this one's signature.
    pub(super) fn await_one(&mut self, rank: usize, epoch: u64) -> Result<(), ExecError> {
        let from = self.leaves.node[rank];
        self.wait(Wait::Message { from }, |board| board.seen(rank, epoch) != Seen::Nothing)?;
        match self.leaves.board.seen(rank, epoch) {
            Seen::Shown(signature) if signature == self.signature.0 => Ok(()),
            Seen::Shown(signature) => Err(self.mismatch(rank, Signature(signature))),
            Seen::Nothing | Seen::Later(_) => Err(self.corrupt(rank, epoch)),
        }
    }

    /// Reduces what all ranks have shown.
    pub(super) fn reduce_all(&mut self, shown: Shown, into: Place) {
        for index in 0..self.leaves.doubling.len() {
            self.merge(self.leaves.doubling[index], shown, into);
        }
    }

    pub(super) fn merge(&mut self, merge: Merge, shown: Shown, into: Place) {
        let len = shown.part.len;
        if len == 0 {
            return;
        }
        let (element, op) = (self.call.buffers.element(), self.call.op);
        let wide_len = len / element.size_bytes() * element.accumulator().size_bytes();
        let is_wide = shown.is_wide && merge.into != 0;
        let result_len = if is_wide { wide_len } else { len };
        let result = self.target(merge.into, result_len, into);
        let (left, right) = (self.operand(merge.left, shown, into), self.operand(merge.right, shown, into));
        let divisor = (merge.completes && self.is_whole && op == ReduceOp::Avg).then(|| self.ranks() as u32);
        let source = |operand: Operand, address: *const u8| {
            if std::ptr::addr_eq(address, result) {
                return Source::Destination;
            }
            let is_wide = shown.is_wide && matches!(operand, Operand::Partial(_));
            // SAFETY: as many bytes of a cell that was seen and is not finished, of the input, or of a partial result, which
            // is as long as it was written: nobody writes there before this merge is done, for the destination is apart
            // from them, and is all that this rank writes to.
            let bytes = unsafe { std::slice::from_raw_parts(address, if is_wide { wide_len } else { len }) };
            if is_wide { Source::Wide(bytes) } else { Source::Elements(bytes) }
        };
        let (left, right) = (source(merge.left, left), source(merge.right, right));
        let past = match into {
            Place::Output(_) => self.streams,
            Place::Cell(epoch) => self.is_past(epoch, len),
            Place::Block => false,
        };
        if let (Source::Elements(left), Source::Elements(right), 0, true) = (left, right, merge.into, past) {
            // SAFETY: as many bytes of the output or of this rank's cell, and the operands are apart, as below.
            unsafe { stream::reduce(element, op, divisor, result, left, right) };
            if let Place::Cell(_) = into {
                stream::settle();
            }
            return;
        }
        // SAFETY: as many bytes of the output, of this rank's cell of an epoch that has begun and is not shown, or of a
        // partial result. An operand that begins there is the destination itself, and no slice was made of it; the others
        // are apart: cells and partial results always are, and of an input that shares memory with the output only the
        // place is read that is written.
        let result = unsafe { std::slice::from_raw_parts_mut(result, result_len) };
        let target = if is_wide { Target::Wide(result) } else { Target::Elements(result) };
        reduce_into(element, op, divisor, target, left, right);
    }

    /// Where a partial result of so many bytes goes; number 0 is the result.
    fn target(&mut self, number: usize, len: usize, into: Place) -> *mut u8 {
        match (number, into) {
            (0, Place::Output(start)) => {
                assert!(start + len <= self.output.len(), "a piece is within the output");
                // SAFETY: just checked.
                unsafe { self.output.cast::<u8>().add(start) }
            }
            (0, Place::Cell(epoch)) => self.cell(self.leaves.me, epoch, len),
            (0, Place::Block) => {
                assert!(len <= size_of_val(&*self.leaves.block), "a block is no longer than a cell");
                self.leaves.block.as_mut_ptr().cast()
            }
            (number, _) => {
                let words = &mut self.leaves.partials[(number - 1) * CELL_WORDS..number * CELL_WORDS];
                assert!(len <= size_of_val(words), "a partial result is no longer than a cell");
                words.as_mut_ptr().cast()
            }
        }
    }

    fn operand(&mut self, operand: Operand, shown: Shown, into: Place) -> *const u8 {
        let Shown { epoch, len, part, own_at, is_direct, .. } = shown;
        match (operand, own_at) {
            (Operand::Partial(number), _) => self.target(number, part.len, into),
            (Operand::Rank(rank), Some(start)) if rank == self.leaves.me => {
                assert!(start + part.len <= self.input.len(), "a piece is within the input");
                // SAFETY: just checked.
                unsafe { self.input.cast::<u8>().add(start) }
            }
            (Operand::Rank(rank), _) if is_direct => {
                assert!(part.start + part.len <= len, "a part is within what was shown");
                // SAFETY: just checked; the buffer was checked to be as long.
                unsafe { self.leaves.reached[rank].input.add(part.start) }
            }
            (Operand::Rank(rank), _) => {
                assert!(part.start + part.len <= len, "a part is within what was shown");
                // SAFETY: just checked; a cell holds what is shown.
                unsafe { self.cell(rank, epoch, len).add(part.start) }
            }
        }
    }

    /// Copies a piece of this rank's block to its place among the blocks of the output, where it is not there already.
    pub(super) fn keep(&mut self, piece: Piece) {
        let own = self.leaves.me * self.input.len() + piece.start;
        assert!(piece.start + piece.len <= self.input.len(), "a piece is within the input");
        assert!(own + piece.len <= self.output.len(), "blocks are within the output");
        // SAFETY: both just checked.
        let (from, to) =
            unsafe { (self.input.cast::<u8>().add(piece.start), self.output.cast::<u8>().add(own)) };
        if !std::ptr::addr_eq(from, to) {
            self.copy_out(from, Piece { start: own, len: piece.len });
        }
    }

    /// Copies what was seen in a cell, or this rank gives, to a place of the output.
    pub(super) fn copy_out(&mut self, from: *const u8, at: Piece) {
        let Piece { start, len } = at;
        assert!(start + len <= self.output.len(), "a piece is within the output");
        // SAFETY: within the output, just checked; a cell that was seen and is not finished, or an input, and no part of it.
        unsafe {
            let to = self.output.cast::<u8>().add(start);
            match self.streams {
                true => stream::copy(from, to, len),
                false => std::ptr::copy_nonoverlapping(from, to, len),
            }
        }
    }
}

/// From this length on the output is written past the caches: about what one keeps for a core.
const STREAM_BYTES: usize = 1 << 20;
/// From this length on a cell is written past the caches where that is faster for who reads it.
const PAST_BYTES: usize = 2 << 10;
/// Shares begin at cache lines, so that no two ranks write to one.
const SHARE_BYTES: usize = 64;
