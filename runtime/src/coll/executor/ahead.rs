//! Which messages land in the caller's memory before the executor comes to them.
//!
//! A transport that writes messages where they belong must know early where that is. [`Ahead`] is shown a call's steps some time
//! before they are done. A message that is only copied to the caller's memory ([`landing`]) may land there as soon as every step
//! before its own that reads or writes that memory is done, and every send from it complete: from then on nothing but this message
//! touches it until its own step comes.
//!
//! It knows memory by its addresses, so that it makes no difference how input and output lie to each other.

use std::collections::VecDeque;
use std::ops::Range;

use efarun_wire::Rank;

use super::super::schedule::{Buffer, Operand, Span, Step};

/// What is known of the steps that come.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The length from which on messages are told; none where that does not help.
    least_bytes: Option<usize>,
    /// How many steps it was shown, of all steps.
    seen: usize,
    /// How many sends of the call they are, with those that were passed over.
    sends: usize,
    /// The last steps that it was shown.
    last: [Option<Step>; 2],
    /// What steps do to the caller's memory that are not done, or were not long ago, in order.
    touches: VecDeque<Touch>,
    /// Messages that may land, in order of their steps.
    landings: VecDeque<Landing>,
    /// Of each peer how many messages it was shown, and how many of them were released.
    peers: Vec<(Rank, usize, usize)>,
}

/// A step reads or writes memory.
#[derive(Debug)]
struct Touch {
    step: usize,
    addresses: Range<usize>,
    /// How many sends of the call there are with it, where it sends.
    sends: Option<usize>,
}

/// A message that may land, of which the transport was not told.
#[derive(Debug)]
struct Landing {
    /// Its receive.
    step: usize,
    from: Rank,
    /// How many of its peer's come before it in the call.
    number: usize,
    memory: *mut [u8],
    /// So many steps must be done,
    steps: usize,
    /// and so many sends complete.
    sends: usize,
}

// SAFETY: an address until the transport is told of it, by the one who answers for it.
unsafe impl Send for Landing {}

/// A message that may land from now on.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) from: Rank,
    /// How many messages of its peer come before it that were not released.
    pub(super) ahead: usize,
    pub(super) memory: *mut [u8],
}

impl Ahead {
    /// Begins a call, in which messages of so many bytes and more are told, if any.
    pub(super) fn start(&mut self, least_bytes: Option<usize>) {
        (self.least_bytes, self.seen, self.sends, self.last) = (least_bytes, 0, 0, [None; 2]);
        self.touches.clear();
        self.landings.clear();
        self.peers.clear();
    }

    /// How many steps it wants to be shown before they are done: none where nothing is told.
    pub(super) fn depth(&self) -> usize {
        self.least_bytes.map_or(0, |_| DEPTH)
    }

    /// How many steps it was shown.
    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    /// Is told that steps, among them so many sends, are done by somebody else. All before them are done.
    pub(super) fn skip(&mut self, to_step: usize, sends: usize) {
        (self.seen, self.last) = (to_step, [None; 2]);
        self.sends += sends;
    }

    /// Is shown the next step, of which `memory` says what the caller's memory at a span is.
    pub(super) fn see(&mut self, step: Step, mut memory: impl FnMut(Span) -> *mut [u8]) {
        let number = self.seen;
        self.seen += 1;
        let mut touch = |span: Span, sends| {
            if is_callers(span) {
                let addresses = addresses(memory(span));
                self.touches.push_back(Touch { step: number, addresses, sends });
            }
        };
        match step {
            Step::Send { span, .. } => {
                self.sends += 1;
                touch(span, Some(self.sends));
            }
            Step::Copy { into, source } => {
                touch(into, None);
                span_of(source).into_iter().for_each(|span| touch(span, None));
            }
            Step::Reduce { into, left, right, .. } => {
                touch(into, None);
                [left, right].into_iter().filter_map(span_of).for_each(|span| touch(span, None));
            }
            Step::Recv { from, .. } => match self.peers.iter_mut().find(|(peer, ..)| *peer == from) {
                Some((_, shown, _)) => *shown += 1,
                None => self.peers.push((from, 1, 0)),
            },
            Step::WaitSends { .. } | Step::Release { .. } => {}
        }
        if let [Some(Step::Recv { from, .. }), Some(copy)] = self.last
            && let Some(into) = landing(from, [copy, step])
            && is_callers(into)
        {
            let memory = memory(into);
            if self.least_bytes.is_some_and(|least| memory.len() >= least) {
                self.add(number - 2, from, memory);
            }
        }
        self.last = [self.last[1], Some(step)];
    }

