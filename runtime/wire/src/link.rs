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
pub const MAX_BULK_CHUNK_BYTES: usize = 32 << 10;

/// The window that head and agents use for output and for input: what may be on its way, and so the most that can
/// stand between a control message and the other end.
pub const BULK_WINDOW_BYTES: u32 = 1 << 20;

/// Bulk frames queued beyond which their sources pause. A source that was told late overshoots by a chunk.
pub const MAX_QUEUED_BULK_BYTES: usize = 256 << 10;

/// Control frames queued beyond which ranks are not listened to.
pub const MAX_QUEUED_CONTROL_BYTES: usize = 64 << 20;

/// Below two chunks a sender could wait for credit that the receiver holds back.
const MIN_WINDOW_BYTES: u32 = 2 * MAX_BULK_CHUNK_BYTES as u32;
