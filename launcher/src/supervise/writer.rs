//! The thread that writes: what ranks wrote, and what the launcher has to say.
//!
//! The launcher's standard output may be a slow pipe; a write to it must not hold up heartbeats or the end of a job.
//! So one thread owns the terminal, and everybody else hands it pieces, which it writes in that order. A node may
//! only have so many bytes on their way ([`OUTPUT_CREDIT_BYTES`]); what this thread has written comes back as
//! [`Written`], which the dispatcher turns into new credit. Memory is therefore bounded by nodes times credit,
//! however much ranks write.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use efarun_wire::message::Stream;
use efarun_wire::{NodeId, Rank};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::output::{LineStyle, OutputMux, RankFiles, Terminal};

/// Output bytes that one node may have on their way to the launcher's own output.
pub const OUTPUT_CREDIT_BYTES: u32 = 1 << 20;

/// How often to look whether the thread is done.
const JOIN_INTERVAL: Duration = Duration::from_millis(1);

/// What the thread tells the dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// So many bytes of this node have been written.
    Bytes(NodeId, u32),
    /// Nobody reads this stream of the launcher any more, and a rank has written to it.
    Closed,
}

#[derive(Debug)]
enum Piece {
    Output { node: NodeId, rank: Rank, stream: Stream, bytes: Vec<u8> },
    Print(String),
    Note(String),
    Error(String),
    Files { files: RankFiles, only: bool },
    Fold { world_size: u32, age: Duration },
    Status(Option<String>),
    Tail { rank: Rank, reply: mpsc::Sender<Vec<String>> },
    Finish,
}

/// The others' end of the thread.
#[derive(Debug)]
pub struct Writer {
    pieces: mpsc::Sender<Piece>,
    thread: JoinHandle<()>,
    has_terminal: bool,
}

impl Writer {
    /// Starts the thread. The receiver gets a word for every chunk of output that was written.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(style: LineStyle) -> std::io::Result<(Writer, UnboundedReceiver<Written>)> {
        let (pieces, received) = mpsc::channel();
        let (written, receiver) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("output".into())
            .spawn(move || write_until_finished(&received, style, &written))?;
        Ok((Writer { pieces, thread, has_terminal: std::io::stderr().is_terminal() }, receiver))
    }

    /// Writes what a rank wrote; an empty chunk means that the stream has ended.
    pub fn output(&self, node: NodeId, rank: Rank, stream: Stream, bytes: Vec<u8>) {
        self.hand(Piece::Output { node, rank, stream, bytes });
    }

    /// Writes what was asked for, a map or a report, to standard output.
    pub fn print(&self, text: impl Into<String>) {
        self.hand(Piece::Print(text.into()));
    }

    /// Writes `efarun: …` to standard error, in its place among the ranks' lines.
    pub fn note(&self, text: impl Into<String>) {
        self.hand(Piece::Note(text.into()));
    }

    /// Writes `error: …` to standard error.
    pub fn error(&self, text: impl Into<String>) {
        self.hand(Piece::Error(text.into()));
    }

    /// From here on, writes what ranks write to files as well, or to files only.
    pub fn files(&self, files: RankFiles, only: bool) {
        self.hand(Piece::Files { files, only });
    }

    /// From here on, writes a line that several of this many ranks write once; it waits so long for the others.
    pub fn fold(&self, world_size: u32, age: Duration) {
        self.hand(Piece::Fold { world_size, age });
    }

    /// Whether standard error is a terminal: a line of status can be shown.
    pub fn has_terminal(&self) -> bool {
        self.has_terminal
    }

    /// Shows this line below everything that is written, until it is given another one, or none.
    pub fn status(&self, text: Option<String>) {
        self.hand(Piece::Status(text));
    }

    /// The last lines that a rank wrote to its standard error, oldest first.
    pub fn last_stderr(&self, rank: Rank) -> Vec<String> {
        let (reply, lines) = mpsc::channel();
        self.hand(Piece::Tail { rank, reply });
        lines.recv_timeout(Duration::from_secs(1)).unwrap_or_default()
    }

    /// Writes everything that was handed over, then ends the thread. Waits for a reader that is slow, not for one
    /// that has stopped: after `patience` the thread is left to the end of the process.
    pub fn finish(self, patience: Duration) {
        self.hand(Piece::Finish);
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(JOIN_INTERVAL);
        }
    }

    fn hand(&self, piece: Piece) {
        // The thread goes on to the end of the process unless it panicked; then there is no one left to write.
        let _ = self.pieces.send(piece);
    }
}

fn write_until_finished(
    pieces: &mpsc::Receiver<Piece>,
    style: LineStyle,
    written: &UnboundedSender<Written>,
) {
    let mut mux = OutputMux::new(style, Terminal::process());
    let mut status = None;
    loop {
        let piece = match mux.next_tick() {
            None => pieces.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(tick) => pieces.recv_timeout(tick.saturating_duration_since(Instant::now())),
        };
        let is_last = matches!(piece, Ok(Piece::Finish) | Err(RecvTimeoutError::Disconnected));
        match (piece, &status) {
            (Ok(Piece::Status(text)), _) => show_status(&mut status, text),
            (piece, Some(bar)) => ProgressBar::suspend(bar, || write(&mut mux, piece, written)),
            (piece, None) => write(&mut mux, piece, written),
        }
        if is_last {
            show_status(&mut status, None);
            return;
        }
    }
}

fn write<O: Write, E: Write>(
    mux: &mut OutputMux<O, E>,
    piece: Result<Piece, RecvTimeoutError>,
    written: &UnboundedSender<Written>,
) {
    match piece {
        Ok(Piece::Output { node, rank, stream, bytes }) => {
            mux.push(rank, stream, &bytes, Instant::now());
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            // The dispatcher may be over already; credit is of no use to anybody then.
            let _ = written.send(Written::Bytes(node, len));
            if mux.terminal().is_closed(stream) {
                let _ = written.send(Written::Closed);
            }
        }
        Ok(Piece::Print(text)) => mux.terminal().print(&text),
        Ok(Piece::Note(text)) => mux.terminal().note(text),
        Ok(Piece::Error(text)) => mux.terminal().error(text),
        Ok(Piece::Files { files, only }) => mux.set_files(files, only),
        Ok(Piece::Fold { world_size, age }) => mux.set_fold(world_size, age),
        Ok(Piece::Tail { rank, reply }) => {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(mux.stderr_tail(rank));
        }
        Err(RecvTimeoutError::Timeout) => mux.tick(Instant::now()),
        Ok(Piece::Finish) | Err(RecvTimeoutError::Disconnected) => mux.finish(),
        // Shown by whoever calls.
        Ok(Piece::Status(_)) => {}
    }
}

fn show_status(status: &mut Option<ProgressBar>, text: Option<String>) {
    match text {
        Some(text) => {
            let bar = status.get_or_insert_with(|| {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template("{spinner} {msg}");
                bar.set_style(style.unwrap_or(ProgressStyle::default_spinner()));
                bar
            });
            bar.set_message(text);
            bar.tick();
        }
        None => {
            if let Some(bar) = status.take() {
                bar.finish_and_clear();
            }
        }
    }
}
