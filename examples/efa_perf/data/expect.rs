//! What a rank gives to a checked call, and what it must get.
//!
//! Pure. The rules of each operation stand here once more, apart from the runtime that follows them: which rank's
//! elements go where, out of place and in place.

use efarun_rt::{Rank, ReduceOp};

use super::pattern::Pattern;
use super::value::Sample;
use crate::collective::{Lens, Operation};

/// Where a call's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// To a buffer of its own.
    Out,
    /// Over the input: of all_gather the input is the rank's chunk of the output, of reduce_scatter the output is the
    /// rank's chunk of the input.
    In,
}

/// One checked call, as one rank sees it.
#[derive(Debug)]
pub(crate) struct Given<T> {
    operation: Operation,
    world_size: u32,
    rank: Rank,
    seed: u64,
    lens: Lens,
    input: Pattern<T>,
}

impl<T: Sample> Given<T> {
    /// `seed` tells calls apart.
    pub(crate) fn new(operation: Operation, world_size: u32, rank: Rank, seed: u64, lens: Lens) -> Self {
        let input = input(operation, world_size, rank, seed, lens);
        Given { operation, world_size, rank, seed, lens, input }
    }

    /// Writes the input of a call out of place.
    pub(crate) fn fill_input(&self, input: &mut [T]) {
        self.input.fill(0, input);
    }

    /// How much of it has changed: an input is only read.
    pub(crate) fn count_wrong_input(&self, input: &[T]) -> u64 {
        self.input.count_wrong(0, input)
    }

    /// Writes the input of a call in place into its buffer, and leaves what is no input as it is.
    pub(crate) fn fill_in_place(&self, buffer: &mut [T]) {
        let start = match self.operation {
            Operation::AllGather => self.chunk_start(),
            _ => 0,
        };
        self.input.fill(0, &mut buffer[start..start + self.lens.input]);
    }

    /// How many elements of the result are wrong, or changed where this rank has none. What the operation leaves
    /// undefined is not looked at.
    pub(crate) fn count_wrong_output(&self, place: Place, buffer: &[T]) -> u64 {
        let Given { operation, world_size, rank, seed, lens, .. } = *self;
        let reduced = |op| Pattern::<T>::reduced(op, world_size, seed, lens.input);
        match operation {
            Operation::AllReduce(op) => reduced(op).count_wrong(0, buffer),
            Operation::Reduce(op, root) if root == rank => reduced(op).count_wrong(0, buffer),
            Operation::Reduce(..) => match place {
                Place::Out => buffer.iter().filter(|element| **element != T::POISON).count() as u64,
                Place::In => self.count_wrong_input(buffer),
            },
            Operation::Broadcast(root) => {
                input::<T>(operation, world_size, root, seed, lens).count_wrong(0, buffer)
            }
            Operation::AllGather => {
                let chunks = buffer.chunks(lens.count).zip((0..world_size).map(Rank));
                chunks
                    .map(|(chunk, of)| input(operation, world_size, of, seed, lens).count_wrong(0, chunk))
                    .sum()
            }
            Operation::ReduceScatter(op) => {
                let start = self.chunk_start();
                let chunk = match place {
                    Place::Out => buffer,
                    Place::In => &buffer[start..start + lens.count],
                };
                reduced(op).count_wrong(start, chunk)
            }
            Operation::Barrier => 0,
        }
    }

    fn chunk_start(&self) -> usize {
        self.rank.index() * self.lens.count
    }
}