    fn add(&mut self, step: usize, from: Rank, memory: *mut [u8]) {
        let addresses = addresses(memory);
        let (mut steps, mut sends) = (0, 0);
        let before = self.touches.iter().rev().filter(|touch| touch.step < step);
        for touch in before.filter(|touch| overlap(&touch.addresses, &addresses)) {
            steps = steps.max(touch.step + 1);
            sends = sends.max(touch.sends.unwrap_or(0));
        }
        let shown = self.peers.iter().find(|(peer, ..)| *peer == from).map_or(0, |(_, shown, _)| *shown);
        self.landings.push_back(Landing { step, from, number: shown - 1, memory, steps, sends });
    }

    /// The next message that may land from now on, when so many steps are done; `are_complete` says whether the call's first so
    /// many sends are.
    pub(super) fn ready(&mut self, done: usize, are_complete: impl Fn(usize) -> bool) -> Option<Ready> {
        while self
            .touches
            .front()
            .is_some_and(|touch| touch.step < done && touch.sends.is_none_or(&are_complete))
        {
            self.touches.pop_front();
        }
        // What is about to be received is not told any more.
        while self.landings.front().is_some_and(|landing| landing.step <= done) {
            self.landings.pop_front();
        }
        let is_ready = |landing: &Landing| landing.steps <= done && are_complete(landing.sends);
        let index = self.landings.iter().position(is_ready)?;
        let Landing { from, number, memory, .. } = self.landings.remove(index)?;
        let released = self.peers.iter().find(|(peer, ..)| *peer == from).map_or(0, |(.., it)| *it);
        Some(Ready { from, ahead: number - released, memory })
    }

    /// Is told that a message was released.
    pub(super) fn released(&mut self, from: Rank) {
        if let Some((.., released)) = self.peers.iter_mut().find(|(peer, ..)| *peer == from) {
            *released += 1;
        }
    }
}

/// Where a message of `from` may land, for the steps behind its `Recv`: what follows is that it is copied, as it is, and
/// released.
pub(super) fn landing(from: Rank, next: [Step; 2]) -> Option<Span> {
    match next {
        [Step::Copy { into, source: Operand::Slot(source) }, Step::Release { from: released }]
            if source == from && released == from && into.buffer != Buffer::Accumulator =>
        {
            Some(into)
        }
        _ => None,
    }
}

fn is_callers(span: Span) -> bool {
    matches!(span.buffer, Buffer::Input | Buffer::Output)
}

fn span_of(operand: Operand) -> Option<Span> {
    match operand {
        Operand::Span(span) => Some(span),
        Operand::Slot(_) => None,
    }
}

