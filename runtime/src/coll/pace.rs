//! Where a rank must wait for its sends.
//!
//! A generator that lists what is sent, received, reduced and copied leaves the waits to [`paced`]: it puts a
//! `WaitSends` before a step that the `ledger` would refuse without it, as late as that is, and one for all sends at the
//! end. A wait that is not needed is never made.

use std::collections::VecDeque;
use std::ops::Range;

use efarun_wire::Rank;

use super::schedule::{Operand, Placement, Schedule, Span, Step, Steps};

/// A rank's steps: `messages` with the waits that they need, or, where nobody sends, what is left of the collective.
pub(super) fn steps_of<'s, I: Iterator<Item = Step> + Send + 's>(
    schedule: &dyn Schedule,
    rank: Rank,
    messages: impl FnOnce() -> I,
) -> Steps<'s> {
    if !schedule.shape().has_messages() {
        return schedule.shape().local_copy(rank);
    }
    paced(Placement::of(schedule, rank), schedule.max_open_sends(rank), messages())
}

/// Adds the waits to a rank's steps. At most `max_open` sends are then open at once.
pub(super) fn paced<'s>(
    placement: Placement,
    max_open: usize,
    steps: impl Iterator<Item = Step> + Send + 's,
) -> Steps<'s> {
    assert!(max_open > 0, "a rank that sends has open sends");
    let open = VecDeque::new();
    Box::new(Paced { steps, placement, max_open, open, posted: 0, next: None })
}

/// A rank's steps with waits.
struct Paced<I> {
    steps: I,
    placement: Placement,
    max_open: usize,
    /// Spans of sends that no wait covers yet, oldest first.
    open: VecDeque<Span>,
    posted: usize,
    /// The step that the last wait was for.
    next: Option<Step>,
}

impl<I: Iterator<Item = Step>> Paced<I> {
    /// How many of the open sends must be complete before this step.
    fn needed(&self, step: &Step) -> usize {
        let written = |into, copied_from| {
            let disturbed =
                self.open.iter().rposition(|&sent| self.placement.disturbs(sent, into, copied_from));
            disturbed.map_or(0, |last| last + 1)
        };
        match *step {
            Step::Send { .. } => (self.open.len() + 1).saturating_sub(self.max_open),
            Step::Reduce { into, .. } => written(into, None),
            Step::Copy { into, source: Operand::Span(from) } => written(into, Some(from)),
            Step::Copy { into, source: Operand::Slot(_) } => written(into, None),
            _ => 0,
        }
    }

    fn wait(&mut self, covered: usize) -> Step {
        self.open.drain(..covered);
        Step::WaitSends { count: self.posted - self.open.len() }
    }

    fn take(&mut self, step: Step) -> Step {
        if let Step::Send { span, .. } = step {
            self.open.push_back(span);
            self.posted += 1;
        }
        step
    }
}

impl<I: Iterator<Item = Step>> Iterator for Paced<I> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(step) = self.next.take() {
            return Some(self.take(step));
        }
        let Some(step) = self.steps.next() else {
            return (!self.open.is_empty()).then(|| self.wait(self.open.len()));
        };
        match self.needed(&step) {
            0 => Some(self.take(step)),
            covered => {
                self.next = Some(step);
                Some(self.wait(covered))
            }
        }
    }
}

/// Consecutive elements, cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segments {
    start: usize,
    len: usize,
    segment_len: usize,
}

impl Segments {
    pub(super) fn new(range: Range<usize>, segment_len: usize) -> Self {
        Segments { start: range.start, len: range.len(), segment_len }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.len.div_ceil(self.segment_len)
    }

    /// Start and length of one.
    pub(super) fn get(&self, number: usize) -> (usize, usize) {
        let offset = number * self.segment_len;
        (self.start + offset, self.segment_len.min(self.len - offset))
    }
}

/// Two streams of messages at once, one out and one in: a window of sends, what can be done `meanwhile`, then each
/// receive followed by a send, for as long as there are any. With a window of no more than the credits nobody waits for a credit that a peer would have to
/// receive for first.
pub(super) fn exchange(
    window: usize,
    sends: usize,
    receives: usize,
    meanwhile: Option<Step>,
    send: impl Fn(usize) -> Step + Copy + Send,
    receive: impl Fn(usize) -> [Step; 3] + Send,
) -> impl Iterator<Item = Step> + Send {
    let window = window.min(sends);
    let rounds = receives.max(sends - window);
    let round = move |number| {
        let received = (number < receives).then(|| receive(number));
        let sent = (window + number < sends).then(|| send(window + number));
        received.into_iter().flatten().chain(sent)
    };
    (0..window).map(send).chain(meanwhile).chain((0..rounds).flat_map(round))
}
