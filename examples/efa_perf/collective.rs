//! What is measured: the collectives, what their sizes mean, and what nccl-tests makes of a time.
//!
//! Pure. [`Collective`] is the name on the command line, [`Operation`] one of its calls with reduction and root, and
//! [`Lens`] how many elements such a call has for a size. Sizes are nccl-tests': the larger side of a call, so the
//! whole of what an all_gather puts out and of what a reduce_scatter takes in.

use efarun_rt::{Algorithm, Rank, ReduceOp};

/// A collective that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Collective {
    /// Every rank gets the reduction over all ranks.
    AllReduce,
    /// Every rank gets the root's buffer.
    Broadcast,
    /// The root gets the reduction over all ranks.
    Reduce,
    /// Every rank gets all ranks' chunks, in order of rank.
    AllGather,
    /// Every rank gets its chunk of the reduction over all ranks.
    ReduceScatter,
    /// Nobody goes on before all have come.
    Barrier,
}

impl Collective {
    /// All of them, in the order of help texts and of `efa-perf all`.
    pub(crate) const ALL: [Collective; 6] = [
        Collective::AllReduce,
        Collective::Broadcast,
        Collective::Reduce,
        Collective::AllGather,
        Collective::ReduceScatter,
        Collective::Barrier,
    ];

    /// Its name on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce",
            Collective::Broadcast => "broadcast",
            Collective::Reduce => "reduce",
            Collective::AllGather => "all_gather",
            Collective::ReduceScatter => "reduce_scatter",
            Collective::Barrier => "barrier",
        }
    }

    /// As the runtime has it.
    pub(crate) fn in_runtime(self, root: Rank) -> efarun_rt::coll::collective::Collective {
        use efarun_rt::coll::collective::Collective as Runtime;
        match self {
            Collective::AllReduce => Runtime::AllReduce,
            Collective::Broadcast => Runtime::Broadcast { root },
            Collective::Reduce => Runtime::Reduce { root },
            Collective::AllGather => Runtime::AllGather,
            Collective::ReduceScatter => Runtime::ReduceScatter,
            Collective::Barrier => Runtime::Barrier,
        }
    }

    /// Whether it has this algorithm.
    pub(crate) fn has(self, algorithm: Algorithm) -> bool {
        Algorithm::of(self.in_runtime(Rank(0))).contains(&algorithm)
    }

    /// Whether `-o` means something to it.
    pub(crate) fn has_reduction(self) -> bool {
        matches!(self, Collective::AllReduce | Collective::Reduce | Collective::ReduceScatter)
    }

    /// Whether `-r` means something to it.
    pub(crate) fn has_root(self) -> bool {
        matches!(self, Collective::Broadcast | Collective::Reduce)
    }

    /// Whether it moves data, so that sizes and types mean something to it.
    pub(crate) fn has_data(self) -> bool {
        self != Collective::Barrier
    }

    /// What busbw is to algbw in a world of this size, as nccl-tests defines it: what makes busbw the speed of the
    /// busiest link when every link carries the least it can.
    pub(crate) fn bus_factor(self, world_size: u32) -> f64 {
        let n = f64::from(world_size);
        match self {
            Collective::AllReduce => 2.0 * (n - 1.0) / n,
            Collective::AllGather | Collective::ReduceScatter => (n - 1.0) / n,
            Collective::Broadcast | Collective::Reduce => 1.0,
            Collective::Barrier => 0.0,
        }
    }

    /// How many elements a call of this size has, rounded down to what the collective can do; none where that leaves
    /// a rank without any. A barrier has no elements at any size.
    pub(crate) fn lens(self, size_bytes: u64, element_bytes: usize, world_size: u32) -> Option<Lens> {
        let whole = usize::try_from(size_bytes).expect("a size is at most 2^48 bytes") / element_bytes;
        let (count, input, output) = match self {
            Collective::Barrier => return Some(Lens { count: 0, input: 0, output: 0 }),
            Collective::AllReduce | Collective::Broadcast | Collective::Reduce => (whole, whole, whole),
            Collective::AllGather | Collective::ReduceScatter => {
                let chunk = chunk_len(whole, element_bytes, world_size);
                let total = chunk * world_size as usize;
                if self == Collective::AllGather { (chunk, chunk, total) } else { (chunk, total, chunk) }
            }
        };
        (count > 0).then_some(Lens { count, input, output })
    }

    /// Its calls over these reductions and roots, in nccl-tests' order.
    pub(crate) fn operations(self, ops: &[ReduceOp], roots: &[Rank]) -> Vec<Operation> {
        let of_op = |op: ReduceOp| -> Vec<Operation> {
            match self {
                Collective::AllReduce => vec![Operation::AllReduce(op)],
                Collective::Broadcast => roots.iter().map(|&root| Operation::Broadcast(root)).collect(),
                Collective::Reduce => roots.iter().map(|&root| Operation::Reduce(op, root)).collect(),
                Collective::AllGather => vec![Operation::AllGather],
                Collective::ReduceScatter => vec![Operation::ReduceScatter(op)],
                Collective::Barrier => vec![Operation::Barrier],
            }
        };
        let ops = if self.has_reduction() { ops } else { &[ReduceOp::Sum] };
        ops.iter().copied().flat_map(of_op).collect()
    }
}

/// A collective with all that its calls have in common but the buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// By this reduction.
    AllReduce(ReduceOp),
    /// From this root.
    Broadcast(Rank),
    /// By this reduction, to this root.
    Reduce(ReduceOp, Rank),
    /// No more to say.
    AllGather,
    /// By this reduction.
    ReduceScatter(ReduceOp),
    /// No more to say.
    Barrier,
}

