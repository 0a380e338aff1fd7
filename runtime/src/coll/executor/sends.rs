//! Which sends of a rank are complete.
//!
//! The transport completes sends in any order; a schedule waits for the first so many. [`Sends`] turns the one into
//! the other, with memory for the sends that are open at once.

use std::collections::VecDeque;

use efarun_wire::Rank;

use crate::transport::SendToken;

/// The sends of one call, numbered on from call to call.
#[derive(Debug, Default)]
pub(super) struct Sends {
    /// Sends from `front` on; those before it are complete.
    in_flight: VecDeque<InFlight>,
    /// Number of the oldest send in flight, over all calls: a token is such a number.
    front: u64,
    /// Number of this call's first send.
    first: u64,
}

#[derive(Debug)]
struct InFlight {
    to: Rank,
    is_complete: bool,
}

impl Sends {
    /// Begins a call that has at most so many sends open. Whatever an earlier call left is forgotten.
    pub(super) fn start(&mut self, max_open: usize) {
        self.front += self.in_flight.len() as u64;
        self.first = self.front;
        self.in_flight.clear();
        self.in_flight.reserve(max_open);
    }

    /// The token for the next send.
    pub(super) fn next_token(&self) -> SendToken {
        SendToken(self.front + self.in_flight.len() as u64)
    }

    /// Enters the send that has [`Sends::next_token`].
    pub(super) fn posted(&mut self, to: Rank) {
        self.in_flight.push_back(InFlight { to, is_complete: false });
    }

    /// Counts sends that are not made, as if they were complete. None is in flight.
    pub(super) fn skip(&mut self, count: usize) {
        debug_assert!(self.in_flight.is_empty(), "a stage ends when its sends are complete");
        self.front += count as u64;
    }

    /// Marks a send as complete. Says whether it was in flight.
    pub(super) fn completed(&mut self, token: SendToken) -> bool {
        let index = token.0.checked_sub(self.front).and_then(|index| usize::try_from(index).ok());
        let Some(send) = index.and_then(|index| self.in_flight.get_mut(index)) else { return false };
        if std::mem::replace(&mut send.is_complete, true) {
            return false;
        }
        while self.in_flight.front().is_some_and(|send| send.is_complete) {
            self.in_flight.pop_front();
            self.front += 1;
        }
        true
    }

    /// Whether a send that was in flight is complete.
    pub(super) fn is_complete(&self, token: SendToken) -> bool {
        let index = token.0.checked_sub(self.front).and_then(|index| usize::try_from(index).ok());
        index.is_none_or(|index| self.in_flight.get(index).is_some_and(|send| send.is_complete))
    }

    /// The receiver of the oldest send that is not complete, if it is one of this call's first `count`.
    pub(super) fn oldest_of(&self, count: usize) -> Option<Rank> {
        let complete = self.front - self.first;
        self.in_flight.front().filter(|_| complete < count as u64).map(|send| send.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(sends: &mut Sends, count: u32) -> Vec<SendToken> {
        let post_one = |rank| {
            let token = sends.next_token();
            sends.posted(Rank(rank));
            token
        };
        (0..count).map(post_one).collect()
    }

    #[test]
    fn the_first_sends_are_complete_when_all_of_them_are_in_any_order() {
        let mut sends = Sends::default();
        sends.start(3);
        let tokens = post(&mut sends, 3);
        assert!(sends.completed(tokens[1]));
        assert_eq!(
            tokens.iter().map(|token| sends.is_complete(*token)).collect::<Vec<_>>(),
            [false, true, false]
        );
        assert_eq!(sends.oldest_of(1), Some(Rank(0)));
        assert!(sends.completed(tokens[0]));
        assert!(sends.is_complete(tokens[0]) && !sends.is_complete(tokens[2]));
        assert_eq!(sends.oldest_of(2), None);
        assert_eq!(sends.oldest_of(3), Some(Rank(2)));
    }

    /// Without it a call would wait for sends that are made later, as if they were those of a stage.
    #[test]
    fn what_is_skipped_counts_as_complete() {
        let mut sends = Sends::default();
        sends.start(2);
        sends.skip(2);
        let tokens = post(&mut sends, 2);
        assert_eq!(sends.oldest_of(2), None);
        assert_eq!(sends.oldest_of(3), Some(Rank(0)));
        assert!(sends.completed(tokens[0]));
        assert_eq!(sends.oldest_of(3), None);
    }

    #[test]
    fn tokens_of_no_send_are_told_apart() {
        let mut sends = Sends::default();
        sends.start(2);
        let tokens = post(&mut sends, 2);
        assert!(sends.completed(tokens[0]) && sends.completed(tokens[1]));
        assert!(!sends.completed(tokens[1]));
        sends.start(2);
        let again = post(&mut sends, 1);
        assert!(!sends.completed(tokens[0]));
        assert!(!sends.completed(SendToken(again[0].0 + 1)));
        assert!(sends.completed(again[0]));
    }
}
