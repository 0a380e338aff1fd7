//! Somebody on the network who has no key: what he does to a listener, and whether he is shown out.
//!
//! `stranger random|silent|crowd ADDRESS` connects and sends random bytes, nothing, or nothing 200 times over;
//! `stranger replay ADDRESS FILE` sends what is in FILE. Each then waits to be hung up on, and prints the number of
//! bytes that it was told before; not to be hung up on in time is a failure.
//!
//! `stranger record ADDRESS FILE` writes the first bytes that anybody here sends to a port of ADDRESS but SSH's.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use efarun_tests::fixture;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let told_bytes = match *words {
        ["random", address] => told_until_closed(connected(address, &random_bytes()?)?)?,
        ["silent", address] => told_until_closed(connected(address, &[])?)?,
        ["crowd", address] => {
            let streams: Vec<_> = (0..CROWD).map(|_| connected(address, &[])).collect::<Result<_, _>>()?;
            streams.into_iter().map(told_until_closed).sum::<Result<usize, _>>()?
        }
        ["replay", address, file] => told_until_closed(connected(address, &fs::read(file)?)?)?,
        ["record", address, file] => {
            fs::write(file, first_payload_to(address.parse()?)?)?;
            0
        }
        _ => return Err("usage: stranger random|silent|crowd|replay|record ADDRESS [FILE]".into()),
    };
    fixture::say(&told_bytes.to_string());
    Ok(())
}

/// Being refused, or cut off while sending, is being shown out too.
fn connected(address: &str, bytes: &[u8]) -> std::io::Result<Option<TcpStream>> {
    let mut stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(error) if is_shown_out(error.kind()) => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.set_write_timeout(Some(PATIENCE))?;
    match stream.write_all(bytes) {
        Err(error) if !is_shown_out(error.kind()) => Err(error),
        _ => Ok(Some(stream)),
    }
}

fn told_until_closed(stream: Option<TcpStream>) -> std::io::Result<usize> {
    let Some(mut stream) = stream else { return Ok(0) };
    let deadline = Instant::now() + PATIENCE;
    let mut told = 0;
    let mut buffer = [0; 4096];
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(remaining))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(told),
            Ok(len) => told += len,
            Err(error) if is_shown_out(error.kind()) => return Ok(told),
            Err(error) => return Err(error),
        }
    }
}

fn is_shown_out(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn random_bytes() -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 1 << 20];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Listens on all interfaces of this network namespace; says `recording` when it does.
fn first_payload_to(address: Ipv4Addr) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    fixture::say("recording");
    let mut frame = vec![0; 1 << 16];
    loop {
        let len = nix::unistd::read(&socket, &mut frame)?;
        if let Some(payload) = payload_to(address, &frame[..len]) {
            return Ok(payload.to_vec());
        }
    }
}

/// What a frame carries, if it is TCP to this address and not of an SSH session.
fn payload_to(address: Ipv4Addr, frame: &[u8]) -> Option<&[u8]> {
    let (ethernet, packet) = frame.split_at_checked(14)?;
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let is_ours = ethernet.ends_with(&[0x08, 0x00])
        && *packet.get(9)? == TCP
        && packet.get(16..20)? == address.octets();
    let packet_len = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let segment = packet.get(header_len..packet_len)?;
    let source_port = u16::from_be_bytes([*segment.first()?, *segment.get(1)?]);
    let payload = segment.get(usize::from(segment.get(12)? >> 4) * 4..)?;
    (is_ours && source_port != SSH_PORT && !payload.is_empty()).then_some(payload)
}

/// The launcher allows 2 s before authentication; this leaves room for a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

const CROWD: usize = 200;
const TCP: u8 = 6;
const SSH_PORT: u16 = 22;
