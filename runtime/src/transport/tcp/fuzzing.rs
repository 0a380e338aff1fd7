//! A door for the fuzz targets: what a peer may send behind its handshake, without a network.
//!
//! Nothing of the runtime uses this module.

use std::io::Write;
use std::os::unix::net::UnixStream;

use socket2::Socket;

use super::link::{Extent, Flows, Link};
use crate::transport::Header;

/// What came of what a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// The messages that arrived whole, in order.
    pub messages: Vec<(Header, Vec<u8>)>,
    /// What it did wrong.
    pub error: Option<String>,
}

/// Receives from a peer that sends these parts and was granted as many messages as may be in flight; each is read and
/// its room given back as it arrives, unless `holds`.
///
/// # Panics
///
/// When the system has no sockets left.
pub fn receive<'a>(parts: impl Iterator<Item = &'a [u8]>, holds: bool) -> Received {
    let (mut peer, here) = UnixStream::pair().expect("a pair of sockets");
    here.set_nonblocking(true).expect("a socket that does not wait");
    let mut link = Link::new(Socket::from(here));
    let mut flows = Flows::default();
    flows.inward.open();
    flows.inward.announce();
    let mut received = Received { messages: Vec::new(), error: None };
    for part in parts {
        peer.write_all(part).expect("a socket takes a few bytes");
        received.error = link.receive(Extent::All, &mut flows).err();
        if !holds || received.error.is_some() {
            read(&mut flows, &mut received.messages);
        }
        if received.error.is_some() {
            break;
        }
    }
    read(&mut flows, &mut received.messages);
    received
}

fn read(flows: &mut Flows, messages: &mut Vec<(Header, Vec<u8>)>) {
    while let Some(arrived) = flows.arrived.pop_front() {
        let len_bytes = arrived.header.len_bytes as usize;
        messages.push((arrived.header, flows.payload(&arrived).to_vec()));
        arrived.place.release(&mut flows.room, len_bytes);
        flows.inward.release(len_bytes);
        if flows.inward.is_announcement_due() {
            flows.inward.announce();
        }
    }
}
