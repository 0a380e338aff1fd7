//! Buffers of a World: on one node ranks reach them in each other, so that long collectives on them are copied once; between
//! nodes a network card is told of them once.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use super::World;
use super::setup::{Contribution, SHARED_MEMORY, exchange, failed};
use crate::element::Element;
use crate::error::Error;
use crate::transport::TransportError;
use crate::transport::kept::KeptBuffer;
use crate::transport::shm::Offer;
use crate::transport::shm::region::{Part, Region};

/// Elements of a rank, as [`World::alloc`] makes them. It is a slice, and any collective takes it, whole or in part.
///
/// Where others can reach it, long calls go on it directly: all_gather and reduce_scatter where the inputs of all ranks lie in
/// such buffers, broadcast where the root's does, all_reduce and reduce where inputs and outputs do. What else a call has
/// is as before, and so are its results, bit for bit.
///
/// Between nodes, memory that a network card sends from must be registered with it, which takes longer than sending some
/// hundred kilobytes: of such a buffer once, of other memory in every call. And where cards write into others' memory (a p5's), long
/// messages come straight into such a buffer, and are copied out of the transport's own memory into any other.
///
/// Its memory is given back when it is dropped, its addresses when the World is; between nodes both by the next call, or with
/// the World. After a call that failed the pages of the
/// call's output are no longer reached by others; what another thread writes to the same pages in that moment may be lost.
#[derive(Debug)]
pub struct SharedBuffer<T> {
    memory: Memory,
    len: usize,
    element: PhantomData<T>,
}

#[derive(Debug)]
enum Memory {
    /// Of a region of the node.
    Part(Part),
    /// Where others do not reach it: what cards are told of once.
    Own(KeptBuffer),
}

impl<T: Element + bytemuck::Pod> Deref for SharedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let bytes = match &self.memory {
            Memory::Part(part) => part.bytes(),
            Memory::Own(buffer) => buffer.bytes(),
        };
        bytemuck::cast_slice(&bytes[..self.len * size_of::<T>()])
    }
}

impl<T: Element + bytemuck::Pod> DerefMut for SharedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = match &mut self.memory {
            Memory::Part(part) => part.bytes_mut(),
            Memory::Own(buffer) => buffer.bytes_mut(),
        };
        bytemuck::cast_slice_mut(&mut bytes[..self.len * size_of::<T>()])
    }
}

impl World {
    /// Makes a buffer of so many elements, all zero, that the other ranks of the node reach without a copy, where all ranks of
    /// the World are on one node; elsewhere it is what network cards are told of once. Every rank calls it, as an operation of the World; lengths may
    /// differ. Blocks until all have.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] or [`Error::PeerSetup`] where some rank has no memory for it, on all ranks; [`Error::Bootstrap`] when a
    /// rank does not come.
    pub fn alloc<T: Element + bytemuck::Pod>(&mut self, len: usize) -> Result<SharedBuffer<T>, Error> {
        if let Some(first) = &self.broken {
            return Err(Error::Broken { first: first.clone() });
        }
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize / 2);
        let bytes =
            bytes.ok_or_else(|| failed(self.rank, SHARED_MEMORY, &format!("{len} elements are too many")));
        let on_one_node = self.peers.as_mut().filter(|peers| peers.nodes.is_none());
        let leaves = on_one_node.and_then(|peers| peers.leaves.as_mut());
        let (Some(leaves), Some(oob)) = (leaves, &mut self.oob) else {
            let buffer = KeptBuffer::new(bytes?);
            if let Some(peers) = &mut self.peers {
                peers.transport.keep(buffer.kept());
            }
            return Ok(SharedBuffer { memory: Memory::Own(buffer), len, element: PhantomData });
        };
        let (rank, ranks) = (self.rank, self.topology.world_size() as usize);
        let deadline = Instant::now() + self.config.deadline;
        let fail = |cause: TransportError| failed(rank, SHARED_MEMORY, &cause);
        // Every rank says how long its buffer is; all parts are as long as the longest.
        let len_said = said(bytes.as_ref().map(|&bytes| (bytes as u64).to_le_bytes().to_vec()));
        let lens = exchange(oob, "alloc-lengths", len_said, deadline);
        bytes?;
        let len_of =
            |blob: &Vec<u8>| blob.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes) as usize);
        let longest = lens?.iter().map(len_of).max().unwrap_or(0);
        // Rank 0 makes the region, and the others open it.
        let made = (rank.0 == 0).then(|| Region::create(ranks, longest).map_err(fail)).transpose();
        let offer = made.as_ref().map(|made| made.as_ref().map_or_else(Vec::new, |it| it.offer().to_bytes()));
        let offers = exchange(oob, "alloc-offer", said(offer), deadline);
        let (made, offers) = (made?, offers?);
        let opened = match (made, Offer::from_bytes(&offers[0])) {
            (Some(made), _) => Ok(made),
            (None, Some(offer)) => Region::open(&offer, ranks, longest).map_err(fail),
            (None, None) => Err(failed(rank, SHARED_MEMORY, &"rank 0 offered none")),
        };
        let part = opened.and_then(|region| {
            let region = Arc::new(region);
            Part::take(Arc::clone(&region), rank.index()).map(|part| (part, region)).map_err(fail)
        });
        let ready = exchange(oob, "alloc-ready", said(part.as_ref().map(|_| Vec::new())), deadline);
        let (part, region) = part?;
        ready?;
        leaves.add_region(region);
        Ok(SharedBuffer { memory: Memory::Part(part), len, element: PhantomData })
    }
}

/// What this rank gives to an exchange, or why it cannot.
fn said(result: Result<Vec<u8>, &Error>) -> Contribution {
    match result {
        Ok(bytes) => Contribution::Good(bytes),
        Err(error) => Contribution::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Provider;
    use crate::element::ReduceOp;
    use crate::world::tests::on_all;

    #[test]
    fn buffers_are_known_to_the_network_between_nodes_until_they_are_dropped() {
        if let Err(missing) = crate::fabric::Library::open() {
            println!("SKIPPED: {missing}");
            return;
        }
        for (world_size, per_node) in [(2, 1), (4, 2)] {
            let builder = World::builder().provider(Provider::FabricTcp).ranks_per_node(per_node);
            on_all(builder.thread_worlds(world_size).expect("a world"), |mut world| {
                let buffer = world.alloc::<u64>(1000).expect("memory");
                let Memory::Own(own) = &buffer.memory else { panic!("nobody else reaches {buffer:?}") };
                let kept = Arc::downgrade(own.kept());
                assert_eq!(kept.strong_count(), 2, "the buffer's, and the rail's");
                drop(buffer);
                // The other ranks of a node may do without the network.
                if per_node == 1 {
                    world.all_reduce(&mut [1_u64], ReduceOp::Sum).expect("no error");
                    assert_eq!(kept.strong_count(), 0, "the next call gives it back");
                }
                world.close().expect("all close");
            });
        }
    }
}
