//! Memory that the ranks of a node reach of each other: offered as bytes, opened by everybody.
//!
//! A rank offers an allocation by an IPC handle, and by its address for ranks that are threads of the same process, which
//! cannot import what they have exported. Of memory that was offered this process keeps a list, so that such a rank holds it
//! as long as it may be written to.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::cuda::{Allocation, CudaError, Device, DeviceMemory, DevicePointer, ImportedMemory, IpcHandle};

use super::layout::RANKS_MAX;

/// What a rank tells the others of its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pid: u32,
    ordinal: u32,
    pointer: u64,
    bytes: u64,
    handle: IpcHandle,
    pci_bus_id: String,
}

/// Why memory cannot be shared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SharingError {
    /// CUDA said no.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// Two ranks chose one GPU.
    #[error(
        "ranks {rank} and {other} of the node both use the GPU at {pci_bus_id}: every rank needs one of its own"
    )]
    SameDevice {
        /// One, by its number on the node.
        rank: usize,
        /// The other.
        other: usize,
        /// The GPU.
        pci_bus_id: String,
    },
    /// An offer is no offer, or not like the others.
    #[error("rank {rank} of the node offers memory that cannot be used: {reason}")]
    Offer {
        /// Its number on the node.
        rank: usize,
        /// What is wrong.
        reason: String,
    },
}

