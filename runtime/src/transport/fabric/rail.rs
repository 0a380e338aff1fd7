//! A rail: one card, with an endpoint of ours on it and all that the endpoint needs.
//!
//! Rail i of a rank talks to rail i of the others. Nothing protects a completion queue from overflowing, so a rail counts
//! how many operations its pairs may have in flight, and takes no pair for which its queue has no room
//! ([`Rail::reserve`]).
#![expect(unsafe_code, reason = "passes on a promise about memory")]

use std::ops::Range;
use std::ptr;
use std::sync::Arc;

use super::address::RailAddress;
use super::registrations::Registrations;
use crate::fabric::{
    Access, AddressVector, Completion, CompletionQueue, Domain, Endpoint, EventQueue, FORBID_CUDA_CALLS,
    Fabric, FabricAddress, FabricError, Failure, Info, MemoryRegion,
};
use crate::transport::TransportError;

/// An open endpoint on a card.
#[derive(Debug)]
pub(super) struct Rail {
    // First, so that it also closes first when a rail is dropped by a panic.
    pub(super) endpoint: Endpoint,
    /// Regions of what callers send on it.
    pub(super) payloads: Registrations,
    /// The card's name, or what is closest to one.
    pub(super) nic: String,
    av: Arc<AddressVector>,
    cq: Arc<CompletionQueue>,
    eq: Arc<EventQueue>,
    capacity: usize,
    reserved: usize,
}

impl Rail {
    /// Opens an endpoint as the info says, in a world of this size, whose pairs have up to `per_peer` operations in
    /// flight on it, of pieces of so many bytes at most.
    pub(super) fn open(
        info: &Info,
        world_size: usize,
        per_peer: usize,
        piece_bytes: usize,
    ) -> Result<Self, FabricError> {
        let nic = info.nic().map_or_else(|| info.domain_name().to_owned(), |nic| nic.name);
        let opened = Rail::open_on(info, nic.clone(), world_size, per_peer, piece_bytes);
        opened.map_err(|error| if info.is_efa() { refused_by(&nic, error) } else { error })
    }

    fn open_on(
        info: &Info,
        nic: String,
        world_size: usize,
        per_peer: usize,
        piece_bytes: usize,
    ) -> Result<Self, FabricError> {
        let fabric = Fabric::open(info)?;
        let domain = Domain::open(&fabric)?;
        let av = AddressVector::open(&domain, world_size)?;
        let capacity = (world_size * per_peer).next_power_of_two().clamp(LEAST_CAPACITY, MOST_CAPACITY);
        let cq = CompletionQueue::open(&domain, capacity)?;
        let eq = EventQueue::open(&fabric)?;
        let endpoint = Endpoint::open(&domain, &av, &cq, &eq)?;
        let payloads = Registrations::new(piece_bytes);
        Ok(Rail { endpoint, payloads, nic, av, cq, eq, capacity, reserved: 0 })
    }

    /// Its own address.
    pub(super) fn address(&self) -> Result<RailAddress, FabricError> {
        self.endpoint.address().map(|raw| RailAddress { nic: self.nic.clone(), raw })
    }

    /// Registers memory of ours with its card.
    ///
    /// # Safety
    ///
    /// The memory stays mapped until the region is dropped.
    pub(super) unsafe fn register(
        &self,
        memory: *const [u8],
        access: Access,
    ) -> Result<MemoryRegion, FabricError> {
        // SAFETY: the caller's promise.
        unsafe { MemoryRegion::register(&self.endpoint, memory, access) }
    }

    /// A region of a caller's memory, for an operation that shares it while it is in flight; none where all that the card
    /// takes are in use.
    ///
    /// # Safety
    ///
    /// The memory stays mapped until the region is not shared any more and [`Registrations::begin`] was called.
    pub(super) unsafe fn cover(
        &mut self,
        memory: *const [u8],
        access: Access,
    ) -> Result<Option<Arc<MemoryRegion>>, FabricError> {
        let start = memory.cast::<u8>().expose_provenance();
        let piece = start..start + memory.len();
        // One region serves what is sent and what lands.
        let is_both = access == Access::WriteFrom && self.payloads.stays(&piece);
        let access = if is_both { Access::BothWays } else { access };
        // SAFETY: the caller's promise, or of memory that is kept that of the registrations, which hold it longer than its
        // regions.
        self.payloads.cover(piece, |range| unsafe { register(&self.endpoint, range, access) })
    }

