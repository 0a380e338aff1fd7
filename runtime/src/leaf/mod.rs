//! Collectives between ranks that share a node, without messages.
//!
//! [`Leaves`] runs a [`Leaf`] on the node's boards ([`crate::transport::shm::board`]), where [`crate::coll::select`] has
//! found one for a call. It gives what its reference schedule gives, bit for bit; blocks as the executor does, with the
//! same deadline; and says what the executor says where a call differs ([`wait`]), a rank is lost or does not come.
//!
//! # How it is done
//! What is shown goes by pieces of a cell each, one *epoch* per piece, so that one piece is read while the next is written,
//! and cells stay in caches. All ranks count the epochs of a call alike, whether they show something in one or not.
//!
//! | leaf | who shows | who reads | epochs |
//! |---|---|---|---|
//! | flags | all, nothing but that they are there | all | 1 |
//! | one-shot | all, their input | all: each reduces everything | 1 per piece |
//! | two-shot | all, their input; then all, their share of the result | all | 2 per piece |
//! | fan | all, their input; then rank 0, the result | rank 0; then the others | 2 |
//! | down | the root, its input | the others | 1 per piece |
//! | up | the others, their input | the root | 1 per piece |
//!
//! A root goes on when it has shown its last piece: it waits for a reader only where that is [`POSTS`] epochs behind.
//!
//! # Safety
//! Cells are read and written by the board's rules: a rank's own cell of an epoch between [`Run::begin`], which waits for the
//! readers of what it held before, and `show`; another's between its being seen and `finish`. The caller's memory is
//! borrowed by the call's `Buffers`; where input and output are one memory, no piece of the output is written before the
//! same piece of the input was copied to a cell, or it is the destination of the very reduction that reads it.
#![allow(unsafe_code)]

mod order;
mod stream;
#[cfg(test)]
mod tests;
mod wait;

use efarun_wire::Rank;

use self::order::{Merge, Operand};
use crate::coll::collective::Collective;
use crate::coll::executor::signature::Signature;
use crate::coll::executor::spin::Spin;
use crate::coll::executor::{Call, ExecError, Interrupt};
use crate::coll::fault::Wait;
use crate::coll::leaf::Leaf;
use crate::coll::reduce::{Source, Target, reduce_into};
use crate::coll::schedule::Span;
use crate::element::ReduceOp;
use crate::transport::shm::Seen;
use crate::transport::shm::board::{Board, CELL_BYTES, POSTS};

/// Runs leaves on one rank of a node that all ranks of the World are on.
#[derive(Debug)]
pub(crate) struct Leaves {
    board: Board,
    me: usize,
    /// The last epoch of the last call.
    epoch: u64,
    /// An epoch that all others are known to have finished, and those before it.
    finished_by_all: u64,
    /// Whether something was shown and nobody woken since.
    owes_wake: bool,
    spin: Spin,
    /// How often a wait looks before it asks for the time.
    looks: u32,
    doubling: Vec<Merge>,
    /// Partial results, in words of the alignment that any element has.
    partials: Vec<u128>,
}

impl Leaves {
    /// Makes what runs leaves on rank `me`, which spins for so long before it sleeps.
    pub(crate) fn new(board: Board, me: Rank, spin: Spin, looks: u32) -> Self {
        let doubling = order::doubling(board.ranks());
        let chain = order::chain(board.ranks(), 0);
        let partials = order::partials(doubling.iter().copied().chain(chain));
        Leaves {
            me: me.index(),
            epoch: 0,
            finished_by_all: 0,
            owes_wake: false,
            spin,
            looks,
            partials: vec![0; partials * CELL_WORDS],
            doubling,
            board,
        }
    }

    /// Says to the others which call this rank is in, whoever does it: before it is done.
    pub(crate) fn enter(&self, sequence: u32, signature: Signature) {
        self.board.enter(u64::from(sequence) + 1, signature.0);
    }

