//! The rules that a rank can be held to without knowing the others.
//!
//! A [`Ledger`] is told each step of one rank before the step is done, and says whether the rank may do it: bounds,
//! peers, held messages, open sends, aliasing. Executor, checker and simulator each keep one per rank, so that a
//! schedule that breaks a rule is caught by all three. The executor's unsafe code stands on these rules: schedules
//! are a safe trait, and anyone can write a wrong one.
//!
//! `Input` and `Output` are taken for one memory throughout, each at its place in the vector: a schedule must be right
//! that way too.

use std::collections::VecDeque;

use efarun_wire::Rank;

use super::fault::Problem;
use super::schedule::{Buffer, Operand, Placement, Schedule, Span, Step};

/// What one rank has posted, holds and has written.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    placement: Placement,
    segment_len: usize,
    max_open_sends: usize,
    receives_from: Vec<Rank>,
    sends_to: Vec<Rank>,
    /// Sends that no `WaitSends` covers yet, oldest first.
    open: VecDeque<Span>,
    posted: usize,
    held: Vec<Held>,
    written: usize,
    reduced: usize,
    max_held: usize,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    from: Rank,
    len: usize,
    is_used: bool,
}

impl Ledger {
    /// Starts over with this rank of this schedule; keeps the memory it has.
    pub(crate) fn start(&mut self, schedule: &dyn Schedule, rank: Rank) {
        self.placement = Placement::of(schedule, rank);
        self.segment_len = schedule.segment_len();
        self.max_open_sends = schedule.max_open_sends(rank);
        self.receives_from = schedule.receives_from(rank);
        self.sends_to = schedule.sends_to(rank);
        self.open.clear();
        self.open.reserve_exact(self.max_open_sends);
        self.held.clear();
        self.held.reserve_exact(self.receives_from.len());
        (self.posted, self.written, self.reduced, self.max_held) = (0, 0, 0, 0);
    }

    /// Where the rank's buffers lie.
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The peers that the schedule declares for receiving.
    pub(crate) fn receives_from(&self) -> &[Rank] {
        &self.receives_from
    }

    /// The peers that the schedule declares for sending.
    pub(crate) fn sends_to(&self) -> &[Rank] {
        &self.sends_to
    }

    /// Sends that may be open at once.
    pub(crate) fn max_open_sends(&self) -> usize {
        self.max_open_sends
    }

    /// Sends that are open now.
    pub(crate) fn open_sends(&self) -> usize {
        self.open.len()
    }

    /// Elements reduced so far.
    pub(crate) fn reduced(&self) -> usize {
        self.reduced
    }

    /// The most messages that were held at once.
    pub(crate) fn max_held(&self) -> usize {
        self.max_held
    }

