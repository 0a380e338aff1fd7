//! Completion queues.

use std::collections::VecDeque;

use super::work::Completion;

/// The number of a completion queue on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u32);

/// A completion queue: completions that its consumer has not read.
#[derive(Debug)]
pub struct CompletionQueue {
    entries: VecDeque<Completion>,
    capacity: usize,
    /// Whether the next completion is to raise an event.
    armed: bool,
    /// How many completions found it full, and were lost.
    lost: u64,
}

impl CompletionQueue {
    /// An empty queue. One with a channel for events is born armed: libfabric waits for a first event without having
    /// asked for one.
    pub fn new(capacity: u32, has_channel: bool) -> CompletionQueue {
        CompletionQueue { entries: VecDeque::new(), capacity: capacity as usize, armed: has_channel, lost: 0 }
    }

    /// Adds a completion, and says whether that raises an event. A full queue loses it, as a real one does.
    pub fn push(&mut self, completion: Completion) -> bool {
        if self.entries.len() >= self.capacity {
            self.lost += 1;
            return false;
        }
        self.entries.push_back(completion);
        std::mem::take(&mut self.armed)
    }

    /// Takes the oldest completion.
    pub fn pop(&mut self) -> Option<Completion> {
        self.entries.pop_front()
    }

    /// Asks for an event at the next completion, and says whether it is due now: what is unread counts as next.
    pub fn arm(&mut self) -> bool {
        self.armed = self.entries.is_empty();
        !self.armed
    }

    /// Forgets the completions of a queue pair that closes.
    pub fn purge(&mut self, pair: crate::address::Qpn) {
        self.entries.retain(|completion| completion.pair != pair);
    }

    /// How many completions were lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::super::work::Completed;
    use super::*;
    use crate::address::Qpn;
    use crate::status::Status;

    fn completion(id: u64) -> Completion {
        Completion {
            id,
            status: Status::Ok,
            what: Completed::Send,
            len_bytes: 0,
            immediate: None,
            pair: Qpn(id as u32 % 2),
            source: None,
            is_unsolicited: false,
        }
    }

    #[test]
    fn event_comes_once_per_arming() {
        let mut queue = CompletionQueue::new(10, true);
        assert!(queue.push(completion(1)) && !queue.push(completion(2)));
        assert!(queue.arm(), "unread completions are due at once");
        assert!(queue.pop().is_some() && queue.pop().is_some() && queue.pop().is_none());
        assert!(!queue.arm());
        assert!(queue.push(completion(3)) && !queue.push(completion(4)));
    }

    #[test]
    fn full_queue_loses_the_new() {
        let mut queue = CompletionQueue::new(2, false);
        for id in 0..4 {
            queue.push(completion(id));
        }
        assert_eq!((queue.pop().unwrap().id, queue.pop().unwrap().id, queue.lost()), (0, 1, 2));
    }

    #[test]
    fn closing_pair_takes_its_completions_along() {
        let mut queue = CompletionQueue::new(9, false);
        for id in 0..4 {
            queue.push(completion(id));
        }
        queue.purge(Qpn(0));
        assert_eq!((queue.pop().unwrap().id, queue.pop().unwrap().id, queue.pop()), (1, 3, None));
    }
}
