//! What two sockets can do at best: two processes that exchange messages over TCP with nothing in between.
//!
//! `socket_floor listen ADDRESS:PORT` on one host, `socket_floor connect ADDRESS:PORT` on another; the second prints,
//! for each size, the mean and the least time of an exchange, in which both send and both receive that many bytes. No
//! collective of two ranks in which each needs the other's bytes can be faster over one connection. Nobody is
//! authenticated; it is for a moment on a testbed.

#![expect(clippy::print_stdout, reason = "a program talks to its user")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

/// Exchanges messages between two processes over one TCP connection, and prints how long that takes.
#[derive(Parser)]
struct Args {
    /// Which end this is.
    end: End,
    /// Where the listening end listens.
    address: String,
    /// The largest message, in bytes.
    #[arg(long, default_value_t = 16 << 20)]
    max_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum End {
    Listen,
    Connect,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let mut stream = match args.end {
        End::Listen => TcpListener::bind(&args.address)?.accept()?.0,
        End::Connect => connect(&args.address)?,
    };
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let ours = vec![1; args.max_bytes];
    let mut theirs = vec![0; PIECE_BYTES];
    if args.end == End::Connect {
        println!("{:>12} {:>12} {:>12} {:>8}", "bytes", "mean us", "least us", "GB/s");
    }
    let sizes = std::iter::successors(Some(8), |bytes| Some(bytes * 2));
    for bytes in sizes.take_while(|bytes| *bytes <= args.max_bytes) {
        let rounds = (64 << 20) / (bytes + (16 << 10));
        let mut least = Duration::MAX;
        for _ in 0..rounds / 10 {
            exchange(&mut stream, &ours[..bytes], &mut theirs)?;
        }
        let start = Instant::now();
        for _ in 0..rounds {
            let since = Instant::now();
            exchange(&mut stream, &ours[..bytes], &mut theirs)?;
            least = least.min(since.elapsed());
        }
        let mean = start.elapsed() / rounds as u32;
        if args.end == End::Connect {
            let rate = bytes as f64 / mean.as_secs_f64() / 1e9;
            let [mean, least] = [mean, least].map(|time| time.as_secs_f64() * 1e6);
            println!("{bytes:>12} {mean:>12.1} {least:>12.1} {rate:>8.2}");
        }
    }
    Ok(())
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(address) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

/// Sends `ours` and receives as much, both at once, without sleeping.
fn exchange(stream: &mut TcpStream, ours: &[u8], theirs: &mut [u8]) -> std::io::Result<()> {
    let (mut sent, mut received) = (0, 0);
    while sent < ours.len() || received < ours.len() {
        if sent < ours.len() {
            let end = ours.len().min(sent + PIECE_BYTES);
            sent += at_once(stream.write(&ours[sent..end]))?;
        }
        if received < ours.len() {
            let missing = theirs.len().min(ours.len() - received);
            match at_once(stream.read(&mut theirs[..missing])) {
                Ok(len) => received += len,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// How many bytes were moved, where moving none means that it would have to wait.
fn at_once(moved: std::io::Result<usize>) -> std::io::Result<usize> {
    match moved {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        moved => moved,
    }
}

/// One call moves at most so much: it stays in the second-level cache.
const PIECE_BYTES: usize = 256 << 10;
