//! Runs schedules.
//!
//! [`Executor::run`] takes the steps of a [`Plan`] in order and does them on the caller's memory and a transport. It is
//! the only code that does. It blocks, it waits no longer for one thing than it was told to, and it
//! ends with the result or with an error that names step and peer.
//!
//! What it cannot do: see that a rank died, unless the transport or the interrupt says so.
//!
//! # Safety
//!
//! The transport reads the caller's memory and the executor's scratch after `try_send` returned, and writes there after
//! `expect` did. That is sound because
//! - the memory is borrowed by the call's [`Buffers`] until `run` returns, or is the executor's and resized before the
//!   first step only; and `run` returns in one of two ways only: with every send complete (the ledger refuses an end
//!   with open sends, and a `WaitSends` is over when the tokens are out), or with the transport closed, which
//!   `CloseUnlessDone` does on errors and panics alike;
//! - nothing writes to what is being sent: the ledger refuses a step that writes to a span of an open send, taking
//!   input and output for one memory. A copy between the same places of the two it lets pass: where they are one
//!   memory, nothing is written;
//! - a message is expected to land where the step behind its `Recv` copies it, and the step behind that releases it:
//!   until it is shown this rank does nothing but wait for it, and what the ledger says of the copy, no open send,
//!   within bounds, holds from the `Recv` on. Nothing changes it between copy and release;
//! - a later message is expected there only when no step before its `Recv` that is not done, and no send that is not
//!   complete, is of that memory: [`ahead`] has seen all of them.
//!
//! The ledger sees every step before it is done or looked ahead at: now, or when the plan was made, which then keeps the very steps. So it
//! does not matter whether a schedule is right: a wrong one is an error.
#![allow(unsafe_code)]

mod ahead;
pub(crate) mod error;
pub(crate) mod messages;
mod pause;
mod sends;
pub(crate) mod signature;
pub(crate) mod spin;
pub(crate) mod talk;
pub(crate) mod whereabouts;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use self::ahead::{Ahead, landing};
use self::pause::Place;
use self::sends::Sends;
use self::spin::Spin;
use super::buffers::{Buffers, Scratch};
use super::fault::{Fault, Problem, Wait};
use super::ledger::Ledger;
use super::plan::{Plan, TakenOver};
use super::reduce::{Source, Target, copy_into, reduce_into};
use super::schedule::{Buffer, Operand, Span, Step};
use crate::element::ReduceOp;
use crate::transport::{Header, SendToken, Transport};

pub use self::error::{ExecError, Interrupt};
use self::signature::Signature;

/// Runs schedules, one after the other, and keeps the memory for it.
#[derive(Debug)]
pub struct Executor {
    spin: Spin,
    ledger: Ledger,
    sends: Sends,
    completed: Vec<SendToken>,
    scratch: Scratch,
    ahead: Ahead,
    /// The next steps, where they are made while they are done.
    coming: VecDeque<Step>,
}

/// One call of a collective on one rank.
#[derive(Debug)]
pub struct Call<'a> {
    /// The call's number in its World, the same on all ranks.
    pub sequence: u32,
    /// The reduction; without meaning where nothing is reduced.
    pub op: ReduceOp,
    /// What is reduced, and where the result goes.
    pub buffers: Buffers<'a>,
    /// How long it waits for any one thing before that is an error.
    pub patience: Duration,
}

/// What goes on beside a plan's messages.
pub(crate) trait Beside {
    /// Is asked about once a millisecond while this rank waits: what ends the wait.
    fn interrupt(&mut self) -> Option<Interrupt>;

    /// Does a stage that a leaf has taken over, on its buffers. No message of the plan is under way.
    fn take_over(&mut self, stage: &TakenOver, signature: Signature, call: Call<'_>)
    -> Result<(), ExecError>;
}

/// Beside a plan of which nothing is taken over.
struct Alone<'a>(&'a mut dyn FnMut() -> Option<Interrupt>);

impl Beside for Alone<'_> {
    fn interrupt(&mut self) -> Option<Interrupt> {
        (self.0)()
    }

    fn take_over(&mut self, stage: &TakenOver, _: Signature, _: Call<'_>) -> Result<(), ExecError> {
        unreachable!("{} was planned where there are no leaves", stage.leaf)
    }
}

impl Executor {
    /// Makes an executor that spins for `spin` at most before it sleeps, and less while others want its core. None is
    /// right where ranks are known to share cores: then one that spins keeps the one that it waits for from running.
    pub fn new(spin: Duration) -> Self {
        Executor {
            spin: Spin::new(spin),
            ledger: Ledger::default(),
            sends: Sends::default(),
            completed: Vec::new(),
            scratch: Scratch::default(),
            ahead: Ahead::default(),
            coming: VecDeque::new(),
        }
    }

