//! How an operation ended: EFA's completion codes, and the verbs status that each is shown as.

/// EFA's completion codes; a completion's `vendor_err`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// It is done.
    Ok = 0,
    /// Its queue pair was closed, or its device is lost.
    Flushed = 1,
    /// The queue pair failed.
    QueuePair = 2,
    /// Its kind is not one that the device knows.
    Unsupported = 3,
    /// There is no such address handle.
    InvalidAddressHandle = 4,
    /// The local key names no region, or not this memory.
    InvalidLocalKey = 5,
    /// It is longer than a message or a transfer may be, or than the memory for it.
    BadLength = 6,
    /// The remote key names no region, or not this memory, or not for this access.
    RemoteBadAddress = 7,
    /// The remote end gave it up.
    RemoteAbort = 8,
    /// There is no such queue pair at the remote device, or no longer.
    RemoteBadQueuePair = 9,
    /// The remote end had no receive posted, and went on having none.
    ReceiverNotReady = 10,
    /// The receive that was posted is too short for it.
    RemoteBadLength = 11,
    /// The remote end answered with something that makes no sense.
    RemoteBadStatus = 12,
    /// The remote end, which had answered before, answers no more.
    Unresponsive = 13,
    /// The remote end has no address handle for the device that asks.
    UnknownPeer = 14,
    /// The remote end has never answered.
    Unreachable = 15,
}

impl Status {
    /// Every code, in order.
    pub const ALL: [Status; 16] = [
        Status::Ok,
        Status::Flushed,
        Status::QueuePair,
        Status::Unsupported,
        Status::InvalidAddressHandle,
        Status::InvalidLocalKey,
        Status::BadLength,
        Status::RemoteBadAddress,
        Status::RemoteAbort,
        Status::RemoteBadQueuePair,
        Status::ReceiverNotReady,
        Status::RemoteBadLength,
        Status::RemoteBadStatus,
        Status::Unresponsive,
        Status::UnknownPeer,
        Status::Unreachable,
    ];

    /// The status of a code that came over a link.
    pub fn from_code(code: u8) -> Option<Status> {
        Status::ALL.get(usize::from(code)).copied()
    }

    /// `enum ibv_wc_status`, as rdma-core's EFA driver translates the code.
    pub fn verbs(self) -> u32 {
        match self {
            Status::Ok => 0,                                                             // SUCCESS
            Status::Flushed => 5,                                                        // WR_FLUSH_ERR
            Status::QueuePair | Status::Unsupported | Status::InvalidAddressHandle => 2, // LOC_QP_OP_ERR
            Status::InvalidLocalKey => 4,                                                // LOC_PROT_ERR
            Status::BadLength => 1,                                                      // LOC_LEN_ERR
            Status::RemoteBadAddress => 10,                                              // REM_ACCESS_ERR
            Status::RemoteAbort => 16,                                                   // REM_ABORT_ERR
            Status::RemoteBadQueuePair | Status::UnknownPeer => 15,                      // REM_INV_RD_REQ_ERR
            Status::ReceiverNotReady => 13,                                              // RNR_RETRY_EXC_ERR
            Status::RemoteBadLength => 9,                                                // REM_INV_REQ_ERR
            Status::RemoteBadStatus => 7,                                                // BAD_RESP_ERR
            Status::Unresponsive | Status::Unreachable => 20,                            // RESP_TIMEOUT_ERR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_places_in_the_list() {
        for (place, status) in Status::ALL.iter().enumerate() {
            assert_eq!(usize::from(*status as u8), place);
        }
        assert_eq!(Status::from_code(16), None);
    }
}
