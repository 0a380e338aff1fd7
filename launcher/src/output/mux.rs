//! Puts the output of many ranks onto two streams, line by line.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::{Duration, Instant};

use efarun_wire::Rank;
use efarun_wire::message::Stream;

use super::fold::{Fold, Folded};
use super::line::PartialLine;
use super::style::{self, LineStyle};
use super::{RankFiles, Terminal};

/// How long an unfinished line waits for its end before it is shown: long enough for a line that is written in
/// pieces, short enough for a prompt.
pub const PARTIAL_LINE_AGE: Duration = Duration::from_millis(100);

/// Merges ranks' output.
///
/// A line of one rank is written as a whole. An unfinished one is written when its stream ends, when it is older than
/// [`PARTIAL_LINE_AGE`] at a [`OutputMux::tick`], or when it is too long to keep; if another rank writes before it
/// is finished, it is ended first, so two ranks never share a line. The bytes of a rank that writes alone pass
/// unchanged.
#[derive(Debug)]
pub struct OutputMux<O, E> {
    terminal: Terminal<O, E>,
    style: LineStyle,
    files: Option<RankFiles>,
    /// With files, the terminal gets nothing.
    files_only: bool,
    lines: BTreeMap<(Rank, StreamOrder), PartialLine>,
    tails: BTreeMap<Rank, Tail>,
    /// Where lines of several ranks are shown once.
    fold: Option<Fold>,
}

impl<O: Write, E: Write> OutputMux<O, E> {
    /// Returns a merger that writes to this terminal, and begins each line in this style.
    pub fn new(style: LineStyle, terminal: Terminal<O, E>) -> Self {
        OutputMux {
            terminal,
            style,
            files: None,
            files_only: false,
            lines: BTreeMap::new(),
            tails: BTreeMap::new(),
            fold: None,
        }
    }

    /// From now on, writes what ranks write to files as well, or to files only.
    pub fn set_files(&mut self, files: RankFiles, only: bool) {
        (self.files, self.files_only) = (Some(files), only);
    }

    /// From now on, shows a line that several of this many ranks write within `age` once. Unfinished lines wait for
    /// their ends.
    pub fn set_fold(&mut self, world_size: u32, age: Duration) {
        self.fold = Some(Fold::of(world_size, age, self.style.merged));
    }

    /// Returns the terminal, for what the launcher itself has to say.
    pub fn terminal(&mut self) -> &mut Terminal<O, E> {
        &mut self.terminal
    }

    /// Takes bytes that a rank wrote; none means that the stream has ended. Blocks while the sink does.
    pub fn push(&mut self, rank: Rank, stream: Stream, bytes: &[u8], now: Instant) {
        if bytes.is_empty() {
            self.end(rank, stream, now);
            return self.write_folded(now);
        }
        if stream == Stream::Stderr || self.style.merged {
            self.tails.entry(rank).or_default().push(bytes);
        }
        let ready = self.lines.entry((rank, StreamOrder::of(stream))).or_default().push(bytes, now);
        self.write(rank, stream, &ready, now);
        self.write_folded(now);
    }

    /// Writes what is left of a stream that has ended.
    fn end(&mut self, rank: Rank, stream: Stream, now: Instant) {
        if let Some(mut line) = self.lines.remove(&(rank, StreamOrder::of(stream))) {
            let rest = line.take();
            self.write(rank, stream, &rest, now);
        }
        if let Some(fold) = &mut self.fold {
            fold.ended(rank, stream);
        }
    }

    /// Writes lines that have waited long enough.
    pub fn tick(&mut self, now: Instant) {
        if self.fold.is_some() {
            return self.write_folded(now);
        }
        let due = |line: &PartialLine| line.is_older_than(PARTIAL_LINE_AGE, now);
        let ready: Vec<_> = self
            .lines
            .iter_mut()
            .filter(|(_, line)| due(line))
            .map(|((rank, stream), line)| (*rank, stream.stream(), line.take()))
            .collect();
        for (rank, stream, bytes) in ready {
            self.write(rank, stream, &bytes, now);
        }
    }

    /// Returns when [`OutputMux::tick`] should be called next; none while no line waits.
    pub fn next_tick(&self) -> Option<Instant> {
        if let Some(fold) = &self.fold {
            return fold.due_at();
        }
        self.lines.values().filter_map(PartialLine::since).min().map(|since| since + PARTIAL_LINE_AGE)
    }

