//! What ranks must agree on, in 64 bits.
//!
//! Three small numbers say collective, element type and operation in the clear, so that a mismatch can name both sides;
//! a hash of 52 bits covers these and the rest: root, counts, algorithm, segments, and the number of the call.

use std::fmt;

use crate::coll::collective::Collective;
use crate::coll::schedule::Schedule;
use crate::element::{ElementType, ReduceOp};

/// What travels with every message of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub u64);

impl Signature {
    /// That of a call.
    pub fn of(schedule: &dyn Schedule, element: ElementType, op: ReduceOp, sequence: u32) -> Self {
        Unnumbered::of(schedule, element, op).numbered(sequence)
    }

    /// That of a message of so many bytes, of which both ends must say the same.
    pub(crate) fn of_message(bytes: usize) -> Self {
        let hash = both_halves(OFFSET_BASIS, bytes as u64);
        Signature(MESSAGE_CODE << 8 << HASH_BITS | hash.wrapping_mul(PRIME) >> (64 - HASH_BITS))
    }

    /// What can be read from it. Where nothing is reduced the operation is left out, and for a barrier the type.
    fn kind(collective: Collective, element: ElementType, op: ReduceOp) -> u64 {
        let position = |found: Option<usize>| found.map_or(0, |index| index as u64 + 1);
        let name = collective.name();
        let collective_code = position(Collective::ALL.iter().position(|other| other.name() == name));
        let element_code = match collective {
            Collective::Barrier => 0,
            _ => position(ElementType::ALL.iter().position(|&other| other == element)),
        };
        let op_code = match collective.reduces() {
            true => position(ReduceOp::ALL.iter().position(|&other| other == op)),
            false => 0,
        };
        collective_code << 8 | element_code << 4 | op_code
    }
}

/// A signature but for the number of the call, for whoever makes the same call again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unnumbered {
    kind: u64,
    hash: u64,
}

impl Unnumbered {
    /// That of all calls like this one.
    ///
    /// FNV-1a, because it must be the same in every build of this library, and is not there against malice: what a
    /// rank sends is taken for what it is whatever it hashes to.
    pub(crate) fn of(schedule: &dyn Schedule, element: ElementType, op: ReduceOp) -> Self {
        let collective = schedule.collective();
        let kind = Signature::kind(collective, element, op);
        let words = [
            kind,
            collective.root().map_or(u64::MAX, |root| u64::from(root.0)),
            u64::from(schedule.world_size()),
            schedule.count() as u64,
            schedule.segment_len() as u64,
        ];
        let name = schedule.name().bytes().fold(OFFSET_BASIS, |hash, byte| fnv1a(hash, u64::from(byte)));
        Unnumbered { kind, hash: words.into_iter().fold(name, both_halves) }
    }

    /// The signature of the call with this number.
    pub(crate) fn numbered(self, sequence: u32) -> Signature {
        let hash = both_halves(self.hash, u64::from(sequence));
        // The upper bits of a product depend on all of the factor's.
        Signature(self.kind << HASH_BITS | hash.wrapping_mul(PRIME) >> (64 - HASH_BITS))
    }
}

/// Says what is in the clear: `all_reduce of float by sum`.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >> HASH_BITS >> 8 & 0xf == MESSAGE_CODE {
            return f.write_str("a message");
        }
        let code = |shift: u32| ((self.0 >> HASH_BITS >> shift & 0xf) as usize).checked_sub(1);
        let collective = code(8).and_then(|index| Collective::ALL.get(index));
        f.write_str(
            collective.map_or("an operation that is not known here", |collective| collective.name()),
        )?;
        if let Some(element) = code(4).and_then(|index| ElementType::ALL.get(index)) {
            write!(f, " of {element}")?;
        }
        code(0).and_then(|index| ReduceOp::ALL.get(index)).map_or(Ok(()), |op| write!(f, " by {op}"))
    }
}

fn both_halves(hash: u64, word: u64) -> u64 {
    fnv1a(fnv1a(hash, word & 0xffff_ffff), word >> 32)
}

fn fnv1a(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(PRIME)
}

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;
const HASH_BITS: u32 = 52;
/// Beyond the codes of collectives.
const MESSAGE_CODE: u64 = 15;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use efarun_wire::Rank;

    use super::*;
    use crate::coll::select::{Algorithm, build};
    use crate::coll::shape::Shape;

    fn shape(collective: Collective, world_size: u32, count: usize, segment_len: usize) -> Shape {
        Shape { collective, world_size, count, segment_len, credits: 2 }
    }

    #[test]
    fn everything_that_must_agree_changes_it() {
        let mut seen = HashSet::new();
        let mut calls = 0;
        let rooted = [Collective::Broadcast { root: Rank(1) }, Collective::Reduce { root: Rank(1) }];
        for collective in Collective::ALL.into_iter().chain(rooted) {
            if collective == Collective::Barrier {
                continue;
            }
            for &algorithm in Algorithm::of(collective) {
                for (world_size, count, segment_len) in [(2, 10, 4), (3, 10, 4), (2, 11, 4), (2, 10, 5)] {
                    let schedule = build(algorithm, shape(collective, world_size, count, segment_len));
                    for element in ElementType::ALL {
                        for op in ReduceOp::ALL.into_iter().take(if collective.reduces() { 9 } else { 1 }) {
                            for sequence in [0, 1, 1 << 20, u32::MAX] {
                                seen.insert(Signature::of(&*schedule, element, op, sequence));
                                calls += 1;
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(seen.len(), calls);
    }

    #[test]
    fn what_has_no_meaning_for_a_collective_does_not_change_it() {
        let of = |credits, op| {
            let shape = Shape { credits, ..shape(Collective::AllGather, 4, 100, 8) };
            Signature::of(&*build(Algorithm::Ring, shape), ElementType::F32, op, 7)
        };
        assert_eq!(of(2, ReduceOp::Sum), of(8, ReduceOp::Max));
    }

    #[test]
    fn it_can_be_read() {
        let text = |collective, algorithm| {
            let schedule = build(algorithm, shape(collective, 4, 100, 8));
            Signature::of(&*schedule, ElementType::F16, ReduceOp::Avg, 7).to_string()
        };
        assert_eq!(text(Collective::AllReduce, Algorithm::Ring), "all_reduce of half by avg");
        assert_eq!(text(Collective::AllGather, Algorithm::Ring), "all_gather of half");
        assert_eq!(text(Collective::Barrier, Algorithm::Dissemination), "barrier");
        assert_eq!(Signature(0).to_string(), "an operation that is not known here");
    }
}
