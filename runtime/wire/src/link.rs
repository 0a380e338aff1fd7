//! What goes first on a link.
//!
//! Two classes share the link between head and agent. *Control* (out-of-band messages, exits, abort, ping) goes
//! before everything else and needs no permission. *Bulk* (what ranks write and read) goes when there is nothing
//! else, and only as far as the other end has granted credit, so that there is never more of it on its way than a
//! window: a gigabyte of log delays an abort by one window at most.
//!
//! [`OutboundQueue`] is the sender's side, [`InboundCredit`] the receiver's. Order is kept within a class and not
//! between them: a rank's exit may overtake its last output, which ends with a message of its own.

use std::collections::VecDeque;

/// What waits to be sent on one link, in the order in which it will be.
#[derive(Debug)]
pub struct OutboundQueue {
    control: VecDeque<Vec<u8>>,
    bulk: VecDeque<Bulk>,
    control_bytes: usize,
    bulk_bytes: usize,
    credit_bytes: u64,
}

#[derive(Debug)]
struct Bulk {
    frame: Vec<u8>,
    cost_bytes: u32,
}

impl OutboundQueue {
    /// An empty queue that may send `credit_bytes` of bulk before it is granted more.
    pub fn new(credit_bytes: u32) -> OutboundQueue {
        OutboundQueue {
            control: VecDeque::new(),
            bulk: VecDeque::new(),
            control_bytes: 0,
            bulk_bytes: 0,
            credit_bytes: credit_bytes.into(),
        }
    }

    /// Queues a control frame.
    pub fn push_control(&mut self, frame: Vec<u8>) {
        self.control_bytes += frame.len();
        self.control.push_back(frame);
    }

    /// Queues a bulk frame that carries `cost_bytes` of a stream; the end of a stream carries none and still keeps
    /// its place.
    ///
    /// # Errors
    ///
    /// [`ChunkTooLong`] beyond [`MAX_BULK_CHUNK_BYTES`]: such a frame might never be granted enough credit.
    pub fn push_bulk(&mut self, frame: Vec<u8>, cost_bytes: usize) -> Result<(), ChunkTooLong> {
        match u32::try_from(cost_bytes) {
            Ok(cost_bytes) if cost_bytes as usize <= MAX_BULK_CHUNK_BYTES => {
                self.bulk_bytes += frame.len();
                self.bulk.push_back(Bulk { frame, cost_bytes });
                Ok(())
            }
            _ => Err(ChunkTooLong { len_bytes: cost_bytes }),
        }
    }

    /// Takes credit from the other end.
    pub fn grant(&mut self, bytes: u32) {
        self.credit_bytes = self.credit_bytes.saturating_add(bytes.into());
    }

    /// Gives the frame to send next: the oldest control frame, else the oldest bulk frame that credit suffices for.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        if let Some(frame) = self.control.pop_front() {
            self.control_bytes -= frame.len();
            return Some(frame);
        }
        let cost_bytes = u64::from(self.bulk.front()?.cost_bytes);
        self.credit_bytes = self.credit_bytes.checked_sub(cost_bytes)?;
        let bulk = self.bulk.pop_front()?;
        self.bulk_bytes -= bulk.frame.len();
        Some(bulk.frame)
    }

    /// Whether the sources of bulk should pause: their readers stop reading pipes until this is `false` again.
    pub fn bulk_is_full(&self) -> bool {
        self.bulk_bytes >= MAX_QUEUED_BULK_BYTES
    }

    /// Whether ranks send control faster than the link carries it: an agent then stops reading the ranks' sockets.
    pub fn control_is_full(&self) -> bool {
        self.control_bytes >= MAX_QUEUED_CONTROL_BYTES
    }

    /// Whether nothing waits, with or without credit.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.bulk.is_empty()
    }
}

/// A bulk frame that carries more than a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of {len_bytes} bytes, where at most {MAX_BULK_CHUNK_BYTES} are sent at once")]
pub struct ChunkTooLong {
    /// Its length.
    pub len_bytes: usize,
}

/// The receiver's account of the credit that it has granted.
#[derive(Debug)]
pub struct InboundCredit {
    window_bytes: u32,
    granted_bytes: u32,
    consumed_bytes: u32,
}

impl InboundCredit {
    /// An account over a window of `window_bytes`, two chunks at least: that many bytes are on their way or unread
    /// at most. [`InboundCredit::window_bytes`] is what the sender starts with.
    pub fn new(window_bytes: u32) -> InboundCredit {
        let window_bytes = window_bytes.max(MIN_WINDOW_BYTES);
        InboundCredit { window_bytes, granted_bytes: window_bytes, consumed_bytes: 0 }
    }

    /// The window: the sender's first credit.
    pub fn window_bytes(&self) -> u32 {
        self.window_bytes
    }