    /// Runs a plan, and blocks until that is done: the output is written, and the transport
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
        plan: &Plan<'_>,
        call: Call<'_>,
        transport: &mut dyn Transport,
        interrupt: &mut dyn FnMut() -> Option<Interrupt>,
    ) -> Result<(), ExecError> {
        self.run_beside(plan, call, transport, &mut Alone(interrupt))
    }

    /// As [`Executor::run`], of a plan parts of which may be taken over by what is beside it.
    ///
    /// # Errors
    ///
    /// As [`Executor::run`], and those of what is beside.
    pub(crate) fn run_beside(
        &mut self,
        plan: &Plan<'_>,
        call: Call<'_>,
        transport: &mut dyn Transport,
        beside: &mut dyn Beside,
    ) -> Result<(), ExecError> {
        let mut guard = CloseUnlessDone { transport, is_done: false };
        let signature = Signature::of(plan.schedule(), call.buffers.element(), call.op, call.sequence);
        let mut run = Run {
            executor: self,
            step_count: plan.step_count(),
            step: 0,
            signature,
            call,
            plan,
            transport: &mut *guard.transport,
            beside,
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
    plan: &'r Plan<'r>,
    call: Call<'a>,
    signature: Signature,
    step_count: usize,
    step: usize,
    transport: &'r mut dyn Transport,
    beside: &'r mut dyn Beside,
}

impl Run<'_, '_> {
    fn start(&mut self) -> Result<(), ExecError> {
        let (plan, buffers) = (self.plan, &self.call.buffers);
        let placement = plan.placement();
        if !buffers.fit(placement) {
            let (found, expected) = (buffers.lens(), (placement.input_len, placement.output_len));
            return Err(ExecError::Buffers { found, expected });
        }
        self.executor.sends.start(plan.max_open_sends());
        self.executor.ahead.start(None);
        // How many sends complete between two looks differs from call to call; it is never more than are open.
        self.executor.completed.clear();
        self.executor.completed.reserve(plan.max_open_sends());
        if plan.receives_from().is_empty() && plan.sends_to().is_empty() {
            self.executor.scratch.reserve(placement, buffers.element());
            return Ok(());
        }
        let segment_bytes = plan.longest_message().saturating_mul(buffers.element().size_bytes());
        let peers = plan.receives_from().iter().chain(plan.sends_to());
        // Whether it fits this peer's is seen when a message is sent.
        let slot_bytes = peers.map(|&peer| self.transport.slot_bytes_of(peer)).max().unwrap_or(0);
        let slot_bytes = slot_bytes.min(u32::MAX as usize);
        if segment_bytes > slot_bytes {
            return Err(ExecError::SegmentTooLong { segment_bytes, slot_bytes });
        }
        self.executor.scratch.reserve(placement, buffers.element());
        self.executor.ahead.start(self.transport.lands_from().filter(|least| segment_bytes >= *least));
        self.transport
            .open(plan.receives_from(), plan.sends_to())
            .map_err(|source| ExecError::Transport { step: self.step, source })
    }

    fn all_steps(&mut self) -> Result<(), ExecError> {
        let plan = self.plan;
        let mut taken_over = plan.taken_over().iter().peekable();
        if let Some(steps) = plan.kept() {
            loop {
                if let Some(stage) = taken_over.next_if(|stage| stage.steps.start == self.step) {
                    self.take_over(stage)?;
                    self.step = stage.steps.end;
                    continue;
                }
                let Some(step) = steps.get(self.step) else { return Ok(()) };
                let until = taken_over.peek().map_or(steps.len(), |stage| stage.steps.start);
                self.look_ahead(until, |number| steps.get(number).copied());
                let next = steps[self.step + 1..].first_chunk().map(|[one, two]| [*one, *two]);
                self.perform(*step, next)?;
                self.step += 1;
            }
        }
        self.executor.ledger.start(plan.schedule(), plan.rank());
        let mut steps = plan.schedule().steps(plan.rank());
        // The ledger sees a step when it is among the next, so that what is done because of it is allowed.
        let mut coming = std::mem::take(&mut self.executor.coming);
        coming.clear();
        let room = self.executor.ahead.depth().max(3);
        let mut done_up_to = 0;
        loop {
            while coming.len() < room
                && let Some(step) = steps.next()
            {
                let number = self.step + coming.len();
                self.executor.ledger.enter(&step).map_err(|problem| self.fault_at(number, problem))?;
                coming.push_back(step);
            }
            if let Some(stage) = taken_over.next_if(|stage| stage.steps.start == self.step) {
                self.take_over(stage)?;
                done_up_to = stage.steps.end;
                continue;
            }
            let until = taken_over.peek().map_or(usize::MAX, |stage| stage.steps.start);
            let done = self.step;
            self.look_ahead(until, |number| coming.get(number - done).copied());
            let Some(step) = coming.pop_front() else { break };
            if self.step >= done_up_to {
                let next = coming.front().zip(coming.get(1)).map(|(one, two)| [*one, *two]);
                self.perform(step, next)?;
            }
            self.step += 1;
        }
        self.executor.coming = coming;
        self.executor.ledger.finish().map_err(|problem| self.fault(problem))
    }

    /// Has a stage done that a leaf has taken over.
    fn take_over(&mut self, stage: &TakenOver) -> Result<(), ExecError> {
        let (input, output) = (self.raw(stage.input).cast_const(), self.raw(stage.output));
        let element = self.call.buffers.element();
        // SAFETY: memory of the call or of the executor, for as long as the stage goes on; the ledger has found no send of it
        // open where the stage begins, so that nobody else reads or writes it. The stage's own schedule was checked on the
        // two as one memory.
        let buffers = unsafe { Buffers::of_memory(element, input, output) };
        let Call { sequence, op, patience, .. } = self.call;
        self.beside.take_over(stage, self.signature, Call { sequence, op, buffers, patience })?;
        self.executor.sends.skip(stage.sends);
        self.executor.ahead.skip(stage.steps.end, stage.sends);
        Ok(())
    }

    /// Looks at the steps that come, up to one that is done otherwise, where it helps the transport to be told what lands.
    fn look_ahead(&mut self, until: usize, step: impl Fn(usize) -> Option<Step>) {
        let depth = self.executor.ahead.depth();
        if depth == 0 {
            return;
        }
        let is_first = self.executor.ahead.seen() <= self.step;
        while self.executor.ahead.seen() < until.min(self.step + depth)
            && let Some(step) = step(self.executor.ahead.seen())
        {
            self.executor.ahead.see(step, |span| self.call.buffers.raw(span));
        }
        if is_first {
            self.tell_landings();
        }
    }

    /// Tells the transport of later messages that may land from now on.
    fn tell_landings(&mut self) {
        let Executor { ahead, sends, .. } = &mut *self.executor;
        while let Some(ready) = ahead.ready(self.step, |count| sends.oldest_of(count).is_none()) {
            // SAFETY: the caller's memory, which no step that is not done touches before the message's own, nor any open send;
            // the module's page says why it stays. Its own steps are in this call.
            unsafe { self.transport.expect_later(ready.from, ready.ahead, ready.memory) };
        }
    }

    /// Does a step, of which the next two may be known.
    fn perform(&mut self, step: Step, next: Option<[Step; 2]>) -> Result<(), ExecError> {
        match step {
            Step::Recv { from, len } => self.receive(from, len, next.and_then(|next| landing(from, next))),
            Step::Send { to, span } => self.send(to, span),
            Step::WaitSends { count } => self.wait_sends(count),
            Step::Reduce { into, left, right, completes } => self.reduce(into, left, right, completes),
            Step::Copy { into, source } => self.copy(into, source),
            Step::Release { from } => self.release(from),
        }
    }

    /// A span as raw memory.
    fn raw(&mut self, span: Span) -> *mut [u8] {
        match span.buffer {
            Buffer::Input | Buffer::Output => self.call.buffers.raw(span),
            Buffer::Scratch | Buffer::Accumulator => {
                self.executor.scratch.raw(self.call.buffers.element(), span)
            }
        }
    }

    fn send(&mut self, to: Rank, span: Span) -> Result<(), ExecError> {
        let payload = self.raw(span).cast_const();
        let slot_bytes = self.transport.slot_bytes_of(to);
        if payload.len() > slot_bytes {
            return Err(ExecError::SegmentTooLong { segment_bytes: payload.len(), slot_bytes });
        }
        let len_bytes = u32::try_from(payload.len()).expect("a segment's bytes were checked at the start");
        let header = Header { signature: self.signature.0, sequence: self.call.sequence, len_bytes };
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

    /// Gives a message back, and tells first what the next ones may be, as the sender is told with this.
    fn release(&mut self, from: Rank) -> Result<(), ExecError> {
        if self.executor.ahead.depth() > 0 {
            self.tell_landings();
            self.executor.ahead.released(from);
        }
        self.transport.release(from).map_err(|source| self.transport_error(source))
    }

    /// Waits for a message, which may be put where it is copied to.
    fn receive(&mut self, from: Rank, len: usize, landing: Option<Span>) -> Result<(), ExecError> {
        let expected_bytes = len * self.call.buffers.element().size_bytes();
        let landing = landing.map(|span| self.raw(span));
        // SAFETY: initialised memory that nobody touches until `arrived` has shown the message, and that stays as it is
        // until its release; the module's page says why.
        unsafe { self.transport.expect(from, expected_bytes, landing) };
        let mut since = None;
        loop {
            let arrived = self.transport.arrived(from);
            let arrived = arrived.map_err(|source| ExecError::Transport { step: self.step, source })?;
            if let Some(message) = arrived {
                let header = message.header;
                if header.signature != self.signature.0 {
                    return Err(ExecError::Mismatch {
                        step: self.step,
                        peer: from,
                        sequence: self.call.sequence,
                        peer_sequence: header.sequence,
                        signature: self.signature,
                        peer_signature: Signature(header.signature),
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

    fn reduce(
        &mut self,
        into: Span,
        left: Operand,
        right: Operand,
        completes: bool,
    ) -> Result<(), ExecError> {
        if let (Operand::Slot(_), Operand::Slot(_)) = (left, right) {
            // The transport shows one message at a time.
            self.copy(into, left)?;
            return self.reduce(into, Operand::Span(into), right, completes);
        }
        let (element, op) = (self.call.buffers.element(), self.call.op);
        let divisor = (completes && op == ReduceOp::Avg).then(|| self.plan.schedule().world_size());
        let out = self.raw(into);
        let (left_span, right_span) = (self.span_source(out, left), self.span_source(out, right));
        let (left, right) = match (left, right) {
            (Operand::Slot(from), _) => (self.held(from)?, right_span),
            (_, Operand::Slot(from)) => (left_span, self.held(from)?),
            _ => (left_span, right_span),
        };
        // SAFETY: the ledger has found no open send of this span, so the transport does not read it; operands are
        // either this span itself, of which no slice is made, or apart from it.
        let out = unsafe { &mut *out };
        reduce_into(element, op, divisor, target(into, out), left, right);
        Ok(())
    }

    fn copy(&mut self, into: Span, from: Operand) -> Result<(), ExecError> {
        let element = self.call.buffers.element();
        let out = self.raw(into);
        let source = match from {
            Operand::Slot(from) => self.held(from)?,
            span => self.span_source(out, span),
        };
        match source {
            Source::Destination => return Ok(()),
            // It has landed here.
            Source::Elements(bytes) if std::ptr::addr_eq(bytes, out) => return Ok(()),
            Source::Elements(_) | Source::Wide(_) => {}
        }
        // SAFETY: as in `reduce`. Where the ledger lets a send of the same memory be open, the source is the destination,
        // and this is not reached.
        copy_into(element, target(into, unsafe { &mut *out }), source);
        Ok(())
    }

    /// A span as a source of what is written to `out`. A slot is none yet.
    fn span_source<'b>(&mut self, out: *mut [u8], operand: Operand) -> Source<'b> {
        let Operand::Span(span) = operand else { return Source::Destination };
        let memory = self.raw(span);
        if std::ptr::addr_eq(memory, out) {
            return Source::Destination;
        }
        // SAFETY: the only span that this rank writes meanwhile is the destination; the ledger has checked that it is
        // this one or apart from it. The transport writes to none outside of `receive`. The memory outlives the step.
        let bytes = unsafe { &*memory };
        if span.buffer == Buffer::Accumulator { Source::Wide(bytes) } else { Source::Elements(bytes) }
    }

    /// The payload of the message that is held from a peer.
    fn held<'b>(&mut self, from: Rank) -> Result<Source<'b>, ExecError> {
        let message = self.transport.arrived(from);
        let message = message.map_err(|source| ExecError::Transport { step: self.step, source })?;
        let payload: *const [u8] =
            message.expect("a transport shows a held message until it is released").payload;
        // SAFETY: the slot is this rank's until `release`, which is another step.
        Ok(Source::Elements(unsafe { &*payload }))
    }

    /// Lets time pass in a wait.
    fn pause(&mut self, since: &mut Option<Instant>, wait: Wait) -> Result<(), ExecError> {
        let place = Place { step: self.step, step_count: self.step_count, patience: self.call.patience };
        self.executor.pause(since, wait, place, &mut *self.transport, &mut || self.beside.interrupt())
    }

    fn transport_error(&self, source: crate::transport::TransportError) -> ExecError {
        ExecError::Transport { step: self.step, source }
    }

    fn fault(&self, problem: Problem) -> ExecError {
        self.fault_at(self.step, problem)
    }

    fn fault_at(&self, step: usize, problem: Problem) -> ExecError {
        ExecError::Fault(Fault { rank: self.plan.rank(), step, problem })
    }
}

/// A span as what is written to.
fn target(into: Span, bytes: &mut [u8]) -> Target<'_> {
    if into.buffer == Buffer::Accumulator { Target::Wide(bytes) } else { Target::Elements(bytes) }
}

/// The longest sleep between two looks at the interrupt and the time.
pub(crate) const MAX_SLEEP: Duration = Duration::from_millis(1);
