//! Runs schedules.
//!
//! [`Executor::run`] takes this rank's steps of a schedule in order and does them on the caller's memory and a
//! transport. It is the only code that does. It blocks, it waits no longer for one thing than it was told to, and it
//! ends with the result or with an error that names step and peer.
//!
//! What it cannot do: see that a rank died, unless the transport or the interrupt says so.
//!
//! # Safety
//!
//! The transport reads the caller's memory after `try_send` returned. That is sound because
//! - the memory is borrowed by the call's [`Buffers`] until `run` returns, and `run` returns in one of two ways only:
//!   with every send complete (the ledger refuses an end with open sends, and a `WaitSends` is over when the tokens
//!   are out), or with the transport closed, which `CloseUnlessDone` does on errors and panics alike;
//! - nothing writes to what is being sent: the ledger refuses a step that writes to a span of an open send, taking
//!   input and output for the same memory.
//!
//! So it does not matter whether a schedule is right: a wrong one is an error.
#![allow(unsafe_code)]

mod error;
mod sends;
mod signature;

use std::time::{Duration, Instant};

use efarun_wire::Rank;

use self::sends::Sends;
use self::signature::signature;
use super::buffers::Buffers;
use super::fault::{Fault, Problem, Wait};
use super::ledger::Ledger;
use super::reduce::{Operands, reduce_into};
use super::schedule::{Operand, Schedule, Span, Step};
use crate::element::ReduceOp;
use crate::transport::{Header, SendToken, Transport};

pub use self::error::{ExecError, Interrupt};

/// Runs schedules, one after the other, and keeps the memory for it.
#[derive(Debug)]
pub struct Executor {
    spin: Duration,
    ledger: Ledger,
    sends: Sends,
    completed: Vec<SendToken>,
}

/// One call of a collective on one rank.
#[derive(Debug)]
pub struct Call<'a> {
    /// This rank.
    pub rank: Rank,
    /// The call's number in its World, the same on all ranks.
    pub sequence: u32,
    /// The reduction.
    pub op: ReduceOp,
    /// What is reduced, and where the result goes.
    pub buffers: Buffers<'a>,
    /// How long it waits for any one thing before that is an error.
    pub patience: Duration,
}

impl Executor {
    /// Makes an executor that spins for `spin` before it sleeps. A few microseconds are right where each rank has a
    /// core, and none where it has not: then a spinning rank keeps the one that it waits for from running.
    pub fn new(spin: Duration) -> Self {
        Executor { spin, ledger: Ledger::default(), sends: Sends::default(), completed: Vec::new() }
    }

    /// Runs this rank's part of the schedule, and blocks until that is done: the output is written, and the transport
    /// reads nothing of the buffers any more. Other ranks may still be at it.
    ///
    /// `interrupt` is asked about once a millisecond while this rank waits.
    ///
    /// # Errors
    ///
    /// [`ExecError`]. On any error the transport is closed before this returns, and the output's content is
    /// undefined.
    pub fn run(
        &mut self,
        schedule: &dyn Schedule,
        call: Call<'_>,
        transport: &mut dyn Transport,
        interrupt: &mut dyn FnMut() -> Option<Interrupt>,
    ) -> Result<(), ExecError> {
        let mut guard = CloseUnlessDone { transport, is_done: false };
        let signature = signature(schedule, call.buffers.element(), call.op, call.sequence);
        let mut run = Run {
            executor: self,
            step_count: 0,
            step: 0,
            signature,
            call,
            schedule,
            transport: &mut *guard.transport,
            interrupt,
        };
        let result = run.start().and_then(|()| run.all_steps());
        guard.is_done = result.is_ok();
        result
    }
}

/// Closes the transport when it goes out of scope, on a panic too, unless all sends are known to be complete.
struct CloseUnlessDone<'a> {
    transport: &'a mut dyn Transport,
    is_done: bool,
}

impl Drop for CloseUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.transport.close();
        }
    }
}

/// A call under way.
struct Run<'r, 'a> {
    executor: &'r mut Executor,
    schedule: &'r dyn Schedule,
    call: Call<'a>,
    signature: u64,
    step_count: usize,
    step: usize,
    transport: &'r mut dyn Transport,
    interrupt: &'r mut dyn FnMut() -> Option<Interrupt>,
}