    /// Runs a leaf, and blocks until this rank's part is done. Other ranks may still be at it.
    ///
    /// `interrupt` is asked about once a millisecond while this rank sleeps.
    ///
    /// # Errors
    ///
    /// [`ExecError`]. The output's content is undefined then, and the others are to be told that this rank is gone.
    pub(crate) fn run(
        &mut self,
        leaf: Leaf,
        collective: Collective,
        signature: Signature,
        call: Call<'_>,
        interrupt: &mut dyn FnMut() -> Option<Interrupt>,
    ) -> Result<(), ExecError> {
        self.enter(call.sequence, signature);
        let (input_len, output_len) = call.buffers.lens();
        let input = call.buffers.raw(Span::input(0, input_len)).cast_const();
        let output = call.buffers.raw(Span::output(0, output_len));
        if leaf != Leaf::Flags && input.len().max(output.len()) == 0 {
            return Ok(());
        }
        let root = collective.root().map_or(0, Rank::index);
        let first = self.epoch + 1;
        // In place the output's lines have just been read.
        let streams = output.len() >= STREAM_BYTES && !std::ptr::addr_eq(input, output);
        let mut run =
            Run { leaves: self, call, signature, input, output, root, streams, first, step: 0, interrupt };
        let result = match leaf {
            Leaf::Flags => run.flags(),
            Leaf::OneShot => run.one_shot(),
            Leaf::TwoShot => run.two_shot(),
            Leaf::Fan => run.fan(),
            Leaf::Down => run.down(),
            Leaf::Up => run.up(),
        };
        if streams {
            stream::settle();
        }
        run.leaves.wake();
        result
    }

    /// Takes in that all others are known to have finished an epoch.
    fn know_finished(&mut self, epoch: u64) {
        self.finished_by_all = self.finished_by_all.max(epoch);
    }

    /// Wakes those that wait for what this rank has shown or finished.
    fn wake(&mut self) {
        if std::mem::take(&mut self.owes_wake) {
            self.board.wake();
        }
    }
}

/// A call under way.
struct Run<'r, 'a> {
    leaves: &'r mut Leaves,
    call: Call<'a>,
    signature: Signature,
    input: *const [u8],
    output: *mut [u8],
    root: usize,
    /// Whether the output is written past the caches.
    streams: bool,
    /// The call's first epoch.
    first: u64,
    /// How many epochs of the call are behind this rank.
    step: usize,
    interrupt: &'r mut dyn FnMut() -> Option<Interrupt>,
}

/// Consecutive bytes of the vector.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    len: usize,
}

impl Run<'_, '_> {
    fn flags(&mut self) -> Result<(), ExecError> {
        let epoch = self.begin()?;
        self.show(epoch);
        self.await_all(epoch)?;
        self.finish(epoch);
        self.leaves.know_finished(epoch - 1);
        Ok(())
    }

    fn one_shot(&mut self) -> Result<(), ExecError> {
        let count = self.pieces();
        let mut shown = 0;
        for index in 0..count {
            while shown < count.min(index + AHEAD) {
                self.show_input(shown)?;
                shown += 1;
            }
            let (epoch, piece) = (self.first + index as u64, self.piece(index));
            self.await_all(epoch)?;
            let whole = Shown { epoch, len: piece.len, part: Piece { start: 0, ..piece }, own_at: None };
            self.reduce_all(whole, Place::Output(piece.start));
            self.finish(epoch);
            // They show so many pieces ahead, and nothing before they have left the call before.
            self.leaves.know_finished(epoch.saturating_sub(AHEAD as u64).max(self.first - 1));
            self.wake_between(index, count);
        }
        Ok(())
    }