    /// Writes everything that is left, as if every stream had ended.
    pub fn finish(&mut self) {
        let streams: Vec<_> = self.lines.keys().copied().collect();
        let now = Instant::now();
        for (rank, stream) in streams {
            self.end(rank, stream.stream(), now);
        }
        while let Some(folded) = self.fold.as_mut().and_then(Fold::pop) {
            self.show_folded(folded);
        }
    }

    /// Returns the last lines that a rank wrote to standard error, oldest first, as text that is safe to show. At
    /// most 10 lines, each cut after 512 bytes.
    pub fn stderr_tail(&self, rank: Rank) -> Vec<String> {
        self.tails.get(&rank).map_or_else(Vec::new, Tail::lines)
    }

    fn write(&mut self, rank: Rank, stream: Stream, bytes: &[u8], now: Instant) {
        if let Some(files) = &mut self.files {
            let styled = styled(self.style, rank, stream, bytes, files.is_line_open(rank, stream));
            if let Some(error) = files.write(rank, stream, &styled) {
                self.terminal.note(format!("{error}: nothing more is written there"));
            }
        }
        if let (Some(fold), false) = (&mut self.fold, self.files_only) {
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                fold.push(rank, stream, line, now);
            }
        } else if !self.files_only {
            let styled = styled(self.style, rank, stream, bytes, self.terminal.is_line_open_by(rank, stream));
            self.terminal.write_rank(rank, stream, &styled);
        }
    }
}

impl<O: Write, E: Write> OutputMux<O, E> {
    fn write_folded(&mut self, now: Instant) {
        while let Some(folded) = self.fold.as_mut().and_then(|fold| fold.next(now)) {
            self.show_folded(folded);
        }
    }

    fn show_folded(&mut self, folded: Folded) {
        let Some(first) = folded.ranks.first() else { return };
        let mut line =
            self.style.prefix_of_several(&folded.ranks, folded.stream, style::local_time).into_bytes();
        line.extend_from_slice(folded.line.strip_suffix(b"\n").unwrap_or(&folded.line));
        line.push(b'\n');
        self.terminal.write_rank(*first, folded.stream, &line);
    }
}

/// The bytes with a prefix before each line, but for a line that goes on.
fn styled<'a>(
    style: LineStyle,
    rank: Rank,
    stream: Stream,
    bytes: &'a [u8],
    mut goes_on: bool,
) -> Cow<'a, [u8]> {
    if style.is_plain() || bytes.is_empty() {
        return Cow::Borrowed(bytes);
    }
    let prefix = style.prefix(rank, stream, style::local_time);
    let mut styled = Vec::with_capacity(bytes.len() + bytes.len() / 2 + prefix.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if !goes_on {
            styled.extend_from_slice(prefix.as_bytes());
        }
        styled.extend_from_slice(line);
        goes_on = false;
    }
    Cow::Owned(styled)
}

/// A stream as a key: standard output first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum StreamOrder {
    Stdout,
    Stderr,
}

impl StreamOrder {
    fn of(stream: Stream) -> Self {
        match stream {
            Stream::Stdout => StreamOrder::Stdout,
            Stream::Stderr => StreamOrder::Stderr,
        }
    }

    fn stream(self) -> Stream {
        match self {
            StreamOrder::Stdout => Stream::Stdout,
            StreamOrder::Stderr => Stream::Stderr,
        }
    }
}

/// The last lines of a rank's standard error.
#[derive(Debug, Default)]
struct Tail {
    /// The last is the one that is being written.
    lines: VecDeque<Vec<u8>>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        // Only the end of a large chunk can matter.
        let from = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').nth(TAIL_LINES);
        let bytes = from.map_or(bytes, |(at, _)| &bytes[at..]);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.lines.is_empty() {
                self.lines.push_back(Vec::new());
            }
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if let Some(line) = self.lines.back_mut() {
                let room = TAIL_LINE_BYTES.saturating_sub(line.len());
                line.extend_from_slice(&text[..text.len().min(room)]);
            }
            if ended {
                self.lines.push_back(Vec::new());
            }
        }
        while self.lines.len() > TAIL_LINES + 1 {
            self.lines.pop_front();
        }
    }

    fn lines(&self) -> Vec<String> {
        let shown = |line: &Vec<u8>| {
            let text = String::from_utf8_lossy(line);
            text.trim_end().chars().filter(|c| !c.is_control() || *c == '\t').collect::<String>()
        };
        let lines: Vec<String> = self.lines.iter().map(shown).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec()
    }
}

const TAIL_LINES: usize = 10;
const TAIL_LINE_BYTES: usize = 512;

#[cfg(test)]
mod tests;