impl Offer {
    /// Offers an allocation.
    pub(crate) fn of<T: bytemuck::Pod>(memory: &DeviceMemory<T>) -> Result<Offer, CudaError> {
        let device = memory.device();
        remember(memory.allocation());
        Ok(Offer {
            pid: std::process::id(),
            ordinal: device.ordinal(),
            pointer: memory.pointer().0,
            bytes: memory.allocation().bytes() as u64,
            handle: IpcHandle::of(memory)?,
            pci_bus_id: device.pci_bus_id()?,
        })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.pid.to_le_bytes());
        bytes.extend_from_slice(&self.ordinal.to_le_bytes());
        bytes.extend_from_slice(&self.pointer.to_le_bytes());
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.handle.0);
        bytes.extend_from_slice(self.pci_bus_id.as_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Offer> {
        let (pid, rest) = bytes.split_first_chunk()?;
        let (ordinal, rest) = rest.split_first_chunk()?;
        let (pointer, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (handle, rest) = rest.split_first_chunk::<{ IpcHandle::BYTES }>()?;
        Some(Offer {
            pid: u32::from_le_bytes(*pid),
            ordinal: u32::from_le_bytes(*ordinal),
            pointer: u64::from_le_bytes(*pointer),
            bytes: u64::from_le_bytes(*len),
            handle: IpcHandle(*handle),
            pci_bus_id: std::str::from_utf8(rest).ok()?.to_owned(),
        })
    }
}

/// One allocation of every rank, opened.
#[derive(Debug)]
pub(crate) struct Shared {
    pointers: [DevicePointer; RANKS_MAX],
    own: Arc<Allocation>,
    _imported: Vec<ImportedMemory>,
    /// Memory of ranks of this process, which is used at its own address.
    neighbours: Vec<Arc<Allocation>>,
    device: Device,
}

impl Shared {
    /// Opens what the ranks of the node offered, in order of rank; the one at `rank` is `own`, of this rank.
    pub(crate) fn open<T: bytemuck::Pod>(
        own: &DeviceMemory<T>,
        rank: usize,
        offers: &[Vec<u8>],
    ) -> Result<Shared, SharingError> {
        let offers = read(offers)?;
        let device = own.device();
        let mut shared = Shared {
            pointers: [DevicePointer(0); RANKS_MAX],
            own: own.allocation().clone(),
            _imported: Vec::new(),
            neighbours: Vec::new(),
            device: device.clone(),
        };
        for (peer, offer) in offers.iter().enumerate() {
            shared.pointers[peer] = if peer == rank {
                own.pointer()
            } else if offer.pid == std::process::id() {
                device.enable_access_to(&Device::open(offer.ordinal)?)?;
                let pointer = DevicePointer(offer.pointer);
                let reason = || "it was freed before it was used".to_owned();
                let neighbour = remembered(pointer, offer.ordinal)
                    .ok_or_else(|| SharingError::Offer { rank: peer, reason: reason() })?;
                shared.neighbours.push(neighbour);
                pointer
            } else {
                let imported = ImportedMemory::open(device, offer.handle)?;
                let pointer = imported.pointer();
                shared._imported.push(imported);
                pointer
            };
        }
        Ok(shared)
    }

    /// Where each rank's allocation begins, as this rank reaches it.
    pub(crate) fn pointers(&self) -> [DevicePointer; RANKS_MAX] {
        self.pointers
    }

    /// How far into this rank's own allocation so many bytes at an address lie, if they do.
    pub(crate) fn offset_of(&self, pointer: DevicePointer, bytes: usize) -> Option<usize> {
        let offset = usize::try_from(pointer.0.checked_sub(self.own.pointer().0)?).ok()?;
        (offset.checked_add(bytes)? <= self.own.bytes()).then_some(offset)
    }

    /// Gives up without freeing: another rank of this process may still write to it.
    pub(crate) fn leak(self) {
        if !self.neighbours.is_empty() {
            std::mem::forget(self);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What this rank enqueued may still tell a neighbour something, which may be the last to hold its memory.
        if !self.neighbours.is_empty() {
            let _done = self.device.synchronize();
        }
    }
}

/// What this process has offered and not freed.
static OFFERED: Mutex<Vec<Weak<Allocation>>> = Mutex::new(Vec::new());

fn remember(allocation: &Arc<Allocation>) {
    let mut offered = OFFERED.lock().unwrap_or_else(PoisonError::into_inner);
    offered.retain(|other| other.strong_count() > 0);
    offered.push(Arc::downgrade(allocation));
}

fn remembered(pointer: DevicePointer, ordinal: u32) -> Option<Arc<Allocation>> {
    let offered = OFFERED.lock().unwrap_or_else(PoisonError::into_inner);
    let found = offered.iter().filter_map(Weak::upgrade);
    found.into_iter().find(|it| it.pointer() == pointer && it.device().ordinal() == ordinal)
}

/// What the ranks of a node offered, if it can be read and goes together.
pub(super) fn read(offers: &[Vec<u8>]) -> Result<Vec<Offer>, SharingError> {
    let parse = |(rank, bytes): (usize, &Vec<u8>)| {
        let reason = || "it cannot be read".to_owned();
        Offer::from_bytes(bytes).ok_or_else(|| SharingError::Offer { rank, reason: reason() })
    };
    let offers = offers.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    check(&offers)?;
    Ok(offers)
}

/// Whether ranks' offers go together.
fn check(offers: &[Offer]) -> Result<(), SharingError> {
    for (rank, offer) in offers.iter().enumerate() {
        let first = &offers[0];
        if offer.bytes != first.bytes {
            let reason = format!("it has {} bytes, and that of rank 0 has {}", offer.bytes, first.bytes);
            return Err(SharingError::Offer { rank, reason });
        }
        if let Some(other) = offers[..rank].iter().position(|other| other.pci_bus_id == offer.pci_bus_id) {
            let pci_bus_id = offer.pci_bus_id.clone();
            return Err(SharingError::SameDevice { rank: other, other: rank, pci_bus_id });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(pci_bus_id: &str, bytes: u64) -> Offer {
        let handle = IpcHandle([7; IpcHandle::BYTES]);
        Offer { pid: 1, ordinal: 2, pointer: 3, bytes, handle, pci_bus_id: pci_bus_id.to_owned() }
    }

    #[test]
    fn an_offer_survives_its_bytes() {
        let offer = offer("0000:1b:00.0", 4096);
        assert_eq!(Offer::from_bytes(&offer.to_bytes()), Some(offer));
        assert_eq!(Offer::from_bytes(&[1, 2, 3]), None);
    }

    #[test]
    fn ranks_on_one_gpu_and_memory_of_different_lengths_are_named() {
        assert_eq!(check(&[offer("a", 1), offer("b", 1)]), Ok(()));
        let same = check(&[offer("a", 1), offer("b", 1), offer("a", 1)]).unwrap_err();
        assert_eq!(
            same.to_string(),
            "ranks 0 and 2 of the node both use the GPU at a: every rank needs one of its own"
        );
        let lengths = check(&[offer("a", 1), offer("b", 2)]).unwrap_err().to_string();
        assert_eq!(
            lengths,
            "rank 1 of the node offers memory that cannot be used: it has 2 bytes, and that of rank 0 has 1"
        );
    }
}