    fn two_shot(&mut self) -> Result<(), ExecError> {
        let count = self.pieces();
        let me = self.leaves.me;
        self.show_input(0)?;
        for index in 0..count {
            let piece = self.piece(index);
            let given = self.first + 2 * index as u64;
            self.await_all(given)?;
            // They show the next piece's content before they have read this one's result.
            self.leaves.know_finished(given.saturating_sub(2).max(self.first - 1));
            let result = self.begin()?;
            let part = self.share(piece, me);
            let shown = Shown { epoch: given, len: piece.len, part, own_at: None };
            self.reduce_all(shown, Place::Cell(result));
            self.finish(given);
            self.show(result);
            if index + 1 < count {
                self.show_input(index + 1)?;
            }
            for rank in 0..self.ranks() {
                let share = self.share(piece, rank);
                if rank != me {
                    self.await_one(rank, result)?;
                }
                let cell = self.leaves.board.cell(rank, result, share.len);
                self.copy_out(cell, Piece { start: piece.start + share.start, len: share.len });
            }
            self.finish(result);
            self.wake_between(index, count);
        }
        Ok(())
    }

    fn fan(&mut self) -> Result<(), ExecError> {
        let piece = self.piece(0);
        let given = self.show_input(0)?;
        let result = given + 1;
        if self.leaves.me == 0 {
            self.await_all(given)?;
            self.leaves.know_finished(given - 1);
            self.begin()?;
            let shown = Shown { epoch: given, len: piece.len, part: piece, own_at: None };
            self.reduce_all(shown, Place::Output(0));
            self.finish(given);
            let cell = self.leaves.board.cell(0, result, piece.len);
            // SAFETY: the output's result, and this rank's own cell of an epoch that has begun; they are apart.
            unsafe { std::ptr::copy_nonoverlapping(self.output.cast::<u8>(), cell, piece.len) };
            self.show(result);
        } else {
            self.skip();
            self.await_one(0, result)?;
            let cell = self.leaves.board.cell(0, result, piece.len);
            self.copy_out(cell, piece);
            // Rank 0 has seen all of them there.
            self.leaves.know_finished(given - 1);
        }
        self.finish(result);
        Ok(())
    }

    fn down(&mut self) -> Result<(), ExecError> {
        let count = self.pieces();
        for index in 0..count {
            if self.leaves.me == self.root {
                let epoch = self.show_input(index)?;
                self.finish(epoch);
            } else {
                let (epoch, piece) = (self.skip(), self.piece(index));
                self.await_one(self.root, epoch)?;
                let cell = self.leaves.board.cell(self.root, epoch, piece.len);
                self.copy_out(cell, piece);
                self.finish(epoch);
            }
            self.wake_between(index, count);
        }
        Ok(())
    }

    fn up(&mut self) -> Result<(), ExecError> {
        let count = self.pieces();
        if self.leaves.me != self.root {
            for index in 0..count {
                let epoch = self.show_input(index)?;
                self.finish(epoch);
                self.wake_between(index, count);
            }
            return Ok(());
        }
        let (ranks, root) = (self.ranks(), self.root);
        for index in 0..count {
            let (epoch, piece) = (self.skip(), self.piece(index));
            self.await_all(epoch)?;
            let part = Piece { start: 0, ..piece };
            let shown = Shown { epoch, len: piece.len, part, own_at: Some(piece.start) };
            order::chain(ranks, root).for_each(|merge| self.merge(merge, shown, Place::Output(piece.start)));
            self.finish(epoch);
            self.wake_between(index, count);
        }
        Ok(())
    }
}

/// Where a result goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// To the output, from this byte on.
    Output(usize),
    /// To this rank's cell of an epoch.
    Cell(u64),
}

/// What is reduced: a part of what all ranks have shown.
#[derive(Clone, Copy, Debug)]
struct Shown {
    epoch: u64,
    /// Bytes that each has shown.
    len: usize,
    /// The part, within them.
    part: Piece,
    /// Where the part is in the input of this rank, if that has not shown it.
    own_at: Option<usize>,
}

impl Run<'_, '_> {
    fn ranks(&self) -> usize {
        self.leaves.board.ranks()
    }

