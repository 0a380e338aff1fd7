//! Which transports a World uses, for people.

use std::fmt;

use crate::transport::shm::Geometry;

/// One transport and how many peers it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportLine {
    /// How many other ranks this rank reaches by it.
    pub peers: usize,
    /// Whether it is libfabric.
    pub is_fabric: bool,
    /// What it is: `shm (8 slots of 64 KiB per pair)`, `tcp (libfabric 1.17, 10.88.0.1)`.
    pub what: String,
}

impl TransportLine {
    pub(super) fn shm(peers: usize, geometry: Geometry) -> Self {
        let what = format!("shm ({} slots of {} KiB per pair)", geometry.slots, geometry.slot_bytes >> 10);
        TransportLine { peers, is_fabric: false, what }
    }

    pub(super) fn fabric(peers: usize, what: String) -> Self {
        TransportLine { peers, is_fabric: true, what }
    }
}

impl fmt::Display for TransportLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.peers == 1 { "" } else { "s" };
        write!(f, "{} to {} peer{plural}", self.what, self.peers)
    }
}
