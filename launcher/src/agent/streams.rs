//! The tasks that carry a rank's standard streams.
//!
//! Output is read only while the link has room for it, so that a rank that floods its output waits in its own write
//! and no memory grows. Input is written at the rank's pace, and credit goes back to the head as it is taken.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use efarun_wire::Rank;
use efarun_wire::link::MAX_BULK_CHUNK_BYTES;
use efarun_wire::message::{AgentMessage, Stream};

use super::rank_folders::Tee;
use crate::link_io::LinkSender;

/// Carries what one rank writes to one stream, until its end, which is said by an empty chunk.
///
/// With a `tee` it goes into a file as well. `reaped` turns true when no process of the job is left. A pipe that is still open then is held by a stranger
/// that a rank gave it to; it is given [`LAST_WORDS_PATIENCE`] of silence.
pub(super) async fn carry_output(
    rank: Rank,
    stream: Stream,
    pipe: pipe::Receiver,
    mut tee: Option<Tee>,
    link: LinkSender<AgentMessage>,
    mut reaped: watch::Receiver<bool>,
) {
    let mut chunk = vec![0; MAX_BULK_CHUNK_BYTES];
    // Gives the chunk back, so that its memory is used again.
    let send = |bytes: Vec<u8>| {
        let len_bytes = bytes.len();
        let message = AgentMessage::Output { rank, stream, bytes };
        link.send_bulk(&message, len_bytes).expect("no chunk is longer than it may be");
        let AgentMessage::Output { bytes, .. } = message else { return Vec::new() };
        bytes
    };
    while readable(&pipe, &mut reaped).await {
        link.bulk_space().await;
        match pipe.try_read(&mut chunk) {
            Ok(0) => break,
            Ok(read_bytes) => match tee.take() {
                // What is much is not copied once more; what is little is, as that is less than to clear the rest.
                None if read_bytes > MAX_BULK_CHUNK_BYTES / 2 => {
                    chunk.truncate(read_bytes);
                    chunk = send(chunk);
                    chunk.resize(MAX_BULK_CHUNK_BYTES, 0);
                }
                None => drop(send(chunk[..read_bytes].to_vec())),
                Some(through) => {
                    let (shown, kept) = passed(rank, through, chunk[..read_bytes].to_vec(), &link).await;
                    tee = kept;
                    shown.chunks(MAX_BULK_CHUNK_BYTES).for_each(|part| drop(send(part.to_vec())));
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    drop(send(Vec::new()));
}

/// Passes bytes through a tee, beside the agent's own thread: its file may be on a server that does not answer.
async fn passed(
    rank: Rank,
    mut tee: Tee,
    bytes: Vec<u8>,
    link: &LinkSender<AgentMessage>,
) -> (Vec<u8>, Option<Tee>) {
    let passing = tokio::task::spawn_blocking(move || {
        let (shown, error) = tee.pass(&bytes);
        (shown, error, tee)
    });
    match passing.await {
        Ok((shown, error, tee)) => {
            if let Some(error) = error {
                let text = format!("rank {rank}: its log cannot be written any more: {error}");
                link.send(&AgentMessage::Note(text));
            }
            (shown, Some(tee))
        }
        // The runtime ends.
        Err(_) => (Vec::new(), None),
    }
}

/// Waits until there is something to read. `false`: nothing will come.
async fn readable(pipe: &pipe::Receiver, reaped: &mut watch::Receiver<bool>) -> bool {
    let too_late = async {
        // The sender lives as long as the agent, which outlives its tasks.
        let _ = reaped.wait_for(|reaped| *reaped).await;
        tokio::time::sleep(LAST_WORDS_PATIENCE).await;
    };
    tokio::select! {
        biased;
        ready = pipe.readable() => ready.is_ok(),
        () = too_late => false,
    }
}

/// Feeds a rank's standard input from chunks; an empty one closes it. Once the rank has closed its end the rest is
/// dropped. Each chunk's credit goes back when the chunk is gone, whichever way.
pub(super) async fn feed_input(
    rank: Rank,
    mut chunks: mpsc::UnboundedReceiver<Vec<u8>>,
    pipe: pipe::Sender,
    link: LinkSender<AgentMessage>,
) {
    let mut pipe = Some(pipe);
    while let Some(chunk) = chunks.recv().await {
        if chunk.is_empty() {
            pipe = None;
            continue;
        }
        if let Some(open) = &mut pipe
            && open.write_all(&chunk).await.is_err()
        {
            pipe = None;
        }
        let bytes = u32::try_from(chunk.len()).expect("a chunk is smaller than a message");
        link.send(&AgentMessage::StdinCredit { rank, bytes });
    }
}

const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(1);
