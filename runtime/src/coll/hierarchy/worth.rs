//! For which calls a collective by node is faster than one that knows no nodes.
//!
//! By node fewer messages cross the network, and ranks wait for each other more often: for less than a microsecond where each
//! has a core, and where they share cores until the other was let run, which is soon since a wait offers its core
//! (`executor::spin`). While waits slept there instead, it did not pay for short calls, and hung on who had a core.
//!
//! Measured over TCP, time by node beside that of the best algorithm that knows none. On 32 cores, one per rank, 2 nodes of
//! 2, 4 and 8 ranks (medians of 8 to 9 rounds):
//!
//! | | 64 B | 4 KiB | 16 KiB | 32 KiB | 64 KiB | 256 KiB | 1 MiB | 8 MiB |
//! |---|---|---|---|---|---|---|---|---|
//! | all_reduce | 0.18 to 0.27 | 0.82 to 1.04 | 1.09 to 1.26 | 0.87 to 0.93 | 0.48 to 0.55 | 0.46 to 0.72 | 0.64 to 0.74 | 0.78 to 0.89 |
//! | all_gather | 0.20 to 0.43 | 0.22 to 0.52 | 0.28 to 0.96 | 0.62 to 0.76 | 0.44 to 0.90 | 0.72 to 1.05 | 0.55 to 0.85 | 0.63 to 0.83 |
//! | reduce_scatter | 0.22 to 0.42 | 0.72 to 0.87 | 0.86 to 1.02 | 0.41 to 0.99 | 0.44 to 0.92 | 0.52 to 0.68 | 0.63 to 0.76 | 0.81 to 1.15 |
//! | broadcast | 0.71 to 0.91 | 0.76 to 0.98 | 0.70 to 0.99 | 0.68 to 0.93 | 0.69 to 0.92 | 0.71 to 1.09 | 0.71 to 1.01 | 0.79 to 1.02 |
//! | reduce | 0.68 to 0.81 | 0.84 to 0.99 | 0.97 to 1.29 | 0.78 to 1.15 | 0.70 to 1.26 | 0.71 to 1.25 | 1.17 to 2.02 | 1.26 to 1.97 |
//!
//! A barrier took 0.18 to 0.29 of the time. Of 8 ranks that share 2 cores, 4 nodes of 2 and 2 of 4 (medians of 9 rounds):
//! all_reduce 0.72 and 0.52 at 128 B, 1.01 and 0.80 at 32 KiB; all_gather 0.74 and 0.51, 0.86 and 0.48; a barrier 0.73 and 0.41.

use crate::coll::collective::Collective;

/// Whether a call, on vectors of so many bytes, is worth doing by node.
pub(super) fn is_worth(collective: Collective, len_bytes: usize) -> bool {
    match collective {
        Collective::AllReduce => !(SHORT_BYTES..LANES_PAY_BYTES).contains(&len_bytes),
        Collective::Reduce { .. } => len_bytes <= REDUCE_BYTES,
        _ => true,
    }
}

/// From this length on an all_reduce by one rank per node takes longer than one that knows no nodes.
const SHORT_BYTES: usize = 4 << 10;
/// From this length on it takes less again.
const LANES_PAY_BYTES: usize = 32 << 10;
/// The longest vector that is reduced by node.
const REDUCE_BYTES: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_by_node_where_it_was_measured_to_lose() {
        let [all_reduce, broadcast, reduce, all_gather, reduce_scatter, barrier] = Collective::ALL;
        for (collective, len_bytes) in
            [(all_reduce, 4 << 10), (all_reduce, 16 << 10), (reduce, 16 << 10), (reduce, 8 << 20)]
        {
            assert!(!is_worth(collective, len_bytes), "{collective} of {len_bytes}");
        }
        for collective in [all_reduce, broadcast, all_gather, reduce_scatter] {
            for len_bytes in [64, 64 << 10, 8 << 20] {
                assert!(is_worth(collective, len_bytes), "{collective} of {len_bytes}");
            }
        }
        assert!(is_worth(barrier, 0) && is_worth(reduce, 64));
    }
}
