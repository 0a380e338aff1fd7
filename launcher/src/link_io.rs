//! A link between head and agent, as tasks see it: typed messages over a byte stream, plain or sealed.
//!
//! Given the two directions of a stream, and what the handshake left where the link is sealed, [`open`] gives a
//! [`LinkSender`] and a [`LinkReceiver`]. The agent opens `open::<HeadMessage, AgentMessage>(…)`, the head the
//! mirror image. What goes first and how much bulk may be on its way is [`efarun_wire::link`]'s decision; this
//! module only moves the bytes.
//!
//! - [`LinkSender`] may be cloned. `send` and `send_bulk` never wait; who produces bulk calls
//!   [`LinkSender::bulk_space`] before each chunk, and who relays ranks' control messages
//!   [`LinkSender::control_space`], so that memory stays bounded when the other end is slow. Credit that the other
//!   end grants in a message is handed to [`LinkSender::grant`] by whoever reads that message.
//! - [`LinkReceiver::receive`] can be cancelled and called again: it belongs into a `select!`. Nothing is read
//!   ahead of it but a buffer, so a receiver that is not polled holds the other end back.
//! - [`LinkSender::finish`] waits until everything sent has been handed to the kernel, and closes the direction.
//!   Dropping every sender does the same without waiting.
//!
//! Not here: heartbeats (their clock is the owner's; [`LinkReceiver::last_heard`] feeds them), the handshake, and
//! what to do about a link that ended.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use efarun_wire::frame::{self, FrameError, FrameReader};
use efarun_wire::link::{ChunkTooLong, OutboundQueue};
use efarun_wire::oob::MAX_RANK_BODY_BYTES;
use efarun_wire::secure::{Authenticated, OpeningHalf, SealingHalf, SecureError};

/// A stream's readable direction, whatever it is made of.
pub type ByteSource = Box<dyn AsyncRead + Send + Unpin>;
/// A stream's writable direction, whatever it is made of.
pub type ByteSink = Box<dyn AsyncWrite + Send + Unpin>;

/// Opens a link on a stream: `authenticated` is what the handshake gave, `None` for the agent's own channel, which
/// is protected by whatever carries it. `bulk_credit_bytes` is what may be sent of bulk before more is granted.
///
/// Starts one task on the current runtime, which writes until the last sender is gone or the stream fails.
pub fn open<In, Out>(
    source: ByteSource,
    sink: ByteSink,
    authenticated: Option<Authenticated>,
    bulk_credit_bytes: u32,
) -> (LinkSender<Out>, LinkReceiver<In>) {
    open_with(source, sink, authenticated, bulk_credit_bytes, FrameReader::default())
}

/// As [`open`], without bulk, on the socket of a rank, which may send no more in one message than
/// [`MAX_RANK_BODY_BYTES`].
pub fn open_to_rank<In, Out>(source: ByteSource, sink: ByteSink) -> (LinkSender<Out>, LinkReceiver<In>) {
    open_with(source, sink, None, 0, FrameReader::new(MAX_RANK_BODY_BYTES))
}

fn open_with<In, Out>(
    source: ByteSource,
    sink: ByteSink,
    authenticated: Option<Authenticated>,
    bulk_credit_bytes: u32,
    mut frames: FrameReader,
) -> (LinkSender<Out>, LinkReceiver<In>) {
    let (sealing, opening) = match authenticated {
        None => (None, None),
        Some(Authenticated { channel, received, .. }) => {
            frames.push(&received);
            let (sealing, opening) = channel.split();
            (Some(sealing), Some(opening))
        }
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            queue: OutboundQueue::new(bulk_credit_bytes),
            senders: 1,
            phase: Phase::Open,
            writing: false,
        }),
        to_write: Notify::new(),
        changed: Notify::new(),
    });
    tokio::spawn(write_until_closed(Arc::clone(&shared), sink, sealing));
    let receiver = LinkReceiver {
        source,
        opening,
        frames,
        buffer: vec![0; READ_BYTES].into_boxed_slice(),
        plaintext: Vec::new(),
        last_heard: Instant::now(),
        message: PhantomData,
    };
    (LinkSender { shared, message: PhantomData }, receiver)
}

/// The sending end of a link.
#[derive(Debug)]
pub struct LinkSender<Out> {
    shared: Arc<Shared>,
    message: PhantomData<fn(Out)>,
}

impl<Out: Serialize> LinkSender<Out> {
    /// Queues a control message. On a link that has ended it is dropped: the receiver learns of the end.
    pub fn send(&self, message: &Out) {
        let frame = frame::encode(message);
        self.push(|queue| queue.push_control(frame));
    }

