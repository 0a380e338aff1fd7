//! Which transports a World uses, for people.

use std::fmt;

use crate::transport::shm::Geometry;

/// What a transport stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Carrier {
    /// Memory that the ranks of a node share.
    SharedMemory,
    /// EFA devices, by libfabric.
    Efa,
    /// Another provider of libfabric.
    Fabric,
    /// The runtime's own sockets.
    Sockets,
}

/// One transport and how many peers it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportLine {
    /// How many other ranks this rank reaches by it.
    pub peers: usize,
    /// What it stands on.
    pub carrier: Carrier,
    /// What it is, and why it is this one: `shm (8 slots of 64 KiB per pair)`, `tcp (sockets at 10.88.0.1; no EFA
    /// device on h2)`.
    pub what: String,
}

impl TransportLine {
    pub(super) fn shm(peers: usize, geometry: Geometry) -> Self {
        let what = format!("shm ({} slots of {} KiB per pair)", geometry.slots, geometry.slot_bytes >> 10);
        TransportLine { peers, carrier: Carrier::SharedMemory, what }
    }

    /// `description` ends in a parenthesis, which takes in the reason.
    pub(super) fn network(peers: usize, carrier: Carrier, description: &str, reason: &str) -> Self {
        let what = format!("{}; {reason})", description.trim_end_matches(')'));
        TransportLine { peers, carrier, what }
    }
}

impl fmt::Display for TransportLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.peers == 1 { "" } else { "s" };
        write!(f, "{} to {} peer{plural}", self.what, self.peers)
    }
}
