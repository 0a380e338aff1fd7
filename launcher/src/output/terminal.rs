//! Standard output and standard error as everything in the launcher shares them.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use efarun_wire::Rank;
use efarun_wire::message::Stream;

use super::FdSink;

/// The two streams of the launcher itself.
///
/// A reader that has gone (`efarun … | head`) is not an error here: from then on nothing is written to that stream,
/// and [`Terminal::is_closed`] says so. Nothing panics.
#[derive(Debug)]
pub struct Terminal<O, E> {
    stdout: Sink<O>,
    stderr: Sink<E>,
}

impl Terminal<FdSink<io::Stdout>, FdSink<io::Stderr>> {
    /// Returns this process's own.
    pub fn process() -> Self {
        Terminal::new(FdSink(io::stdout()), FdSink(io::stderr()))
    }
}

impl<O: Write, E: Write> Terminal<O, E> {
    /// Returns a terminal made of two sinks. They should not buffer: what is written is meant to be seen.
    pub fn new(stdout: O, stderr: E) -> Self {
        Terminal { stdout: Sink::new(stdout), stderr: Sink::new(stderr) }
    }

    /// Writes text that was asked for (help, a map, JSON) to standard output.
    pub fn print(&mut self, text: &str) {
        self.stdout.own_line(text);
    }

    /// Writes `efarun: …` to standard error.
    pub fn note(&mut self, text: impl Display) {
        self.stderr.own_line(&format!("efarun: {text}"));
    }

    /// Writes `error: …` to standard error.
    pub fn error(&mut self, text: impl Display) {
        self.stderr.own_line(&format!("error: {text}"));
    }

    /// Says whether the reader of a stream has gone.
    pub fn is_closed(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout.closed,
            Stream::Stderr => self.stderr.closed,
        }
    }

    /// Says whether a line that this rank began on this stream is the one that the next byte would continue.
    pub(super) fn is_line_open_by(&self, rank: Rank, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout.open_by == Some(Some(rank)),
            Stream::Stderr => self.stderr.open_by == Some(Some(rank)),
        }
    }

    /// Writes a rank's bytes. Another's unfinished line is ended first.
    pub(super) fn write_rank(&mut self, rank: Rank, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Stdout => self.stdout.write(Some(rank), bytes),
            Stream::Stderr => self.stderr.write(Some(rank), bytes),
        }
    }
}

/// One stream, and whose line is unfinished on it.
#[derive(Debug)]
struct Sink<W> {
    writer: W,
    /// None: the last byte was an end of line. `Some(None)` would be a line of the launcher's own.
    open_by: Option<Option<Rank>>,
    closed: bool,
    ended_line: Vec<u8>,
}

impl<W: Write> Sink<W> {
    fn new(writer: W) -> Self {
        Sink { writer, open_by: None, closed: false, ended_line: Vec::new() }
    }

    fn own_line(&mut self, text: &str) {
        self.write(None, format!("{}\n", text.trim_end_matches('\n')).as_bytes());
    }

    fn write(&mut self, writer: Option<Rank>, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        if self.open_by.is_some_and(|open_by| open_by != writer) {
            // One write, so that nobody else who shares this terminal gets between.
            self.ended_line.clear();
            self.ended_line.push(b'\n');
            self.ended_line.extend_from_slice(bytes);
            let bytes = std::mem::take(&mut self.ended_line);
            self.write_out(&bytes);
            self.ended_line = bytes;
        } else {
            self.write_out(bytes);
        }
        self.open_by = if *last == b'\n' { None } else { Some(writer) };
    }

    /// A stream that cannot be written to is given up. There is nobody left to tell.
    fn write_out(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        let result = self.writer.write_all(bytes).and_then(|()| self.writer.flush());
        self.closed = result.is_err_and(|error| error.kind() != ErrorKind::Interrupted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn reader_that_has_gone_closes_its_stream_and_leaves_the_other() {
        let mut stderr = Vec::new();
        let mut terminal = Terminal::new(Gone, &mut stderr);
        terminal.print("map");
        terminal.print("map");
        terminal.note("still here");
        assert!(terminal.is_closed(Stream::Stdout));
        assert!(!terminal.is_closed(Stream::Stderr));
        assert_eq!(stderr, b"efarun: still here\n");
    }

    #[test]
    fn launchers_words_begin_on_a_line_of_their_own() {
        let mut stderr = Vec::new();
        let mut terminal = Terminal::new(io::sink(), &mut stderr);
        terminal.write_rank(Rank(3), Stream::Stderr, b"loading");
        terminal.error("host b was lost");
        assert_eq!(stderr, b"loading\nerror: host b was lost\n");
    }
}