    /// Queues a bulk message that carries `cost_bytes` of a stream; 0 for the stream's end.
    ///
    /// # Errors
    ///
    /// [`ChunkTooLong`] beyond [`efarun_wire::link::MAX_BULK_CHUNK_BYTES`].
    pub fn send_bulk(&self, message: &Out, cost_bytes: usize) -> Result<(), ChunkTooLong> {
        let frame = frame::encode_with_capacity(message, cost_bytes);
        self.push(|queue| queue.push_bulk(frame, cost_bytes)).unwrap_or(Ok(()))
    }

    fn push<R>(&self, push: impl FnOnce(&mut OutboundQueue) -> R) -> Option<R> {
        let mut state = self.shared.lock();
        if state.phase != Phase::Open {
            return None;
        }
        let pushed = push(&mut state.queue);
        drop(state);
        self.shared.to_write.notify_one();
        Some(pushed)
    }
}

impl<Out> LinkSender<Out> {
    /// Sends on with another type of message: after the last of an introduction.
    pub fn carrying<Next>(self) -> LinkSender<Next> {
        let next = LinkSender { shared: Arc::clone(&self.shared), message: PhantomData };
        // This one's drop counts one sender less.
        self.shared.lock().senders += 1;
        next
    }

    /// Books bulk credit that the other end granted.
    pub fn grant(&self, bytes: u32) {
        self.shared.lock().queue.grant(bytes);
        self.shared.to_write.notify_one();
    }

    /// Waits until there is room for another chunk of bulk. Returns at once on a link that has ended.
    pub async fn bulk_space(&self) {
        self.shared.wait_until(|state| state.phase != Phase::Open || !state.queue.bulk_is_full()).await;
    }

    /// Waits until ranks' control messages may be relayed again. Returns at once on a link that has ended.
    pub async fn control_space(&self) {
        self.shared.wait_until(|state| state.phase != Phase::Open || !state.queue.control_is_full()).await;
    }

    /// Says whether the other end reads too slowly for what it is sent: see [`LinkSender::control_space`].
    pub fn control_is_full(&self) -> bool {
        self.shared.lock().queue.control_is_full()
    }

    /// Waits until all that was queued so far, and since, has been handed to the kernel. Returns at once on a link
    /// that has ended.
    pub async fn all_sent(&self) {
        let sent = |state: &State| state.queue.is_empty() && !state.writing;
        self.shared.wait_until(|state| state.phase == Phase::Closed || sent(state)).await;
    }

    /// Sends nothing further, and waits until what was queued has been written or the stream failed. Bulk that has
    /// no credit is waited for too: the caller holds the deadline.
    pub async fn finish(&self) {
        {
            let mut state = self.shared.lock();
            if state.phase == Phase::Open {
                state.phase = Phase::Closing;
            }
        }
        self.shared.to_write.notify_one();
        self.shared.wait_until(|state| state.phase == Phase::Closed).await;
    }
}

impl<Out> Clone for LinkSender<Out> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        LinkSender { shared: Arc::clone(&self.shared), message: PhantomData }
    }
}

impl<Out> Drop for LinkSender<Out> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        if state.senders == 0 && state.phase == Phase::Open {
            state.phase = Phase::Closing;
        }
        drop(state);
        self.shared.to_write.notify_one();
    }
}

/// The receiving end of a link.
pub struct LinkReceiver<In> {
    source: ByteSource,
    opening: Option<OpeningHalf>,
    frames: FrameReader,
    buffer: Box<[u8]>,
    plaintext: Vec<u8>,
    last_heard: Instant,
    message: PhantomData<fn() -> In>,
}

impl<In: DeserializeOwned> LinkReceiver<In> {
    /// Gives the next message. Cancelling it loses nothing.
    ///
    /// # Errors
    ///
    /// Once the link has ended, and on every call after that.
    pub async fn receive(&mut self) -> Result<In, LinkEnd> {
        loop {
            if let Some(message) = self.frames.next_message()? {
                return Ok(message);
            }
            let read_bytes = self
                .source
                .read(&mut self.buffer)
                .await
                .map_err(|error| LinkEnd::Broken(error.to_string()))?;
            let bytes = &self.buffer[..read_bytes];
            match (&mut self.opening, bytes) {
                (Some(opening), []) => opening.end()?,
                (Some(opening), bytes) => {
                    self.plaintext.clear();
                    let opened = opening.open(bytes, &mut self.plaintext);
                    self.frames.push(&self.plaintext);
                    opened?;
                }
                (None, bytes) => self.frames.push(bytes),
            }
            if read_bytes == 0 {
                return Err(if self.frames.has_partial() { LinkEnd::Cut } else { LinkEnd::Closed });
            }
            self.last_heard = Instant::now();
        }
    }

