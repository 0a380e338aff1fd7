//! The bandwidth of a link: bytes that arrive in a while, over one stream or several, one way or both at once.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How many streams run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// Streams in one direction.
    pub(super) streams: usize,
    /// Whether as many run in the other.
    pub(super) is_both_ways: bool,
}

/// Which end of its streams one side of a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// How many of the first connections it receives from; the rest it sends on, or the other way round.
    first: usize,
    receives_first: bool,
}

impl Round {
    /// One stream is seldom what a network carries: EC2 limits each to a part of the card's rate.
    pub(super) const ALL: [Round; 4] = [
        Round { streams: 1, is_both_ways: false },
        Round { streams: 4, is_both_ways: false },
        Round { streams: 1, is_both_ways: true },
        Round { streams: 4, is_both_ways: true },
    ];

    /// Connections of both directions.
    pub(super) fn connections(self) -> usize {
        if self.is_both_ways { 2 * self.streams } else { self.streams }
    }

    /// The host sends on the first ones.
    pub(super) fn to_host(self) -> Ends {
        Ends { first: self.streams, receives_first: false }
    }

    /// The guest receives on them.
    pub(super) fn to_guest(self) -> Ends {
        Ends { first: self.streams, receives_first: true }
    }
}

/// Runs one side of a round; says what arrived here, in GB/s over all streams.
pub(super) fn run(streams: Vec<TcpStream>, ends: Ends, start: Instant) -> io::Result<f64> {
    thread::scope(|scope| {
        let mut receivers = Vec::new();
        let mut senders = Vec::new();
        for (index, stream) in streams.into_iter().enumerate() {
            if (index < ends.first) == ends.receives_first {
                receivers.push(scope.spawn(move || receive(stream, start)));
            } else {
                senders.push(scope.spawn(move || send(stream, start)));
            }
        }
        for sender in senders {
            sender.join().expect("senders do not panic")?;
        }
        let rates = receivers.into_iter().map(|receiver| receiver.join().expect("receivers do not panic"));
        rates.sum()
    })
}

fn send(mut stream: TcpStream, start: Instant) -> io::Result<()> {
    let bytes = vec![0x5a; MESSAGE_BYTES];
    while start.elapsed() < STREAM_TIME {
        stream.write_all(&bytes)?;
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads to the end of the stream; GB/s between the first and the last bytes that came at full speed.
fn receive(mut stream: TcpStream, start: Instant) -> io::Result<f64> {
    let mut buffer = vec![0; MESSAGE_BYTES];
    let mut counted_from = None;
    let mut counted_bytes = 0;
    let mut counted_to = start;
    loop {
        let len = stream.read(&mut buffer)?;
        let now = Instant::now();
        match counted_from {
            _ if len == 0 => break,
            None if now - start > WARM_UP_TIME => (counted_from, counted_to) = (Some(now), now),
            None => {}
            Some(_) if now - start < STREAM_TIME => (counted_bytes, counted_to) = (counted_bytes + len, now),
            Some(_) => {}
        }
    }
    let seconds = counted_from.map_or(0.0, |from| (counted_to - from).as_secs_f64());
    Ok(if seconds > 0.0 { counted_bytes as f64 / 1e9 / seconds } else { 0.0 })
}

const MESSAGE_BYTES: usize = 1 << 20;

const STREAM_TIME: Duration = Duration::from_millis(150);

/// TCP's slow start.
const WARM_UP_TIME: Duration = Duration::from_millis(30);
