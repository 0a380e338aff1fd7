//! What a device has counted: the port counters of EFA's driver, under its names, and how often each manner was had.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[expect(missing_docs, reason = "the driver's names, and those of manners, which NAMES spells out")]
pub enum Counter {
    TxBytes,
    TxPkts,
    RxBytes,
    RxPkts,
    RxDrops,
    SendBytes,
    SendWrs,
    RecvBytes,
    RecvWrs,
    RdmaReadWrs,
    RdmaReadBytes,
    RdmaReadWrErr,
    RdmaReadRespBytes,
    RdmaWriteWrs,
    RdmaWriteBytes,
    RdmaWriteWrErr,
    RdmaWriteRecvBytes,
    RetransBytes,
    RetransPkts,
    RetransTimeoutEvents,
    UnresponsiveRemoteEvents,
    ImpairedRemoteConnEvents,
    MannerPieces,
    MannerUnordered,
    MannerCompletions,
    MannerRepeat,
    MannerLate,
    MannerNotReady,
}

/// The files in a port's folder, in the order of [`Counter`]. A card has those of the driver only.
pub const NAMES: [&str; COUNTERS] = [
    "hw_counters/tx_bytes",
    "hw_counters/tx_pkts",
    "hw_counters/rx_bytes",
    "hw_counters/rx_pkts",
    "hw_counters/rx_drops",
    "hw_counters/send_bytes",
    "hw_counters/send_wrs",
    "hw_counters/recv_bytes",
    "hw_counters/recv_wrs",
    "hw_counters/rdma_read_wrs",
    "hw_counters/rdma_read_bytes",
    "hw_counters/rdma_read_wr_err",
    "hw_counters/rdma_read_resp_bytes",
    "hw_counters/rdma_write_wrs",
    "hw_counters/rdma_write_bytes",
    "hw_counters/rdma_write_wr_err",
    "hw_counters/rdma_write_recv_bytes",
    "hw_counters/retrans_bytes",
    "hw_counters/retrans_pkts",
    "hw_counters/retrans_timeout_events",
    "hw_counters/unresponsive_remote_events",
    "hw_counters/impaired_remote_conn_events",
    "manners/pieces",
    "manners/unordered",
    "manners/completions",
    "manners/repeat",
    "manners/late",
    "manners/not-ready",
];

/// How many counters there are,
pub const COUNTERS: usize = 28;
/// and how many of them are the driver's.
#[cfg(test)]
pub const OF_DRIVER: usize = 22;

/// The counters of a device. The layout is fixed, as processes share it through a file.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Counters([AtomicU64; COUNTERS]);

impl Counters {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, amount: u64) {
        self.0[counter as usize].fetch_add(amount, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn read(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }

    /// All of them, in order.
    pub fn all(&self) -> [u64; COUNTERS] {
        std::array::from_fn(|place| self.0[place].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_of_the_counters() {
        assert_eq!(NAMES[Counter::RxDrops as usize], "hw_counters/rx_drops");
        assert_eq!(NAMES[Counter::RdmaReadRespBytes as usize], "hw_counters/rdma_read_resp_bytes");
        assert_eq!(
            NAMES[Counter::ImpairedRemoteConnEvents as usize],
            "hw_counters/impaired_remote_conn_events"
        );
        assert_eq!(NAMES[OF_DRIVER..][0], "manners/pieces");
        assert_eq!(NAMES[Counter::MannerNotReady as usize], "manners/not-ready");
    }
}
