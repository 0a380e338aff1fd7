//! What ranks must agree on, in 64 bits.

use crate::coll::schedule::Schedule;
use crate::element::{ElementType, ReduceOp};

/// Hashes what every rank of a call must have alike. It travels with every message.
///
/// FNV-1a, because it must be the same in every build of this library, and is not there against malice: what a rank
/// sends is taken for what it is whatever it hashes to.
pub(super) fn signature(schedule: &dyn Schedule, element: ElementType, op: ReduceOp, sequence: u32) -> u64 {
    let words = [
        u64::from(schedule.world_size()),
        schedule.count() as u64,
        schedule.segment_len() as u64,
        element_code(element),
        op_code(op),
        u64::from(sequence),
    ];
    let name = fnv1a(OFFSET_BASIS, schedule.name().as_bytes());
    words.iter().fold(name, |hash, word| fnv1a(hash, &word.to_le_bytes()))
}

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

fn element_code(element: ElementType) -> u64 {
    match element {
        ElementType::U8 => 1,
        ElementType::I32 => 2,
        ElementType::I64 => 3,
        ElementType::F32 => 4,
        ElementType::F64 => 5,
    }
}

fn op_code(op: ReduceOp) -> u64 {
    match op {
        ReduceOp::Sum => 1,
        ReduceOp::Prod => 2,
        ReduceOp::Min => 3,
        ReduceOp::Max => 4,
    }
}

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::coll::select::{Algorithm, build};

    #[test]
    fn everything_that_must_agree_changes_it() {
        let mut seen = HashSet::new();
        let mut calls = 0;
        for algorithm in Algorithm::ALL {
            for (world_size, count, segment_len) in [(2, 10, 4), (3, 10, 4), (2, 11, 4), (2, 10, 5)] {
                let schedule = build(algorithm, world_size, count, segment_len, 2);
                for element in ElementType::ALL {
                    for op in ReduceOp::ALL {
                        for sequence in [0, 1, u32::MAX] {
                            seen.insert(signature(&*schedule, element, op, sequence));
                            calls += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(seen.len(), calls);
    }

    #[test]
    fn credits_may_differ_between_ranks() {
        let hash = |credits| {
            let schedule = build(Algorithm::Ring, 4, 100, 8, credits);
            signature(&*schedule, ElementType::F32, ReduceOp::Sum, 7)
        };
        assert_eq!(hash(2), hash(8));
    }
}
