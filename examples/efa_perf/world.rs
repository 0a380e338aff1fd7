//! What measuring asks of a world, and that the runtime's World has it.

use efarun_rt::{Error, Rank, ReduceOp, World};

use crate::data::Sample;

/// The collectives, out of place and in place. The runtime's World has them; a test's may do one wrongly on purpose.
pub(crate) trait Collectives {
    /// Why a call failed.
    type Error;

    /// This rank.
    fn rank(&self) -> Rank;

    /// World size.
    fn world_size(&self) -> u32;

    /// Returns when every rank has called it.
    fn barrier(&mut self) -> Result<(), Self::Error>;

    /// Reduces over the input.
    fn all_reduce<T: Sample>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), Self::Error>;

    /// Reduces into a buffer of its own.
    fn all_reduce_into<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Self::Error>;

    /// Gives all the root's buffer.
    fn broadcast<T: Sample>(&mut self, data: &mut [T], root: Rank) -> Result<(), Self::Error>;

    /// As [`Collectives::broadcast`], into a buffer of its own, the root's too.
    fn broadcast_into<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        root: Rank,
    ) -> Result<(), Self::Error>;

    /// Reduces over the root's input.
    fn reduce<T: Sample>(&mut self, data: &mut [T], op: ReduceOp, root: Rank) -> Result<(), Self::Error>;

    /// Reduces into a buffer of the root's.
    fn reduce_into<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        root: Rank,
    ) -> Result<(), Self::Error>;

    /// Gathers chunks into a buffer of its own.
    fn all_gather<T: Sample>(&mut self, input: &[T], output: &mut [T]) -> Result<(), Self::Error>;

    /// Gathers chunks around the rank's own.
    fn all_gather_in_place<T: Sample>(&mut self, data: &mut [T]) -> Result<(), Self::Error>;

    /// Reduces a chunk into a buffer of its own.
    fn reduce_scatter<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Self::Error>;

    /// Reduces a chunk over the rank's part of the input.
    fn reduce_scatter_in_place<T: Sample>(&mut self, data: &mut [T], op: ReduceOp)
    -> Result<(), Self::Error>;
}

impl Collectives for World {
    type Error = Error;

    fn rank(&self) -> Rank {
        World::rank(self)
    }

    fn world_size(&self) -> u32 {
        World::world_size(self)
    }

    fn barrier(&mut self) -> Result<(), Error> {
        World::barrier(self)
    }

    fn all_reduce<T: Sample>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), Error> {
        World::all_reduce(self, data, op)
    }

    fn all_reduce_into<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        World::all_reduce_into(self, input, output, op)
    }

    fn broadcast<T: Sample>(&mut self, data: &mut [T], root: Rank) -> Result<(), Error> {
        World::broadcast(self, data, root)
    }

    fn broadcast_into<T: Sample>(&mut self, input: &[T], output: &mut [T], root: Rank) -> Result<(), Error> {
        // The World broadcasts in place; the root's own copy is part of what a call costs, as in NCCL.
        if World::rank(self) == root {
            output.copy_from_slice(input);
        }
        World::broadcast(self, output, root)
    }

    fn reduce<T: Sample>(&mut self, data: &mut [T], op: ReduceOp, root: Rank) -> Result<(), Error> {
        World::reduce(self, data, op, root)
    }

    fn reduce_into<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        root: Rank,
    ) -> Result<(), Error> {
        World::reduce_into(self, input, output, op, root)
    }

    fn all_gather<T: Sample>(&mut self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        World::all_gather(self, input, output)
    }

    fn all_gather_in_place<T: Sample>(&mut self, data: &mut [T]) -> Result<(), Error> {
        World::all_gather_in_place(self, data)
    }

    fn reduce_scatter<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        World::reduce_scatter(self, input, output, op)
    }

    fn reduce_scatter_in_place<T: Sample>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), Error> {
        World::reduce_scatter_in_place(self, data, op)
    }
}
