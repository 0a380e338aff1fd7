//! How fast a connection may send: the kernel's congestion control, and when not to take the system's.
//!
//! A collective sends what it has in bursts, and its result waits for the last byte of each. Controls that space
//! packets out by a rate that they estimate, BBR and its kin, estimate it low after every pause, and take out-of-order
//! handling by another core for loss: between two hosts of one machine exchanges of 256 KiB moved 1.1 to 2.3 GB in a
//! connection's first second by BBR, and 3.6 by Cubic or Reno. Such a system's default is meant for its connections to
//! the world; ours stay within the job's network, and take another.

use std::io;

use socket2::{SockRef, Socket};

/// Sets the congestion control of a socket that is not connected yet; what a listener accepts has the listener's. A socket
/// where that fails is merely slower.
pub(super) fn choose_or_log(socket: SockRef<'_>) {
    if let Err(error) = choose(&socket) {
        log::info!("connections between ranks keep the system's congestion control: {error}");
    }
}

fn choose(socket: &Socket) -> io::Result<()> {
    if !paces(&socket.tcp_congestion()?) {
        return Ok(());
    }
    // What the system does not have, or does not allow to everyone, is refused. It allows Reno to everyone.
    UNPACED.iter().map(|name| socket.set_tcp_congestion(name)).reduce(Result::or).unwrap_or(Ok(()))
}

fn paces(name: &[u8]) -> bool {
    name.starts_with(b"bbr")
}

/// The first that is there is taken.
const UNPACED: [&[u8]; 2] = [b"cubic", b"reno"];

#[cfg(test)]
mod tests {
    use socket2::{Domain, Protocol, Type};

    use super::*;

    fn socket() -> Socket {
        Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap()
    }

    fn name(socket: &Socket) -> String {
        String::from_utf8(socket.tcp_congestion().unwrap()).unwrap().trim_end_matches('\0').to_owned()
    }

    #[test]
    fn a_control_that_does_not_pace_stays() {
        let socket = socket();
        socket.set_tcp_congestion(b"reno").unwrap();
        choose(&socket).unwrap();
        assert_eq!(name(&socket), "reno");
    }

    #[test]
    fn a_control_that_paces_is_replaced() {
        let socket = socket();
        if let Err(error) = socket.set_tcp_congestion(b"bbr") {
            println!("SKIPPED: no BBR on this machine: {error}");
            return;
        }
        choose(&socket).unwrap();
        assert!(["cubic", "reno"].contains(&name(&socket).as_str()), "{}", name(&socket));
    }

    #[test]
    fn names_that_pace_are_told_apart() {
        for name in ["bbr", "bbr2", "bbr3\0\0"] {
            assert!(paces(name.as_bytes()), "{name}");
        }
        for name in ["cubic", "reno", "dctcp", "", "b"] {
            assert!(!paces(name.as_bytes()), "{name}");
        }
    }
}
