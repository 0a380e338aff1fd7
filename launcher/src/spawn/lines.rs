//! Standard error as lines, for a reader who may be slow.
//!
//! A [`LineSink`] is fed bytes as they arrive and puts whole lines into a bounded queue. It never waits: when the
//! queue is full, lines are dropped, counted, and their number is said in a line once there is room again. The
//! streams that carry an agent's messages must not stop because nobody reads its complaints.

use tokio::sync::mpsc;

/// Cuts bytes into lines and queues them.
#[derive(Debug)]
pub(crate) struct LineSink {
    queue: mpsc::Sender<String>,
    partial: Vec<u8>,
    dropped: u64,
}

impl LineSink {
    /// A sink and the queue it fills.
    pub(crate) fn new() -> (LineSink, mpsc::Receiver<String>) {
        let (queue, lines) = mpsc::channel(QUEUE_LINES);
        (LineSink { queue, partial: Vec::new(), dropped: 0 }, lines)
    }

    /// Takes bytes as they arrived; what follows the last end of line is kept for later.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            self.finish_line();
            bytes = &bytes[end + 1..];
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > MAX_LINE_BYTES {
            self.finish_line();
        }
    }

    /// Delivers what is left: the stream has ended.
    pub(crate) fn close(mut self) {
        if !self.partial.is_empty() {
            self.finish_line();
        }
        self.report_dropped();
    }

    fn finish_line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).trim_end_matches('\r').to_owned();
        self.partial.clear();
        self.report_dropped();
        if self.dropped > 0 || self.queue.try_send(line).is_err() {
            self.dropped += 1;
        }
    }

    fn report_dropped(&mut self) {
        if self.dropped > 0
            && self.queue.try_send(format!("({} lines were dropped here)", self.dropped)).is_ok()
        {
            self.dropped = 0;
        }
    }
}

/// Lines that may wait for their reader.
const QUEUE_LINES: usize = 1024;

/// A longer line is cut.
const MAX_LINE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut lines: mpsc::Receiver<String>) -> Vec<String> {
        std::iter::from_fn(|| lines.try_recv().ok()).collect()
    }

    #[test]
    fn lines_are_whole_however_the_bytes_arrive() {
        let (mut sink, lines) = LineSink::new();
        for part in ["one\ntw", "o\r\n", "\nlast"] {
            sink.push(part.as_bytes());
        }
        sink.close();
        assert_eq!(all(lines), ["one", "two", "", "last"]);
    }

    #[test]
    fn a_slow_reader_loses_lines_and_is_told_how_many() {
        let (mut sink, mut lines) = LineSink::new();
        for number in 0..QUEUE_LINES + 3 {
            sink.push(format!("{number}\n").as_bytes());
        }
        assert_eq!(lines.try_recv().as_deref(), Ok("0"));
        assert_eq!(lines.try_recv().as_deref(), Ok("1"));
        sink.push(b"later\n");
        sink.close();
        let rest = all(lines);
        assert_eq!(rest[rest.len() - 2..], ["(3 lines were dropped here)", "later"]);
    }

    #[test]
    fn a_line_without_end_does_not_grow_without_end() {
        let (mut sink, lines) = LineSink::new();
        sink.push(&vec![b'x'; MAX_LINE_BYTES + 1]);
        assert!(sink.partial.is_empty());
        assert_eq!(all(lines).len(), 1);
    }
}