    /// When bytes last arrived; at first, when the link was opened.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }
}

impl<In> LinkReceiver<In> {
    /// Reads on with another type of message: after the first one of a link that begins with an introduction.
    pub fn expecting<Next>(self) -> LinkReceiver<Next> {
        let LinkReceiver { source, opening, frames, buffer, plaintext, last_heard, message: _ } = self;
        LinkReceiver { source, opening, frames, buffer, plaintext, last_heard, message: PhantomData }
    }
}

impl<In> std::fmt::Debug for LinkReceiver<In> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkReceiver").field("frames", &self.frames).finish_non_exhaustive()
    }
}

/// How a link ended, as a fragment that fits "the link to the head …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkEnd {
    /// The other end closed it between two messages.
    #[error("was closed by the other end")]
    Closed,
    /// The stream ended within a message.
    #[error("was cut within a message")]
    Cut,
    /// Reading failed.
    #[error("broke: {0}")]
    Broken(String),
    /// What arrived is not a message.
    #[error("carried {0}")]
    Malformed(#[from] FrameError),
    /// What arrived is not what the other end sealed.
    #[error("cannot be trusted any longer: {0}")]
    NotAuthentic(#[from] SecureError),
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There may be something to write, or a reason to stop.
    to_write: Notify,
    /// The queue got shorter, or the phase changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    queue: OutboundQueue,
    senders: usize,
    phase: Phase,
    /// A batch has left the queue and is not with the kernel yet.
    writing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// What is queued is still written.
    Closing,
    Closed,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_until(&self, done: impl Fn(&State) -> bool) {
        let mut changed = std::pin::pin!(self.changed.notified());
        loop {
            changed.as_mut().enable();
            if done(&self.lock()) {
                return;
            }
            changed.as_mut().await;
            changed.set(self.changed.notified());
        }
    }

    /// Takes a batch of frames, at most one frame more than [`BATCH_BYTES`]. `None`: the link is to be closed.
    fn next_batch(&self, batch: &mut Vec<u8>) -> Option<()> {
        let mut state = self.lock();
        while batch.len() < BATCH_BYTES
            && let Some(frame) = state.queue.pop()
        {
            batch.extend_from_slice(&frame);
        }
        state.writing = !batch.is_empty();
        // Without senders nobody can grant what bulk may still wait for.
        let over =
            batch.is_empty() && state.phase != Phase::Open && (state.queue.is_empty() || state.senders == 0);
        (!over).then_some(())
    }
}

async fn write_until_closed(shared: Arc<Shared>, mut sink: ByteSink, mut sealing: Option<SealingHalf>) {
    let mut batch = Vec::new();
    let mut sealed = Vec::new();
    while shared.next_batch(&mut batch).is_some() {
        shared.changed.notify_waiters();
        if batch.is_empty() {
            shared.to_write.notified().await;
            continue;
        }
        let bytes = match &mut sealing {
            None => &batch,
            Some(sealing) => {
                sealed.clear();
                if sealing.seal(&batch, &mut sealed).is_err() {
                    break;
                }
                &sealed
            }
        };
        // A failure ends the sender only: the receiver's own error says what became of the stream.
        if sink.write_all(bytes).await.is_err() || sink.flush().await.is_err() {
            break;
        }
        batch.clear();
    }
    // The stream may be gone already; there is nobody left to tell.
    let _ = sink.shutdown().await;
    let mut state = shared.lock();
    state.phase = Phase::Closed;
    state.queue = OutboundQueue::new(0);
    drop(state);
    shared.changed.notify_waiters();
}

const READ_BYTES: usize = 64 << 10;
/// Frames that are sealed and written together. An abort waits for one batch at most.
const BATCH_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use efarun_wire::secure::{Initiator, LinkKey, Responder, Standing};
    use efarun_wire::{JobId, Rank};

    use super::*;

    type Numbered = (Rank, Vec<u8>);

    fn pair(credit_bytes: u32) -> (LinkSender<Numbered>, LinkReceiver<Numbered>) {
        let (near, far) = tokio::io::duplex(1 << 10);
        let (_, sink) = tokio::io::split(near);
        let (source, _) = tokio::io::split(far);
        let (_, receiver) =
            open::<Numbered, Numbered>(Box::new(source), Box::new(tokio::io::sink()), None, 0);
        let (sender, _) =
            open::<Numbered, Numbered>(Box::new(tokio::io::empty()), Box::new(sink), None, credit_bytes);
        (sender, receiver)
    }

    async fn soon<T>(wait: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("ends within 10 s")
    }

    #[tokio::test]
    async fn control_overtakes_bulk_that_has_no_credit() {
        let (sender, mut receiver) = pair(3);
        sender.send_bulk(&(Rank(1), vec![0; 3]), 3).unwrap();
        sender.send_bulk(&(Rank(2), vec![0; 3]), 3).unwrap();
        assert_eq!(soon(receiver.receive()).await.unwrap().0, Rank(1));
        sender.send(&(Rank(3), vec![]));
        assert_eq!(soon(receiver.receive()).await.unwrap().0, Rank(3));
        sender.grant(3);
        assert_eq!(soon(receiver.receive()).await.unwrap().0, Rank(2));
    }

    #[tokio::test]
    async fn bulk_without_room_makes_its_source_wait_until_the_other_end_reads() {
        let (sender, mut receiver) = pair(u32::MAX);
        let chunk = 16 << 10;
        let mut queued = 0u32;
        while tokio::time::timeout(Duration::from_millis(20), sender.bulk_space()).await.is_ok() {
            sender.send_bulk(&(Rank(queued), vec![7; chunk]), chunk).unwrap();
            queued += 1;
            assert!(queued < 100, "the source was never told to wait");
        }
        for number in 0..queued {
            assert_eq!(soon(receiver.receive()).await.unwrap(), (Rank(number), vec![7; chunk]));
        }
        soon(sender.bulk_space()).await;
    }

    #[tokio::test]
    async fn finish_writes_what_was_queued_and_then_the_end() {
        let (sender, mut receiver) = pair(0);
        let long = vec![9; 100 << 10];
        sender.send(&(Rank(1), long.clone()));
        let reads = async { (receiver.receive().await, receiver.receive().await) };
        let ((), (first, end)) = soon(async { tokio::join!(sender.finish(), reads) }).await;
        assert_eq!(first, Ok((Rank(1), long)));
        assert_eq!(end, Err(LinkEnd::Closed));
    }

    #[tokio::test]
    async fn a_cut_message_is_told_from_a_closed_link() {
        let bytes = frame::encode(&(Rank(1), vec![1u8; 9]));
        let cut = std::io::Cursor::new(bytes[..bytes.len() - 1].to_vec());
        let (_, mut receiver) =
            open::<Numbered, Numbered>(Box::new(cut), Box::new(tokio::io::sink()), None, 0);
        assert_eq!(soon(receiver.receive()).await, Err(LinkEnd::Cut));
    }

    #[tokio::test]
    async fn a_sealed_link_carries_messages_and_refuses_changed_bytes() {
        let key = LinkKey::generate().unwrap();
        let job = JobId([3; 8]);
        let (mut to_responder, mut to_initiator) = (Vec::new(), Vec::new());
        let mut initiator = Initiator::new(job, 5, &key, &mut to_responder).unwrap();
        let mut responder = Responder::new(job);
        let members = |_| Standing::Expected(key.clone());
        assert!(responder.receive(&to_responder, &members, &mut to_initiator).unwrap().is_none());
        to_responder.clear();
        let dialed = initiator.receive(&to_initiator, &mut to_responder).unwrap().unwrap();
        to_initiator.clear();
        let accepted = responder.receive(&to_responder, &members, &mut to_initiator).unwrap().unwrap();

        let (near, far) = tokio::io::duplex(1 << 10);
        let (_, sink) = tokio::io::split(near);
        let (source, mut meddler) = tokio::io::split(far);
        let (sender, _) =
            open::<Numbered, Numbered>(Box::new(tokio::io::empty()), Box::new(sink), Some(dialed), 0);
        let (_, mut receiver) =
            open::<Numbered, Numbered>(Box::new(source), Box::new(tokio::io::sink()), Some(accepted), 0);
        sender.send(&(Rank(1), vec![4; 200 << 10]));
        assert_eq!(soon(receiver.receive()).await, Ok((Rank(1), vec![4; 200 << 10])));
        let _ = meddler.shutdown().await;

        let source = std::io::Cursor::new(b"\0\x20not what the other end has sealed".to_vec());
        receiver.source = Box::new(source);
        assert!(matches!(soon(receiver.receive()).await, Err(LinkEnd::NotAuthentic(_))));
    }
}