    /// A region of memory that stays, for a peer to write to; none of other memory, and where the card has no room for it.
    pub(super) fn landing(&mut self, memory: *const [u8]) -> Option<Arc<MemoryRegion>> {
        let start = memory.cast::<u8>().expose_provenance();
        // SAFETY: it is memory that is kept, by the registrations longer than its regions.
        self.payloads.cover_landing(start..start + memory.len(), |range| unsafe {
            register(&self.endpoint, range, Access::BothWays)
        })
    }

    /// How many operations its queue has room for.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// An error of its queues, with its card.
    pub(super) fn broken(&self, error: FabricError) -> TransportError {
        match error {
            FabricError::Call { call, code, text } => {
                TransportError::Call { call, code, cause: format!("{text}, on {}", self.nic) }
            }
            error => error.into(),
        }
    }

    /// Learns a peer's address.
    pub(super) fn insert(&self, address: &[u8]) -> Result<FabricAddress, FabricError> {
        self.av.insert(address)
    }

    /// Makes sure that so many more operations in flight at once do not overflow the queue.
    pub(super) fn reserve(&mut self, operations: usize) -> Result<(), TransportError> {
        let reserved = self.reserved + operations;
        if reserved > self.capacity {
            return Err(TransportError::Call {
                call: "fi_cq_open",
                code: libc::ENOSPC,
                cause: format!(
                    "the completion queue of {} has {} entries, and this rank's peers need {reserved}: choose algorithms \
                     in which a rank has fewer peers (EFARUN_ALGORITHM=ring)",
                    self.nic, self.capacity
                ),
            });
        }
        self.reserved = reserved;
        Ok(())
    }

    /// Makes progress and takes what is over.
    pub(super) fn read(
        &self,
        completions: &mut Vec<Completion>,
        failures: &mut Vec<Failure>,
    ) -> Result<(), FabricError> {
        self.cq.read(completions, failures)?;
        self.eq.check()
    }

    /// The queue that can be slept on, or that naps.
    pub(super) fn cq(&self) -> &CompletionQueue {
        &self.cq
    }

    /// Closes the endpoint and all that it needed, but for the regions, which close when they are dropped. Where it does not
    /// close, those stay that operations in flight use.
    pub(super) fn close(self) -> Result<Registrations, FabricError> {
        match self.endpoint.close() {
            Ok(()) => Ok(self.payloads),
            Err(error) => {
                let mut payloads = self.payloads;
                payloads.give_up_unused();
                std::mem::forget(payloads);
                Err(error)
            }
        }
    }
}

/// A region of memory at these addresses, which were exposed.
///
/// # Safety
///
/// The memory stays mapped until the region is dropped.
unsafe fn register(
    endpoint: &Endpoint,
    range: Range<usize>,
    access: Access,
) -> Result<MemoryRegion, FabricError> {
    let start = ptr::with_exposed_provenance::<u8>(range.start);
    // SAFETY: the caller's promise.
    unsafe { MemoryRegion::register(endpoint, ptr::slice_from_raw_parts(start, range.len()), access) }
}

/// What a card refused, with the card, and why that may be.
fn refused_by(nic: &str, error: FabricError) -> FabricError {
    match error {
        FabricError::Call { call: call @ FORBID_CUDA_CALLS, code, text } => {
            let text = format!(
                "{text}, on {nic}: the provider moves GPU memory by copies through the host only: the GPU's driver must give \
                 dma-bufs, or the kernel have the module efa_nv_peermem; /sys/class/infiniband/{nic}/device/p2p names what it has"
            );
            FabricError::Call { call, code, text }
        }
        FabricError::Call { call, code, text } => {
            let text = format!(
                "{text}, on {nic}: what a card can make of these is limited, and shared by all processes of the host, and so \
                 is memory that may be locked: start fewer ranks per card, and see that `ulimit -l` is unlimited for what \
                 efarun starts"
            );
            FabricError::Call { call, code, text }
        }
        error => error,
    }
}

/// What a queue has at least,
const LEAST_CAPACITY: usize = 1 << 8;
/// and at most: what libfabric's EFA provider gives by itself is 12,288, and larger queues are the device's to refuse.
const MOST_CAPACITY: usize = 1 << 15;
