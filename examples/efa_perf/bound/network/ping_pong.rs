//! The latency of a link: half the fastest round trip of one byte.
//!
//! A blocking read sleeps and is woken, a spinning one keeps a core busy, which on a machine with few of them delays
//! the kernel's own work. Which is faster depends on the machine, so that both are tried.

use std::hint;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Sends and times; microseconds one way.
pub(super) fn ask(stream: &mut TcpStream) -> io::Result<f64> {
    let mut fastest = fastest_round_trip(stream, read_blocking)?;
    if thread::available_parallelism().map_or(1, usize::from) > 1 {
        stream.write_all(&[SPIN])?;
        stream.set_nonblocking(true)?;
        fastest = fastest.min(fastest_round_trip(stream, read_spinning)?);
    }
    stream.set_nonblocking(false)?;
    stream.write_all(&[DONE])?;
    Ok(fastest.as_secs_f64() * 1e6 / 2.0)
}

/// Sends back what comes, until told that it is enough.
pub(super) fn answer(stream: &mut TcpStream) -> io::Result<()> {
    let mut read: Reader = read_blocking;
    loop {
        match read(stream)? {
            SPIN => {
                stream.set_nonblocking(true)?;
                read = read_spinning;
            }
            DONE => return stream.set_nonblocking(false),
            ping => stream.write_all(&[ping])?,
        }
    }
}

fn fastest_round_trip(stream: &mut TcpStream, read: Reader) -> io::Result<Duration> {
    let deadline = Instant::now() + PING_PONG_TIME;
    let mut fastest = Duration::MAX;
    while Instant::now() < deadline {
        let start = Instant::now();
        stream.write_all(&[PING])?;
        read(stream)?;
        fastest = fastest.min(start.elapsed());
    }
    Ok(fastest)
}

type Reader = fn(&mut TcpStream) -> io::Result<u8>;

fn read_blocking(stream: &mut TcpStream) -> io::Result<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn read_spinning(stream: &mut TcpStream) -> io::Result<u8> {
    let deadline = Instant::now() + super::PATIENCE;
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => hint::spin_loop(),
            Err(error) => return Err(error),
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

const PING: u8 = 0;
const SPIN: u8 = 1;
const DONE: u8 = 2;

const PING_PONG_TIME: Duration = Duration::from_millis(100);