    /// Memory behind this ledger.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.open.capacity() * size_of::<Span>()
            + self.held.capacity() * size_of::<Held>()
            + (self.receives_from.capacity() + self.sends_to.capacity()) * size_of::<Rank>()
    }

    /// Enters a step that the rank is about to do.
    pub(crate) fn enter(&mut self, step: &Step) -> Result<(), Problem> {
        match *step {
            Step::Send { to, span } => self.enter_send(to, span),
            Step::WaitSends { count } => self.enter_wait(count),
            Step::Recv { from, len } => self.enter_recv(from, len),
            Step::Reduce { into, left, right, .. } => {
                self.enter_write(into, None)?;
                self.enter_operands(into, &[left, right])?;
                self.reduced += into.len;
                Ok(())
            }
            Step::Copy { into, source } => {
                self.enter_write(into, Some(source))?;
                self.enter_operands(into, &[source])
            }
            Step::Release { from } => self.enter_release(from),
        }
    }

    /// Says whether the rank may stop here.
    pub(crate) fn finish(&self) -> Result<(), Problem> {
        if let Some(held) = self.held.first() {
            return Err(Problem::LeftHeld { from: held.from });
        }
        if !self.open.is_empty() {
            return Err(Problem::LeftOpen { sends: self.open.len() });
        }
        let count = self.placement.output_len;
        if self.written < count {
            return Err(Problem::OutputIncomplete { written: self.written, count });
        }
        Ok(())
    }

    fn enter_send(&mut self, to: Rank, span: Span) -> Result<(), Problem> {
        if !self.sends_to.contains(&to) {
            return Err(Problem::NotAPeer { peer: to });
        }
        if span.buffer == Buffer::Accumulator {
            return Err(Problem::SendsAccumulator { span });
        }
        self.check_segment(span.len)?;
        self.check_bounds(span)?;
        if self.open.len() >= self.max_open_sends {
            return Err(Problem::TooManyOpenSends { limit: self.max_open_sends });
        }
        self.open.push_back(span);
        self.posted += 1;
        Ok(())
    }

    fn enter_wait(&mut self, count: usize) -> Result<(), Problem> {
        if count > self.posted {
            return Err(Problem::WaitsForUnposted { count, posted: self.posted });
        }
        let covered = self.posted - self.open.len();
        self.open.drain(..count.saturating_sub(covered));
        Ok(())
    }

    fn enter_recv(&mut self, from: Rank, len: usize) -> Result<(), Problem> {
        if !self.receives_from.contains(&from) {
            return Err(Problem::NotAPeer { peer: from });
        }
        self.check_segment(len)?;
        if self.held.iter().any(|held| held.from == from) {
            return Err(Problem::AlreadyHeld { from });
        }
        // There is nothing in an empty message to use.
        self.held.push(Held { from, len, is_used: len == 0 });
        self.max_held = self.max_held.max(self.held.len());
        Ok(())
    }

    fn enter_operands(&mut self, into: Span, operands: &[Operand]) -> Result<(), Problem> {
        let mut in_place = 0;
        for operand in operands {
            let found = match *operand {
                Operand::Slot(from) => {
                    let held = self.held.iter_mut().find(|held| held.from == from);
                    let held = held.ok_or(Problem::NotHeld { from })?;
                    held.is_used = true;
                    held.len
                }
                Operand::Span(span) => {
                    self.check_bounds(span)?;
                    let is_same = self.placement.is_same(span, into);
                    in_place += usize::from(is_same);
                    if in_place > 1 || (!is_same && self.placement.overlap(span, into)) {
                        return Err(Problem::Overlap { span: into, operand: span });
                    }
                    span.len
                }
            };
            if found != into.len {
                return Err(Problem::OperandLen { expected: into.len, found });
            }
        }
        Ok(())
    }

    fn enter_write(&mut self, into: Span, source: Option<Operand>) -> Result<(), Problem> {
        self.check_bounds(into)?;
        if into.buffer == Buffer::Input {
            return Err(Problem::WritesInput { span: into });
        }
        let copied_from = match source {
            Some(Operand::Span(from)) => Some(from),
            _ => None,
        };
        let disturbed = self.open.iter().find(|&&sent| self.placement.disturbs(sent, into, copied_from));
        if let Some(&sent) = disturbed {
            return Err(Problem::OverwritesOpenSend { span: into, sent });
        }
        if into.buffer == Buffer::Output {
            self.written = self.written.saturating_add(into.len);
        }
        Ok(())
    }

    fn enter_release(&mut self, from: Rank) -> Result<(), Problem> {
        let index = self.held.iter().position(|held| held.from == from).ok_or(Problem::NotHeld { from })?;
        if !self.held.swap_remove(index).is_used {
            return Err(Problem::ReleasedUnused { from });
        }
        Ok(())
    }

    fn check_bounds(&self, span: Span) -> Result<(), Problem> {
        let count = self.placement.len(span.buffer);
        let end = span.start.checked_add(span.len);
        let is_empty = span.len == 0 && self.segment_len > 0;
        if is_empty || end.is_none_or(|end| end > count) {
            return Err(Problem::Bounds { span, count });
        }
        Ok(())
    }

    fn check_segment(&self, len: usize) -> Result<(), Problem> {
        if (len == 0) != (self.segment_len == 0) || len > self.segment_len {
            return Err(Problem::SegmentLen { len, segment_len: self.segment_len });
        }
        Ok(())
    }
}