impl Run<'_, '_> {
    fn start(&mut self) -> Result<(), ExecError> {
        let (schedule, rank, buffers) = (self.schedule, self.call.rank, &self.call.buffers);
        if buffers.count() != schedule.count() {
            return Err(ExecError::Count { count: buffers.count(), expected: schedule.count() });
        }
        if rank.0 >= schedule.world_size() {
            return Err(self.fault(Problem::NotAPeer { peer: rank }));
        }
        self.step_count = schedule.step_count(rank);
        self.executor.ledger.start(schedule, rank);
        self.executor.sends.start(self.executor.ledger.max_open_sends());
        let (receives_from, sends_to) =
            (self.executor.ledger.receives_from(), self.executor.ledger.sends_to());
        if receives_from.is_empty() && sends_to.is_empty() {
            return Ok(());
        }
        let longest = schedule.segment_len().min(schedule.count());
        let segment_bytes = longest.saturating_mul(buffers.element().size_bytes());
        let slot_bytes = self.transport.slot_bytes().min(u32::MAX as usize);
        if segment_bytes > slot_bytes {
            return Err(ExecError::SegmentTooLong { segment_bytes, slot_bytes });
        }
        self.transport
            .open(receives_from, sends_to)
            .map_err(|source| ExecError::Transport { step: self.step, source })
    }

    fn all_steps(&mut self) -> Result<(), ExecError> {
        for index in 0..self.step_count {
            self.step = index;
            let step = self.schedule.step(self.call.rank, index);
            self.executor.ledger.enter(&step).map_err(|problem| self.fault(problem))?;
            match step {
                Step::Send { to, span } => self.send(to, span)?,
                Step::WaitSends { count } => self.wait_sends(count)?,
                Step::Recv { from, len } => self.receive(from, len)?,
                Step::Reduce { into, left, right } => self.reduce(into, left, right)?,
                Step::Copy { into, source } => self.copy(into, source)?,
                Step::Release { from } => {
                    self.transport.release(from).map_err(|source| self.transport_error(source))?;
                }
            }
        }
        self.step = self.step_count;
        self.executor.ledger.finish().map_err(|problem| self.fault(problem))
    }

    fn send(&mut self, to: Rank, span: Span) -> Result<(), ExecError> {
        let payload = self.call.buffers.payload(span);
        let len_bytes = u32::try_from(payload.len()).expect("a segment's bytes were checked at the start");
        let header = Header { signature: self.signature, sequence: self.call.sequence, len_bytes };
        let token = self.executor.sends.next_token();
        let mut since = None;
        // SAFETY: the payload stays allocated and unchanged until the token is out or the transport is closed; the
        // module's page says why.
        while !unsafe { self.transport.try_send(to, header, payload, token) }
            .map_err(|source| self.transport_error(source))?
        {
            self.pause(&mut since, Wait::Credit { to })?;
        }
        self.executor.sends.posted(to);
        Ok(())
    }

    fn wait_sends(&mut self, count: usize) -> Result<(), ExecError> {
        let mut since = None;
        while let Some(to) = self.executor.sends.oldest_of(count) {
            self.pause(&mut since, Wait::Completion { to })?;
        }
        Ok(())
    }

    fn receive(&mut self, from: Rank, len: usize) -> Result<(), ExecError> {
        let expected_bytes = len * self.call.buffers.element().size_bytes();
        let mut since = None;
        loop {
            let arrived = self.transport.arrived(from);
            let arrived = arrived.map_err(|source| ExecError::Transport { step: self.step, source })?;
            if let Some(message) = arrived {
                let header = message.header;
                if header.signature != self.signature {
                    return Err(ExecError::Mismatch {
                        step: self.step,
                        peer: from,
                        sequence: self.call.sequence,
                        peer_sequence: header.sequence,
                    });
                }
                let found_bytes = message.payload.len();
                if found_bytes != expected_bytes || header.len_bytes as usize != expected_bytes {
                    return Err(ExecError::MessageLen {
                        step: self.step,
                        peer: from,
                        expected_bytes,
                        found_bytes,
                    });
                }
                return Ok(());
            }
            self.pause(&mut since, Wait::Message { from })?;
        }
    }