/// What a rank gives. What is not reduced may be any value: that of a comparison.
fn input<T: Sample>(operation: Operation, world_size: u32, rank: Rank, seed: u64, lens: Lens) -> Pattern<T> {
    Pattern::input(operation.op().unwrap_or(ReduceOp::Max), world_size, rank.0, seed, lens.input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Collective;

    const WORLD: u32 = 3;

    fn given(operation: Operation, rank: u32) -> Given<i32> {
        let lens = operation.collective().lens(48, 4, WORLD).unwrap();
        Given::new(operation, WORLD, Rank(rank), 5, lens)
    }

    /// What the operation does, told by the inputs of all ranks and nothing else.
    fn result(operation: Operation, rank: u32) -> Vec<i32> {
        let all: Vec<Vec<i32>> = (0..WORLD)
            .map(|rank| {
                let given = given(operation, rank);
                let mut input = vec![0; given.lens.input];
                given.fill_input(&mut input);
                input
            })
            .collect();
        let sums =
            || (0..all[0].len()).map(|i| all.iter().fold(0i32, |sum, input| sum.wrapping_add(input[i])));
        match operation.collective() {
            Collective::AllReduce | Collective::Reduce => sums().collect(),
            Collective::Broadcast => all[1].clone(),
            Collective::AllGather => all.concat(),
            Collective::ReduceScatter => sums().skip(rank as usize * 4).take(4).collect(),
            Collective::Barrier => Vec::new(),
        }
    }

    const OPERATIONS: [Operation; 5] = [
        Operation::AllReduce(ReduceOp::Sum),
        Operation::Broadcast(Rank(1)),
        Operation::Reduce(ReduceOp::Sum, Rank(1)),
        Operation::AllGather,
        Operation::ReduceScatter(ReduceOp::Sum),
    ];

    #[test]
    fn right_results_are_not_wrong_and_each_wrong_element_is() {
        for operation in OPERATIONS {
            let given = given(operation, 1);
            let mut output = result(operation, 1);
            assert_eq!(given.count_wrong_output(Place::Out, &output), 0, "{operation:?}");
            for index in 0..output.len() {
                output[index] ^= 1;
                assert_eq!(given.count_wrong_output(Place::Out, &output), 1, "{operation:?} at {index}");
                output[index] ^= 1;
            }
        }
    }

    #[test]
    fn results_in_place_are_looked_for_where_they_belong() {
        let scatter = Operation::ReduceScatter(ReduceOp::Sum);
        let mut buffer = vec![0; 12];
        buffer[8..12].copy_from_slice(&result(scatter, 2));
        assert_eq!(given(scatter, 2).count_wrong_output(Place::In, &buffer), 0);
        assert_eq!(given(scatter, 1).count_wrong_output(Place::In, &buffer), 4);
    }

    #[test]
    fn input_in_place_of_all_gather_is_the_ranks_chunk() {
        let mut buffer = vec![7; 12];
        given(Operation::AllGather, 1).fill_in_place(&mut buffer);
        assert_eq!((&buffer[..4], &buffer[8..]), (&[7; 4][..], &[7; 4][..]));
        assert_eq!(buffer[4..8], result(Operation::AllGather, 0)[4..8]);
    }

    #[test]
    fn only_the_root_of_a_reduce_has_a_result_and_others_keep_their_buffers() {
        let operation = Operation::Reduce(ReduceOp::Sum, Rank(1));
        let untouched = [i32::POISON; 12];
        assert_eq!(given(operation, 1).count_wrong_output(Place::Out, &untouched), 12);
        let other = given(operation, 0);
        assert_eq!(other.count_wrong_output(Place::Out, &untouched), 0);
        assert_eq!(other.count_wrong_output(Place::Out, &[0; 12]), 12);
        let mut buffer = [0; 12];
        other.fill_in_place(&mut buffer);
        assert_eq!(other.count_wrong_output(Place::In, &buffer), 0);
        buffer[11] ^= 1;
        assert_eq!(other.count_wrong_output(Place::In, &buffer), 1);
    }

    #[test]
    fn an_input_that_was_written_to_shows() {
        let given = given(Operation::AllReduce(ReduceOp::Sum), 0);
        let mut input = vec![0; 12];
        given.fill_input(&mut input);
        assert_eq!(given.count_wrong_input(&input), 0);
        input[3] ^= 1;
        assert_eq!(given.count_wrong_input(&input), 1);
    }
}