    /// Bytes of the vector.
    fn len_bytes(&self) -> usize {
        self.input.len().max(self.output.len())
    }

    fn pieces(&self) -> usize {
        self.len_bytes().div_ceil(CELL_BYTES)
    }

    fn piece(&self, index: usize) -> Piece {
        let start = index * CELL_BYTES;
        Piece { start, len: CELL_BYTES.min(self.len_bytes() - start) }
    }

    /// A rank's share of a piece, within it: whole cache lines, but for the last.
    fn share(&self, piece: Piece, rank: usize) -> Piece {
        let len = piece.len.div_ceil(self.ranks()).next_multiple_of(SHARE_BYTES);
        let start = (rank * len).min(piece.len);
        Piece { start, len: len.min(piece.len - start) }
    }

    /// The next epoch, in which this rank shows something: its cell is free then.
    fn begin(&mut self) -> Result<u64, ExecError> {
        let epoch = self.skip();
        if let Some(needed) = epoch.checked_sub(POSTS as u64)
            && needed > self.leaves.finished_by_all
        {
            self.await_readers(needed)?;
        }
        Ok(epoch)
    }

    /// The next epoch, in which this rank shows nothing.
    fn skip(&mut self) -> u64 {
        self.leaves.epoch += 1;
        self.leaves.epoch
    }

    fn await_readers(&mut self, needed: u64) -> Result<(), ExecError> {
        for rank in self.others() {
            let is_over = |board: &Board| board.done(rank) >= needed;
            self.wait(Wait::Credit { to: rank_of(rank) }, is_over)?;
        }
        let done = self.others().map(|rank| self.leaves.board.done(rank)).min();
        self.leaves.know_finished(done.unwrap_or(needed));
        Ok(())
    }

    /// Shows a piece of the input in the next epoch.
    fn show_input(&mut self, index: usize) -> Result<u64, ExecError> {
        let epoch = self.begin()?;
        let Piece { start, len } = self.piece(index);
        let cell = self.leaves.board.cell(self.leaves.me, epoch, len);
        // SAFETY: within the input, which is as long as the vector where it is shown; the cell is this rank's own, of an
        // epoch that has begun, and apart from the caller's memory.
        unsafe { std::ptr::copy_nonoverlapping(self.input.cast::<u8>().add(start), cell, len) };
        self.show(epoch);
        Ok(epoch)
    }

    fn show(&mut self, epoch: u64) {
        self.leaves.board.show(epoch, self.signature.0);
        self.leaves.owes_wake = true;
    }

    fn finish(&mut self, epoch: u64) {
        self.leaves.board.finish(epoch);
        self.leaves.owes_wake = true;
        self.step += 1;
    }