    /// Books bulk that arrived.
    ///
    /// # Errors
    ///
    /// [`CreditExceeded`] when the sender had no credit for it, which no sender of ours does.
    pub fn on_received(&mut self, cost_bytes: usize) -> Result<(), CreditExceeded> {
        let exceeded = CreditExceeded { received_bytes: cost_bytes, credit_bytes: self.granted_bytes };
        let cost_bytes = u32::try_from(cost_bytes).map_err(|_| exceeded)?;
        self.granted_bytes = self.granted_bytes.checked_sub(cost_bytes).ok_or(exceeded)?;
        Ok(())
    }

    /// Books bulk that was written where it belongs. Gives the credit to grant now, if it is worth a message: a
    /// quarter of the window, so that a sender that is kept up with never stops.
    pub fn on_consumed(&mut self, cost_bytes: usize) -> Option<u32> {
        let unread_bytes = self.window_bytes - self.granted_bytes - self.consumed_bytes;
        let cost_bytes = u32::try_from(cost_bytes).unwrap_or(u32::MAX);
        debug_assert!(cost_bytes <= unread_bytes, "consumed {cost_bytes} of {unread_bytes} bytes");
        self.consumed_bytes += cost_bytes.min(unread_bytes);
        if self.consumed_bytes < self.window_bytes / 4 {
            return None;
        }
        self.granted_bytes += self.consumed_bytes;
        Some(std::mem::take(&mut self.consumed_bytes))
    }
}

/// A sender that sent bulk without credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{received_bytes} bytes arrived, where credit was left for {credit_bytes}")]
pub struct CreditExceeded {
    /// What arrived.
    pub received_bytes: usize,
    /// What it had credit for.
    pub credit_bytes: u32,
}

/// The most bytes of a stream that one bulk frame carries.
pub const MAX_BULK_CHUNK_BYTES: usize = 64 << 10;

/// The window that the head grants each agent for output: what may be on its way, and so the most that can stand
/// between a control message and the head.
pub const BULK_WINDOW_BYTES: u32 = 1 << 20;

/// Bulk frames queued beyond which their sources pause. A source that was told late overshoots by a chunk.
pub const MAX_QUEUED_BULK_BYTES: usize = 256 << 10;

/// Control frames queued beyond which ranks are not listened to.
pub const MAX_QUEUED_CONTROL_BYTES: usize = 64 << 20;

