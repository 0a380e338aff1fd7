//! What each leaf does, step by step. The table of [`super`] says it in a line each.

use super::AHEAD;
use super::order;
use super::run::{Piece, Place, Run, Shown};
use crate::coll::executor::ExecError;
use crate::coll::leaf::Leaf;

impl Run<'_, '_> {
    /// Does a leaf's part of this rank.
    pub(super) fn by(&mut self, leaf: Leaf) -> Result<(), ExecError> {
        match leaf {
            Leaf::Flags => self.flags(),
            Leaf::OneShot => self.one_shot(),
            Leaf::TwoShot => self.two_shot(),
            Leaf::Fan => self.fan(),
            Leaf::Down => self.down(),
            Leaf::Up => self.up(),
            Leaf::Spread => self.spread(),
            Leaf::Collect => self.collect(),
        }
    }

    fn flags(&mut self) -> Result<(), ExecError> {
        let epoch = self.begin(0)?;
        self.show(epoch);
        self.await_all(epoch)?;
        self.finish(epoch);
        self.leaves.know_finished(epoch - 1);
        Ok(())
    }

    fn one_shot(&mut self) -> Result<(), ExecError> {
        self.in_step(self.pieces(self.len_bytes()), Self::show_input, |run, index, epoch| {
            let piece = run.piece(run.len_bytes(), index);
            let shown = Shown::of(epoch, piece.len);
            run.await_all(epoch)?;
            run.reading(shown, |run| run.reduce_all(shown, Place::Output(piece.start)));
            Ok(())
        })
    }

    fn two_shot(&mut self) -> Result<(), ExecError> {
        let count = self.pieces(self.len_bytes());
        let me = self.leaves.me;
        let mut given = self.show_input(0)?;
        for index in 0..count {
            let piece = self.piece(self.len_bytes(), index);
            let shown = Shown::of(given, piece.len);
            self.await_all(given)?;
            // They show the next piece's content before they have read this one's result.
            self.leaves.know_finished(given.saturating_sub(2).max(self.first - 1));
            let result = self.begin(self.share(piece, 0).len)?;
            let part = self.share(piece, me);
            self.reading(shown, |run| run.reduce_all(Shown { part, ..shown }, Place::Cell(result)));
            self.finish(given);
            self.show(result);
            if index + 1 < count {
                given = self.show_input(index + 1)?;
            }
            for rank in 0..self.ranks() {
                let share = self.share(piece, rank);
                if rank != me {
                    self.await_one(rank, result)?;
                }
                let cell = self.cell(rank, result, share.len);
                self.copy_out(cell, Piece { start: piece.start + share.start, len: share.len });
            }
            self.finish(result);
            self.wake_between(index, count);
        }
        Ok(())
    }

    fn fan(&mut self) -> Result<(), ExecError> {
        let piece = self.piece(self.len_bytes(), 0);
        let given = self.show_input(0)?;
        if self.leaves.me == 0 {
            let shown = Shown::of(given, piece.len);
            self.await_all(given)?;
            self.leaves.know_finished(given - 1);
            let result = self.begin(piece.len)?;
            self.reading(shown, |run| run.reduce_all(shown, Place::Output(0)));
            self.finish(given);
            self.show_result(result, piece);
            self.finish(result);
        } else {
            let result = self.skip(piece.len);
            self.await_one(0, result)?;
            self.copy_out(self.cell(0, result, piece.len), piece);
            // Rank 0 has seen all of them there.
            self.leaves.know_finished(given - 1);
            self.finish(result);
        }
        Ok(())
    }

    fn down(&mut self) -> Result<(), ExecError> {
        let count = self.pieces(self.len_bytes());
        for index in 0..count {
            if self.leaves.me == self.root {
                let epoch = self.show_input(index)?;
                self.finish(epoch);
            } else {
                let piece = self.piece(self.len_bytes(), index);
                let epoch = self.skip(piece.len);
                self.await_one(self.root, epoch)?;
                let cell = self.cell(self.root, epoch, piece.len);
                self.reading(Shown::of(epoch, piece.len), |run| run.copy_out(cell, piece));
                self.finish(epoch);
            }
            self.wake_between(index, count);
        }
        Ok(())
    }

    fn up(&mut self) -> Result<(), ExecError> {
        let count = self.pieces(self.len_bytes());
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
            let piece = self.piece(self.len_bytes(), index);
            let epoch = self.skip(piece.len);
            let shown = Shown { own_at: Some(piece.start), ..Shown::of(epoch, piece.len) };
            self.await_all(epoch)?;
            let into = Place::Output(piece.start);
            self.reading(shown, |run| {
                order::chain(ranks, root).for_each(|merge| run.merge(merge, shown, into))
            });
            self.finish(epoch);
            self.wake_between(index, count);
        }
        Ok(())
    }

    fn spread(&mut self) -> Result<(), ExecError> {
        let block = self.input.len();
        self.in_step(self.pieces(block), Self::show_input, |run, index, epoch| {
            let piece = run.piece(block, index);
            run.keep(piece);
            // Beginning with the next, so that not all read from one.
            for distance in 1..run.ranks() {
                let rank = (run.leaves.me + distance) % run.ranks();
                run.await_one(rank, epoch)?;
                let at = Piece { start: rank * block + piece.start, len: piece.len };
                let cell = run.cell(rank, epoch, piece.len);
                run.reading(Shown::of(epoch, piece.len), |run| run.copy_out(cell, at));
            }
            Ok(())
        })
    }

    fn collect(&mut self) -> Result<(), ExecError> {
        let (ranks, me, block) = (self.ranks(), self.leaves.me, self.output.len());
        let longest = Leaf::collect_bytes(ranks);
        let element = self.call.buffers.element();
        let is_wide = element.accumulator() != element;
        let piece_of = move |index: usize| Piece::of(block, longest, index);
        let show = |run: &mut Self, index| run.show_blocks(piece_of(index));
        self.in_step(block.div_ceil(longest), show, |run, index, epoch| {
            let piece = piece_of(index);
            let len = ranks * piece.len;
            let part = Piece { start: me * piece.len, len: piece.len };
            let own_at = Some(me * block + piece.start);
            let shown = Shown { part, own_at, is_wide, ..Shown::of(epoch, len) };
            run.await_all(epoch)?;
            let (root, into) = ((me + 1) % ranks, Place::Output(piece.start));
            run.reading(shown, |run| {
                order::chain(ranks, root).for_each(|merge| run.merge(merge, shown, into))
            });
            Ok(())
        })
    }

    /// Shows pieces by `show`, some ahead, and takes each by `take` when it is its turn: what all ranks do alike.
    fn in_step(
        &mut self,
        count: usize,
        mut show: impl FnMut(&mut Self, usize) -> Result<u64, ExecError>,
        mut take: impl FnMut(&mut Self, usize, u64) -> Result<(), ExecError>,
    ) -> Result<(), ExecError> {
        let mut shown = 0;
        for index in 0..count {
            while shown < count.min(index + AHEAD) {
                show(self, shown)?;
                shown += 1;
            }
            let epoch = self.first + index as u64;
            take(self, index, epoch)?;
            self.finish(epoch);
            // They show so many pieces ahead, and nothing before they have left the call before.
            self.leaves.know_finished(epoch.saturating_sub(AHEAD as u64).max(self.first - 1));
            self.wake_between(index, count);
        }
        Ok(())
    }
}