    fn reduce(&mut self, into: Span, left: Operand, right: Operand) -> Result<(), ExecError> {
        if let (Operand::Slot(_), Operand::Slot(_)) = (left, right) {
            // The transport shows one message at a time.
            self.copy(into, left)?;
            return self.reduce(into, Operand::Span(into), right);
        }
        let (element, op) = (self.call.buffers.element(), self.call.op);
        // SAFETY: the ledger has found no open send of this span, so the transport does not read it; operands are
        // either this span itself, which `source` does not make a slice of, or apart from it.
        let out = unsafe { self.call.buffers.bytes_mut(into) };
        let step = self.step;
        let buffers = &self.call.buffers;
        let transport = &mut *self.transport;
        let operands = match (left, right) {
            (Operand::Slot(from), Operand::Span(right)) => {
                let left = held(transport, from, step)?;
                source(buffers, into, right).map_or(Operands::Left(left), |right| Operands::Both(left, right))
            }
            (Operand::Span(left), Operand::Slot(from)) => {
                let right = held(transport, from, step)?;
                source(buffers, into, left).map_or(Operands::Right(right), |left| Operands::Both(left, right))
            }
            (Operand::Span(left), Operand::Span(right)) => {
                match (source(buffers, into, left), source(buffers, into, right)) {
                    (Some(left), Some(right)) => Operands::Both(left, right),
                    (Some(left), None) => Operands::Left(left),
                    (None, Some(right)) => Operands::Right(right),
                    (None, None) => unreachable!("the ledger refuses a destination that is both operands"),
                }
            }
            (Operand::Slot(_), Operand::Slot(_)) => unreachable!("two messages were taken apart above"),
        };
        reduce_into(element, op, out, operands);
        Ok(())
    }

    fn copy(&mut self, into: Span, from: Operand) -> Result<(), ExecError> {
        // SAFETY: as in `reduce`.
        let out = unsafe { self.call.buffers.bytes_mut(into) };
        match from {
            Operand::Slot(from) => out.copy_from_slice(held(&mut *self.transport, from, self.step)?),
            Operand::Span(span) => {
                if let Some(bytes) = source(&self.call.buffers, into, span) {
                    out.copy_from_slice(bytes);
                }
            }
        }
        Ok(())
    }

    /// Lets time pass in a wait that began at `since`: the first call makes progress and sets it, later ones spin or
    /// sleep before. Says when the wait has to end.
    fn pause(&mut self, since: &mut Option<Instant>, wait: Wait) -> Result<(), ExecError> {
        let now = Instant::now();
        let Some(since) = *since else {
            *since = Some(now);
            return self.progress();
        };
        let waited = now - since;
        if waited < self.executor.spin {
            std::hint::spin_loop();
            return self.progress();
        }
        if let Some(interrupt) = (self.interrupt)() {
            return Err(ExecError::Interrupted { step: self.step, wait, interrupt });
        }
        let Some(left) = self.call.patience.checked_sub(waited).filter(|left| !left.is_zero()) else {
            return Err(ExecError::Timeout { step: self.step, step_count: self.step_count, wait, waited });
        };
        self.transport.wait(left.min(MAX_SLEEP));
        self.progress()
    }

    fn progress(&mut self) -> Result<(), ExecError> {
        let Executor { completed, sends, .. } = &mut *self.executor;
        completed.clear();
        let polled = self.transport.poll(completed);
        if let Some(stray) = completed.drain(..).find(|&token| !sends.completed(token)) {
            return Err(ExecError::StrayCompletion { token: stray.0 });
        }
        polled.map_err(|source| self.transport_error(source))
    }

    fn transport_error(&self, source: crate::transport::TransportError) -> ExecError {
        ExecError::Transport { step: self.step, source }
    }

    fn fault(&self, problem: Problem) -> ExecError {
        ExecError::Fault(Fault { rank: self.call.rank, step: self.step, problem })
    }
}

/// The payload of the message that is held from a peer.
fn held(transport: &mut dyn Transport, from: Rank, step: usize) -> Result<&[u8], ExecError> {
    let message = transport.arrived(from).map_err(|source| ExecError::Transport { step, source })?;
    Ok(message.expect("a transport shows a held message until it is released").payload)
}

/// A span as a source of `into`; none if it is the same memory.
fn source<'b>(buffers: &Buffers<'b>, into: Span, span: Span) -> Option<&'b [u8]> {
    // SAFETY: the only span that this rank writes meanwhile is `into`; the ledger has checked that it is this one or
    // apart from it. The transport writes to no buffer.
    (!buffers.is_same(span, into)).then(|| unsafe { buffers.bytes(span) })
}

/// The longest sleep between two looks at the interrupt and the time.
const MAX_SLEEP: Duration = Duration::from_millis(1);