    /// Wakes others in the middle of a call, where they may wait for what is behind this rank.
    fn wake_between(&mut self, index: usize, count: usize) {
        if index + 1 < count {
            self.leaves.wake();
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.leaves.me;
        (0..self.ranks()).filter(move |&rank| rank != me)
    }

    fn await_all(&mut self, epoch: u64) -> Result<(), ExecError> {
        self.others().try_for_each(|rank| self.await_one(rank, epoch))
    }

    /// Waits until a rank has shown an epoch, by a call of this one's signature.
    fn await_one(&mut self, rank: usize, epoch: u64) -> Result<(), ExecError> {
        let from = rank_of(rank);
        self.wait(Wait::Message { from }, |board| board.seen(rank, epoch) != Seen::Nothing)?;
        match self.leaves.board.seen(rank, epoch) {
            Seen::Shown(signature) if signature == self.signature.0 => Ok(()),
            Seen::Shown(signature) => Err(self.mismatch(rank, Signature(signature))),
            Seen::Nothing | Seen::Later(_) => Err(self.corrupt(rank, epoch)),
        }
    }

    /// Reduces what all ranks have shown.
    fn reduce_all(&mut self, shown: Shown, into: Place) {
        for index in 0..self.leaves.doubling.len() {
            self.merge(self.leaves.doubling[index], shown, into);
        }
    }

    fn merge(&mut self, merge: Merge, shown: Shown, into: Place) {
        let len = shown.part.len;
        if len == 0 {
            return;
        }
        let result = self.target(merge.into, len, into);
        let (left, right) = (self.operand(merge.left, shown, into), self.operand(merge.right, shown, into));
        let (element, op) = (self.call.buffers.element(), self.call.op);
        let divisor = (merge.completes && op == ReduceOp::Avg).then(|| self.ranks() as u32);
        let source = |operand: *const u8| match std::ptr::addr_eq(operand, result) {
            true => Source::Destination,
            // SAFETY: as many bytes of a cell that was seen and is not finished, of the input, or of a partial result:
            // nobody writes there before this merge is done, for the destination is apart from them, and is all that
            // this rank writes to.
            false => Source::Elements(unsafe { std::slice::from_raw_parts(operand, len) }),
        };
        let (left, right) = (source(left), source(right));
        if let (Source::Elements(left), Source::Elements(right), 0, Place::Output(_)) =
            (left, right, merge.into, into)
            && self.streams
        {
            // SAFETY: as many bytes of the output, and the operands are apart, as below.
            return unsafe { stream::reduce(element, op, divisor, result, left, right) };
        }
        // SAFETY: as many bytes of the output, of this rank's cell of an epoch that has begun and is not shown, or of a
        // partial result. An operand that begins there is the destination itself, and no slice was made of it; the others
        // are apart: cells and partial results always are, and of an input that shares memory with the output only the
        // place is read that is written.
        let target = Target::Elements(unsafe { std::slice::from_raw_parts_mut(result, len) });
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
            (0, Place::Cell(epoch)) => self.leaves.board.cell(self.leaves.me, epoch, len),
            (number, _) => {
                let words = &mut self.leaves.partials[(number - 1) * CELL_WORDS..number * CELL_WORDS];
                assert!(len <= size_of_val(words), "a partial result is no longer than a cell");
                words.as_mut_ptr().cast()
            }
        }
    }

    fn operand(&mut self, operand: Operand, shown: Shown, into: Place) -> *const u8 {
        let Shown { epoch, len, part, own_at } = shown;
        match (operand, own_at) {
            (Operand::Partial(number), _) => self.target(number, part.len, into),
            (Operand::Rank(rank), Some(start)) if rank == self.leaves.me => {
                assert!(start + part.len <= self.input.len(), "a piece is within the input");
                // SAFETY: just checked.
                unsafe { self.input.cast::<u8>().add(start) }
            }
            (Operand::Rank(rank), _) => {
                assert!(part.start + part.len <= len, "a part is within what was shown");
                // SAFETY: just checked; a cell holds what is shown.
                unsafe { self.leaves.board.cell(rank, epoch, len).add(part.start) }
            }
        }
    }

    /// Copies what was seen in a cell to a place of the output.
    fn copy_out(&mut self, cell: *const u8, at: Piece) {
        let Piece { start, len } = at;
        assert!(start + len <= self.output.len(), "a piece is within the output");
        // SAFETY: within the output, just checked; a cell that was seen and is not finished, and no part of it.
        unsafe {
            let to = self.output.cast::<u8>().add(start);
            match self.streams {
                true => stream::copy(cell, to, len),
                false => std::ptr::copy_nonoverlapping(cell, to, len),
            }
        }
    }
}

fn rank_of(index: usize) -> Rank {
    Rank(index as u32)
}

/// How many pieces of a vector are shown before the first of them is reduced.
const AHEAD: usize = 2;
/// From this length on the output is written past the caches: about what one keeps for a core.
const STREAM_BYTES: usize = 1 << 20;
/// Shares begin at cache lines, so that no two ranks write to one.
const SHARE_BYTES: usize = 64;
const CELL_WORDS: usize = CELL_BYTES / size_of::<u128>();
