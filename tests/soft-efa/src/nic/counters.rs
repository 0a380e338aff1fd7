//! What a device has counted: the port counters of EFA's driver, under its names.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[expect(missing_docs, reason = "the driver's names, which NAMES spells out")]
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
}

/// The file names, in the order of [`Counter`].
pub const NAMES: [&str; COUNTERS] = [
    "tx_bytes",
    "tx_pkts",
    "rx_bytes",
    "rx_pkts",
    "rx_drops",
    "send_bytes",
    "send_wrs",
    "recv_bytes",
    "recv_wrs",
    "rdma_read_wrs",
    "rdma_read_bytes",
    "rdma_read_wr_err",
    "rdma_read_resp_bytes",
    "rdma_write_wrs",
    "rdma_write_bytes",
    "rdma_write_wr_err",
    "rdma_write_recv_bytes",
    "retrans_bytes",
    "retrans_pkts",
    "retrans_timeout_events",
    "unresponsive_remote_events",
    "impaired_remote_conn_events",
];

/// How many counters there are.
pub const COUNTERS: usize = 22;

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
        assert_eq!(NAMES[Counter::RxDrops as usize], "rx_drops");
        assert_eq!(NAMES[Counter::RdmaReadRespBytes as usize], "rdma_read_resp_bytes");
        assert_eq!(NAMES[Counter::ImpairedRemoteConnEvents as usize], "impaired_remote_conn_events");
    }
}