fn addresses(memory: *mut [u8]) -> Range<usize> {
    let start = memory.cast::<u8>().addr();
    start..start + memory.len()
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// How many steps it is shown before they are done. A window of messages from a few peers is some dozen; what a step is looked
/// up in grows with it, and takes some nanoseconds each where a message takes microseconds.
const DEPTH: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows steps on a vector of so many bytes, which input and output both are.
    fn seen(steps: &[Step], vector: &mut [u8]) -> Ahead {
        let mut ahead = Ahead::default();
        ahead.start(Some(4));
        for &step in steps {
            ahead.see(step, |span| &raw mut vector[span.start..span.start + span.len]);
        }
        ahead
    }

    /// What may land when so many steps are done and sends complete: the peer, how many others come before, and the offset.
    fn ready(ahead: &mut Ahead, done: usize, sends: usize, vector: &[u8]) -> Vec<(u32, usize, usize)> {
        let start = vector.as_ptr().addr();
        let next = || ahead.ready(done, |count| count <= sends);
        let offset = |memory: *mut [u8]| memory.cast::<u8>().addr() - start;
        std::iter::from_fn(next).map(|it| (it.from.0, it.ahead, offset(it.memory))).collect()
    }

    const PEER: Rank = Rank(1);

    fn lands(start: usize, len: usize) -> [Step; 3] {
        [
            Step::Recv { from: PEER, len },
            Step::Copy { into: Span::output(start, len), source: Operand::Slot(PEER) },
            Step::Release { from: PEER },
        ]
    }

    fn is_reduced(start: usize, len: usize) -> [Step; 3] {
        let into = Span::output(start, len);
        let reduce =
            Step::Reduce { into, left: Operand::Slot(PEER), right: Operand::Span(into), completes: false };
        [Step::Recv { from: PEER, len }, reduce, Step::Release { from: PEER }]
    }

    #[test]
    fn what_nothing_touches_before_may_land_at_once() {
        let mut vector = [0; 40];
        let steps = [is_reduced(30, 10), lands(0, 10), lands(10, 3), lands(13, 10)].concat();
        let mut ahead = seen(&steps, &mut vector);
        // The one of three bytes is too short to be worth it, and counts.
        assert_eq!(ready(&mut ahead, 0, 0, &vector), [(1, 1, 0), (1, 3, 13)]);
        assert_eq!(ready(&mut ahead, 0, 0, &vector), []);
    }

    #[test]
    fn releases_are_counted() {
        let mut vector = [0; 40];
        let steps = [lands(0, 10), is_reduced(20, 10), lands(20, 10)].concat();
        let mut ahead = seen(&steps, &mut vector);
        assert_eq!(ready(&mut ahead, 0, 0, &vector), [], "the first is received at once");
        ahead.released(PEER);
        assert_eq!(ready(&mut ahead, 4, 0, &vector), [], "not before what is reduced there");
        ahead.released(PEER);
        assert_eq!(ready(&mut ahead, 5, 0, &vector), [(1, 0, 20)]);
        let mut late = seen(&steps, &mut vector);
        assert_eq!(ready(&mut late, 6, 0, &vector), [], "it is received now");
    }

    #[test]
    fn what_is_sent_is_landed_in_only_when_it_was() {
        let mut vector = [0; 40];
        let send = |start| Step::Send { to: PEER, span: Span::output(start, 10) };
        let steps = [&[send(20), send(0)][..], &is_reduced(30, 5), &lands(5, 10), &lands(25, 5)].concat();
        let mut ahead = seen(&steps, &mut vector);
        assert_eq!(ready(&mut ahead, 2, 0, &vector), []);
        assert_eq!(ready(&mut ahead, 2, 1, &vector), [(1, 2, 25)]);
        assert_eq!(ready(&mut ahead, 2, 2, &vector), [(1, 1, 5)]);
        // A send that is to come counts as well.
        let mut ahead = seen(&[&is_reduced(30, 5)[..], &[send(0)], &lands(5, 10)].concat(), &mut vector);
        assert_eq!(ready(&mut ahead, 3, 0, &vector), []);
        assert_eq!(ready(&mut ahead, 3, 1, &vector), [], "it is not made, however many others are complete");
    }

    #[test]
    fn operands_and_other_landings_are_waited_for() {
        let mut vector = [0; 40];
        let copy = Step::Copy {
            into: Span::output(20, 10),
            source: Operand::Span(Span { buffer: Buffer::Input, start: 0, len: 10 }),
        };
        let steps = [&is_reduced(30, 5)[..], &[copy], &lands(0, 5), &lands(20, 5), &lands(0, 5)].concat();
        let mut ahead = seen(&steps, &mut vector);
        assert_eq!(ready(&mut ahead, 3, 0, &vector), []);
        assert_eq!(ready(&mut ahead, 4, 0, &vector), [(1, 2, 20)], "the first is received at once");
        ahead.released(PEER);
        ahead.released(PEER);
        assert_eq!(ready(&mut ahead, 5, 0, &vector), []);
        assert_eq!(ready(&mut ahead, 6, 0, &vector), [(1, 1, 0)], "when the first was copied there");
    }

    #[test]
    fn steps_that_are_done_otherwise_are_passed_over() {
        let mut vector = [0; 40];
        let mut ahead = seen(&[Step::Send { to: PEER, span: Span::output(0, 10) }], &mut vector);
        ahead.skip(10, 3);
        assert_eq!(ahead.seen(), 10);
        for step in [is_reduced(30, 5), lands(0, 10)].concat() {
            ahead.see(step, |span| &raw mut vector[span.start..span.start + span.len]);
        }
        assert_eq!(ready(&mut ahead, 10, 4, &vector), [(1, 1, 0)]);
    }
}