impl Operation {
    /// The collective.
    pub(crate) fn collective(self) -> Collective {
        match self {
            Operation::AllReduce(_) => Collective::AllReduce,
            Operation::Broadcast(_) => Collective::Broadcast,
            Operation::Reduce(..) => Collective::Reduce,
            Operation::AllGather => Collective::AllGather,
            Operation::ReduceScatter(_) => Collective::ReduceScatter,
            Operation::Barrier => Collective::Barrier,
        }
    }

    /// The reduction, where there is one.
    pub(crate) fn op(self) -> Option<ReduceOp> {
        match self {
            Operation::AllReduce(op) | Operation::Reduce(op, _) | Operation::ReduceScatter(op) => Some(op),
            Operation::Broadcast(_) | Operation::AllGather | Operation::Barrier => None,
        }
    }

    /// The root, where there is one.
    pub(crate) fn root(self) -> Option<Rank> {
        match self {
            Operation::Broadcast(root) | Operation::Reduce(_, root) => Some(root),
            _ => None,
        }
    }
}

/// How many elements the buffers of one call have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lens {
    /// What nccl-tests prints as count: a rank's chunk, where there are chunks.
    pub(crate) count: usize,
    /// Elements that a rank puts in.
    pub(crate) input: usize,
    /// Elements that a rank gets.
    pub(crate) output: usize,
}

impl Lens {
    /// The larger side, which is also the buffer of a call in place.
    pub(crate) fn larger(self) -> usize {
        self.input.max(self.output)
    }
}

/// A rank's chunk: from 16 bytes on whole multiples of 16 bytes, as nccl-tests takes them, so that rows of both have
/// the same sizes. nccl-tests makes nothing of smaller chunks; they are latencies worth knowing, and kept here.
fn chunk_len(whole: usize, element_bytes: usize, world_size: u32) -> usize {
    let chunk = whole / world_size as usize;
    let of_16_bytes = CHUNK_ALIGN_BYTES / element_bytes;
    if chunk < of_16_bytes { chunk } else { chunk - chunk % of_16_bytes }
}

const CHUNK_ALIGN_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_factors_are_those_of_nccl_tests() {
        let factors = |n| Collective::ALL.map(|collective| collective.bus_factor(n));
        assert_eq!(factors(1), [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(factors(2), [1.0, 1.0, 1.0, 0.5, 0.5, 0.0]);
        assert_eq!(factors(8), [1.75, 1.0, 1.0, 0.875, 0.875, 0.0]);
    }

    #[test]
    fn size_is_the_whole_of_what_is_gathered_or_scattered() {
        let lens = |collective: Collective| collective.lens(1 << 20, 4, 4).unwrap();
        assert_eq!(lens(Collective::AllReduce), Lens { count: 1 << 18, input: 1 << 18, output: 1 << 18 });
        assert_eq!(lens(Collective::AllGather), Lens { count: 1 << 16, input: 1 << 16, output: 1 << 18 });
        assert_eq!(lens(Collective::ReduceScatter), Lens { count: 1 << 16, input: 1 << 18, output: 1 << 16 });
    }

    #[test]
    fn chunks_are_multiples_of_16_bytes_from_there_on() {
        let chunk = |size, element, n| Collective::AllGather.lens(size, element, n).map(|lens| lens.count);
        assert_eq!(chunk(1 << 20, 4, 3), Some(87380));
        assert_eq!(chunk(100, 1, 3), Some(32));
        assert_eq!(chunk(48, 2, 3), Some(8));
        assert_eq!(chunk(45, 1, 3), Some(15));
        assert_eq!(chunk(12, 4, 3), Some(1));
    }

    #[test]
    fn sizes_that_leave_a_rank_without_an_element_are_none() {
        assert_eq!(Collective::AllReduce.lens(3, 4, 2), None);
        assert_eq!(Collective::AllGather.lens(8, 4, 4), None);
        assert_eq!(Collective::ReduceScatter.lens(16, 8, 4), None);
        assert!(Collective::Barrier.lens(1, 8, 4).is_some());
    }

    #[test]
    fn operations_run_over_reductions_then_roots() {
        let (ops, roots) = ([ReduceOp::Sum, ReduceOp::Max], [Rank(0), Rank(1)]);
        let of = |collective: Collective| collective.operations(&ops, &roots);
        assert_eq!(
            of(Collective::Reduce),
            [
                Operation::Reduce(ReduceOp::Sum, Rank(0)),
                Operation::Reduce(ReduceOp::Sum, Rank(1)),
                Operation::Reduce(ReduceOp::Max, Rank(0)),
                Operation::Reduce(ReduceOp::Max, Rank(1)),
            ]
        );
        assert_eq!(of(Collective::Broadcast), [0, 1].map(|rank| Operation::Broadcast(Rank(rank))));
        assert_eq!(of(Collective::AllGather), [Operation::AllGather]);
        assert_eq!(of(Collective::AllReduce).len(), 2);
        assert_eq!(of(Collective::Barrier), [Operation::Barrier]);
        for collective in Collective::ALL {
            assert!(of(collective).iter().all(|operation| operation.collective() == collective));
            assert!(
                of(collective).iter().all(|operation| operation.op().is_some() == collective.has_reduction())
            );
            assert!(
                of(collective).iter().all(|operation| operation.root().is_some() == collective.has_root())
            );
        }
    }
}
