//! The collectives, as methods of the World.
//!
//! Each checks what can be checked on this rank alone, before any other rank learns of the call, and hands its buffers
//! on. Every rank calls the same operations in the same order, with the same type, counts, reduction and root.
//!
//! p is the number of ranks and S the bytes of the longer of a rank's buffers.

use std::ops::Range;

use efarun_wire::Rank;

use super::{Options, Peers, World};
use crate::coll::buffers::Buffers;
use crate::coll::collective::Collective;
use crate::coll::explain::{ExplainError, Explanation, Query, explain, explain_on};
use crate::element::{Element, ElementType, ReduceOp};
use crate::error::Error;

impl World {
    /// Reduces the ranks' buffers element by element, into each of them. Blocks until this rank has its result.
    ///
    /// The ring takes 2(p-1) steps, in which each rank sends and receives 2(p-1)/p S bytes; the tree takes twice its
    /// depth, log2 p, in which a rank sends S bytes at most once up and once to each child; doubling takes log2 p
    /// steps of S bytes each way. The order of the reduction is fixed by ranks, count and algorithm, so that the same
    /// call gives the same bits again, and on every rank.
    ///
    /// # Errors
    ///
    /// [`Error`] when a rank is lost, calls something else, or does not get on before the deadline. The buffer's
    /// content is then undefined, and the World is broken. [`Error::Algorithm`] breaks nothing, as no other rank has
    /// learned of the call.
    pub fn all_reduce<T: Element>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), Error> {
        self.all_reduce_with(data, op, &Options::default())
    }

    /// As [`World::all_reduce`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce`].
    pub fn all_reduce_with<T: Element>(
        &mut self,
        data: &mut [T],
        op: ReduceOp,
        options: &Options,
    ) -> Result<(), Error> {
        let count = data.len();
        self.run(Collective::AllReduce, count, Buffers::in_place(data), op, options)
    }

    /// As [`World::all_reduce`], from one buffer into another, which have the same length. The input is left alone.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce`]; [`Error::Lengths`] breaks nothing, as no other rank has learned of the call.
    pub fn all_reduce_into<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.all_reduce_into_with(input, output, op, &Options::default())
    }

    /// As [`World::all_reduce_into`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce_into`].
    pub fn all_reduce_into_with<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        options: &Options,
    ) -> Result<(), Error> {
        equal_lengths(Collective::AllReduce, input.len(), output.len())?;
        let count = input.len();
        self.run(Collective::AllReduce, count, Buffers::out_of_place(input, output), op, options)
    }

    /// Copies the root's buffer into those of all ranks. Blocks until this rank has it, or at the root until the buffer
    /// may be used again; other ranks may then still wait for it.
    ///
    /// Along a chain the last rank has it after p-1 steps and those of the segments, and nobody sends more than S
    /// bytes; by a binary tree after log2 p steps, and a rank sends up to 2 S; by a binomial tree the root sends
    /// log2 p times S.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce`]; [`Error::Root`] breaks nothing, as no other rank has learned of the call.
    pub fn broadcast<T: Element>(&mut self, data: &mut [T], root: Rank) -> Result<(), Error> {
        self.broadcast_with(data, root, &Options::default())
    }

    /// As [`World::broadcast`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::broadcast`].
    pub fn broadcast_with<T: Element>(
        &mut self,
        data: &mut [T],
        root: Rank,
        options: &Options,
    ) -> Result<(), Error> {
        let collective = self.rooted(Collective::Broadcast { root })?;
        let count = data.len();
        let buffers =
            if self.rank() == root { Buffers::input_only(data) } else { Buffers::output_only(data) };
        self.run(collective, count, buffers, NO_OP, options)
    }

    /// Reduces the ranks' buffers element by element, into the root's; the others' are left as they are. Blocks until
    /// this rank's part is done, which at the root is when it has the result.
    ///
    /// Steps and bytes are those of [`World::broadcast`], with receiving in place of sending. The order of the
    /// reduction is fixed by ranks, root, count and algorithm.
    ///
    /// # Errors
    ///
    /// As [`World::broadcast`].
    pub fn reduce<T: Element>(&mut self, data: &mut [T], op: ReduceOp, root: Rank) -> Result<(), Error> {
        self.reduce_with(data, op, root, &Options::default())
    }

    /// As [`World::reduce`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::reduce`].
    pub fn reduce_with<T: Element>(
        &mut self,
        data: &mut [T],
        op: ReduceOp,
        root: Rank,
        options: &Options,
    ) -> Result<(), Error> {
        let collective = self.rooted(Collective::Reduce { root })?;
        let count = data.len();
        let buffers = if self.rank() == root { Buffers::in_place(data) } else { Buffers::input_only(data) };
        self.run(collective, count, buffers, op, options)
    }

    /// As [`World::reduce`], from one buffer into another. The output has the input's length at the root. On other ranks
    /// it is not used, and may be empty.
    ///
    /// # Errors
    ///
    /// As [`World::reduce`]; [`Error::Lengths`] breaks nothing, as no other rank has learned of the call.
    pub fn reduce_into<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        root: Rank,
    ) -> Result<(), Error> {
        self.reduce_into_with(input, output, op, root, &Options::default())
    }

    /// As [`World::reduce_into`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::reduce_into`].
    pub fn reduce_into_with<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        root: Rank,
        options: &Options,
    ) -> Result<(), Error> {
        let collective = self.rooted(Collective::Reduce { root })?;
        let count = input.len();
        let buffers = if self.rank() == root {
            equal_lengths(collective, input.len(), output.len())?;
            Buffers::out_of_place(input, output)
        } else {
            Buffers::input_only(input)
        };
        self.run(collective, count, buffers, op, options)
    }

    /// Collects the ranks' inputs, in order of rank, in every rank's output, which is p times as long. Blocks until this
    /// rank has all.
    ///
    /// The ring takes p-1 steps, Bruck's algorithm log2 p, direct exchange one; by all a rank sends (p-1)/p S bytes.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce_into`].
    pub fn all_gather<T: Element>(&mut self, input: &[T], output: &mut [T]) -> Result<(), Error> {
        self.all_gather_with(input, output, &Options::default())
    }

    /// As [`World::all_gather`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::all_gather`].
    pub fn all_gather_with<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        options: &Options,
    ) -> Result<(), Error> {
        let count = input.len();
        let ranks = self.world_size() as usize;
        if count.checked_mul(ranks) != Some(output.len()) {
            let rule = format!("the output takes {ranks} times the input, once per rank");
            return Err(lengths(Collective::AllGather, count, output.len(), rule));
        }
        self.run(Collective::AllGather, count, Buffers::out_of_place(input, output), NO_OP, options)
    }

    /// As [`World::all_gather`], in one buffer: of p equal blocks this rank's own, block `rank`, is its input, and all are
    /// the output.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce`]; [`Error::Blocks`] breaks nothing, as no other rank has learned of the call.
    pub fn all_gather_in_place<T: Element>(&mut self, data: &mut [T]) -> Result<(), Error> {
        self.all_gather_in_place_with(data, &Options::default())
    }

    /// As [`World::all_gather_in_place`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::all_gather_in_place`].
    pub fn all_gather_in_place_with<T: Element>(
        &mut self,
        data: &mut [T],
        options: &Options,
    ) -> Result<(), Error> {
        let own = self.own_block(Collective::AllGather, data.len())?;
        self.run(Collective::AllGather, own.len(), Buffers::input_within(data, own), NO_OP, options)
    }

    /// Reduces the ranks' inputs element by element, and leaves each rank its own of p equal blocks of the result, block
    /// `rank`. The input is p times as long as the output, and left alone. Blocks until this rank has its block.
    ///
    /// The ring takes p-1 steps, halving log2 p, direct exchange one; by all a rank sends (p-1)/p S bytes. The order of
    /// the reduction is fixed by ranks, count and algorithm.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce_into`].
    pub fn reduce_scatter<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Error> {
        self.reduce_scatter_with(input, output, op, &Options::default())
    }

    /// As [`World::reduce_scatter`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::reduce_scatter`].
    pub fn reduce_scatter_with<T: Element>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        options: &Options,
    ) -> Result<(), Error> {
        let count = output.len();
        let ranks = self.world_size() as usize;
        if count.checked_mul(ranks) != Some(input.len()) {
            let rule = format!("the input has {ranks} times the output, a block per rank");
            return Err(lengths(Collective::ReduceScatter, input.len(), count, rule));
        }
        self.run(Collective::ReduceScatter, count, Buffers::out_of_place(input, output), op, options)
    }

    /// As [`World::reduce_scatter`], in one buffer of p equal blocks: afterwards this rank's own, block `rank`, is its
    /// result. The content of the others is undefined then.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce`]; [`Error::Blocks`] breaks nothing, as no other rank has learned of the call.
    pub fn reduce_scatter_in_place<T: Element>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), Error> {
        self.reduce_scatter_in_place_with(data, op, &Options::default())
    }

    /// As [`World::reduce_scatter_in_place`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::reduce_scatter_in_place`].
    pub fn reduce_scatter_in_place_with<T: Element>(
        &mut self,
        data: &mut [T],
        op: ReduceOp,
        options: &Options,
    ) -> Result<(), Error> {
        let own = self.own_block(Collective::ReduceScatter, data.len())?;
        self.run(Collective::ReduceScatter, own.len(), Buffers::output_within(data, own), op, options)
    }

    /// Returns once every rank has called it.
    ///
    /// It takes log2 p steps, in each of which a rank sends an empty message: on the path that data takes, so that it
    /// also says that the ranks can be reached by it.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce`].
    pub fn barrier(&mut self) -> Result<(), Error> {
        self.barrier_with(&Options::default())
    }

    /// As [`World::barrier`], with options.
    ///
    /// # Errors
    ///
    /// As [`World::barrier`].
    pub fn barrier_with(&mut self, options: &Options) -> Result<(), Error> {
        self.run(Collective::Barrier, 0, Buffers::none(), NO_OP, options)
    }

    /// Says how a call would be done, and what it costs on a model of this World's slowest transport. Sends nothing.
    /// `count` is the collective's: the vector's elements, or those of one rank's block.
    ///
    /// # Errors
    ///
    /// [`ExplainError::NoSuchAlgorithm`] when the options name an algorithm that the collective does not have.
    ///
    /// # Panics
    ///
    /// When the collective's root is not in this World.
    pub fn explain(
        &self,
        collective: Collective,
        element: ElementType,
        count: usize,
        options: &Options,
    ) -> Result<Explanation, ExplainError> {
        let query = Query {
            collective,
            element,
            count,
            world_size: self.world_size(),
            choice: self.choice(collective, options),
            messages: self.messages(),
            leaves: self.peers.as_ref().is_some_and(|peers| peers.leaves.is_some() && peers.nodes.is_none()),
            model: self.model(),
        };
        match &self.peers {
            Some(Peers { nodes: Some(nodes), between, .. }) => explain_on(&query, nodes, between.messages()),
            _ => explain(&query),
        }
    }

    /// Refuses a root that is no rank.
    pub(super) fn rooted(&self, collective: Collective) -> Result<Collective, Error> {
        match collective.root() {
            Some(root) if root.0 >= self.world_size() => {
                Err(Error::Root { operation: collective.name(), root, world_size: self.world_size() })
            }
            _ => Ok(collective),
        }
    }

    /// This rank's own of equal blocks.
    pub(super) fn own_block(&self, collective: Collective, len: usize) -> Result<Range<usize>, Error> {
        let world_size = self.world_size();
        if !len.is_multiple_of(world_size as usize) {
            return Err(Error::Blocks { operation: collective.name(), len, world_size });
        }
        let block_len = len / world_size as usize;
        let start = self.rank().index() * block_len;
        Ok(start..start + block_len)
    }
}

pub(super) fn equal_lengths(
    collective: Collective,
    input_len: usize,
    output_len: usize,
) -> Result<(), Error> {
    if input_len == output_len {
        return Ok(());
    }
    Err(lengths(collective, input_len, output_len, "they must be equal".to_owned()))
}

pub(super) fn lengths(collective: Collective, input_len: usize, output_len: usize, rule: String) -> Error {
    Error::Lengths { operation: collective.name(), input_len, output_len, rule }
}

/// Stands where nothing is reduced.
pub(super) const NO_OP: ReduceOp = ReduceOp::Sum;