/// Below two chunks a sender could wait for credit that the receiver holds back.
const MIN_WINDOW_BYTES: u32 = 2 * MAX_BULK_CHUNK_BYTES as u32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame that says what it is: class, number, and for bulk what it costs.
    fn frame(class: u8, number: usize) -> Vec<u8> {
        [&[class][..], &(number as u32).to_le_bytes()].concat()
    }

    fn number(frame: &[u8]) -> usize {
        u32::from_le_bytes(frame[1..].try_into().unwrap()) as usize
    }

    #[test]
    fn control_overtakes_bulk_that_waited_longer() {
        let mut queue = OutboundQueue::new(100);
        queue.push_bulk(b"log".to_vec(), 3).unwrap();
        queue.push_control(b"abort".to_vec());
        queue.push_control(b"exit".to_vec());
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [b"abort".to_vec(), b"exit".to_vec(), b"log".to_vec()]);
    }

    #[test]
    fn an_abort_passes_a_gigabyte_of_log() {
        let mut queue = OutboundQueue::new(BULK_WINDOW_BYTES);
        let chunk = vec![b'x'; MAX_BULK_CHUNK_BYTES];
        let mut sent_bytes = 0;
        // As many chunks as the source is allowed to queue, over and over, until credit ends.
        while sent_bytes < 1 << 30 {
            while !queue.bulk_is_full() {
                queue.push_bulk(chunk.clone(), chunk.len()).unwrap();
            }
            match queue.pop() {
                Some(frame) => sent_bytes += frame.len(),
                None => break,
            }
        }
        assert_eq!(sent_bytes, BULK_WINDOW_BYTES as usize);
        queue.push_control(b"abort".to_vec());
        assert_eq!(queue.pop(), Some(b"abort".to_vec()));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn the_end_of_a_stream_costs_nothing_and_keeps_its_place() {
        let mut queue = OutboundQueue::new(0);
        queue.push_bulk(b"last words".to_vec(), 10).unwrap();
        queue.push_bulk(b"end".to_vec(), 0).unwrap();
        assert_eq!(queue.pop(), None);
        queue.grant(10);
        assert_eq!(queue.pop(), Some(b"last words".to_vec()));
        assert_eq!(queue.pop(), Some(b"end".to_vec()));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_chunk_beyond_the_limit_is_refused() {
        let mut queue = OutboundQueue::new(u32::MAX);
        let len_bytes = MAX_BULK_CHUNK_BYTES + 1;
        assert_eq!(queue.push_bulk(Vec::new(), len_bytes), Err(ChunkTooLong { len_bytes }));
        assert_eq!(queue.push_bulk(Vec::new(), usize::MAX), Err(ChunkTooLong { len_bytes: usize::MAX }));
        assert!(queue.is_empty());
    }

    #[test]
    fn sources_are_paused_while_much_waits() {
        let mut queue = OutboundQueue::new(u32::MAX);
        let big = vec![0; MAX_QUEUED_BULK_BYTES / 2];
        for is_full in [false, true] {
            queue.push_bulk(big.clone(), 1).unwrap();
            assert_eq!(queue.bulk_is_full(), is_full);
        }
        assert!(!queue.control_is_full());
        queue.push_control(vec![0; MAX_QUEUED_CONTROL_BYTES]);
        assert!(queue.control_is_full());
        while queue.pop().is_some() {}
        assert!(!queue.bulk_is_full() && !queue.control_is_full());
    }

    #[test]
    fn bulk_without_credit_is_noticed() {
        let mut credit = InboundCredit::new(BULK_WINDOW_BYTES);
        let window_bytes = credit.window_bytes();
        credit.on_received(window_bytes as usize - 1).unwrap();
        let exceeded = CreditExceeded { received_bytes: 2, credit_bytes: 1 };
        assert_eq!(credit.on_received(2), Err(exceeded));
        assert!(credit.on_received(usize::MAX).is_err());
        credit.on_received(1).unwrap();
    }

    #[derive(Debug, Clone)]
    enum Op {
        Control,
        Bulk(usize),
        /// The sender sends so many frames, as far as it may.
        Send(usize),
        /// The receiver handles so many frames.
        Consume(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            1 => Just(Op::Control),
            4 => (0..=MAX_BULK_CHUNK_BYTES).prop_map(Op::Bulk),
            4 => (1usize..5).prop_map(Op::Send),
            3 => (1usize..5).prop_map(Op::Consume),
        ]
    }

    /// Both sides of a link, and what is between them.
    struct Link {
        queue: OutboundQueue,
        credit: InboundCredit,
        costs: Vec<usize>,
        control_pushed: usize,
        on_the_way: VecDeque<usize>,
        control_sent: Vec<usize>,
        bulk_sent: Vec<usize>,
        unread_bytes: usize,
    }

    impl Link {
        fn new(window_bytes: u32) -> Link {
            let credit = InboundCredit::new(window_bytes);
            Link {
                queue: OutboundQueue::new(credit.window_bytes()),
                credit,
                costs: Vec::new(),
                control_pushed: 0,
                on_the_way: VecDeque::new(),
                control_sent: Vec::new(),
                bulk_sent: Vec::new(),
                unread_bytes: 0,
            }
        }

        fn apply(&mut self, op: &Op) {
            match *op {
                Op::Control => {
                    self.queue.push_control(frame(b'c', self.control_pushed));
                    self.control_pushed += 1;
                }
                Op::Bulk(cost_bytes) => {
                    self.queue.push_bulk(frame(b'b', self.costs.len()), cost_bytes).unwrap();
                    self.costs.push(cost_bytes);
                }
                Op::Send(count) => (0..count).for_each(|_| self.send()),
                Op::Consume(count) => (0..count).for_each(|_| self.consume()),
            }
        }

        fn send(&mut self) {
            let control_waits = self.control_sent.len() < self.control_pushed;
            let Some(frame) = self.queue.pop() else {
                assert!(!control_waits, "control waits for nothing");
                return;
            };
            assert_eq!(frame[0] == b'c', control_waits, "control goes first");
            if frame[0] == b'c' {
                self.control_sent.push(number(&frame));
            } else {
                let cost_bytes = self.costs[number(&frame)];
                self.bulk_sent.push(number(&frame));
                self.unread_bytes += cost_bytes;
                assert!(self.unread_bytes <= self.credit.window_bytes() as usize, "more than a window");
                self.credit.on_received(cost_bytes).expect("a sender stays within its credit");
                self.on_the_way.push_back(cost_bytes);
            }
        }

        fn consume(&mut self) {
            let Some(cost_bytes) = self.on_the_way.pop_front() else { return };
            self.unread_bytes -= cost_bytes;
            if let Some(bytes) = self.credit.on_consumed(cost_bytes) {
                self.queue.grant(bytes);
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_swapped_and_credit_holds(
            window_bytes in 0u32..400_000,
            ops in proptest::collection::vec(op(), 0..300),
        ) {
            let mut link = Link::new(window_bytes);
            ops.iter().for_each(|op| link.apply(op));
            // A receiver that keeps up lets everything through: no credit gets stuck.
            while !link.queue.is_empty() {
                let sent = link.control_sent.len() + link.bulk_sent.len();
                link.send();
                (0..=link.on_the_way.len()).for_each(|_| link.consume());
                link.send();
                prop_assert!(link.control_sent.len() + link.bulk_sent.len() > sent, "stuck");
            }
            prop_assert_eq!(&link.control_sent, &(0..link.control_pushed).collect::<Vec<_>>());
            prop_assert_eq!(&link.bulk_sent, &(0..link.costs.len()).collect::<Vec<_>>());
        }
    }
}
