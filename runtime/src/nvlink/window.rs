//! Memory that the ranks of a node reach of each other: offered as bytes, opened by everybody.
//!
//! A rank offers an allocation by an IPC handle, and by its address for ranks that are threads of the same process, which
//! cannot import what they have exported. Of memory that was offered this process keeps a list, so that such a rank holds it
//! as long as it may be written to. Offers also tell which ranks share a GPU, and what that leaves each of them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::cuda::{Allocation, CudaError, Device, DeviceMemory, DevicePointer, ImportedMemory, IpcHandle};

use super::layout::RANKS_MAX;
use super::room::Room;

/// What a rank tells the others of its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    process: Process,
    ordinal: u32,
    multiprocessors: u32,
    /// How many blocks a launch may have, as far as this rank is concerned.
    blocks_allowed: u32,
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
        "ranks {rank} and {other} of the node both use the GPU at {pci_bus_id}: every rank needs one of its own, \
         unless EFARUN_SHARED_GPUS=1 lets ranks share GPUs, which is for trying a job out"
    )]
    SameDevice {
        /// One, by its number on the node.
        rank: usize,
        /// The other.
        other: usize,
        /// The GPU.
        pci_bus_id: String,
    },
    /// So many ranks chose one GPU that their kernels do not fit on it side by side.
    #[error(
        "{sharing} ranks of the node use the GPU at {pci_bus_id}, and each needs {ranks} multiprocessors, one for every \
         rank of the node, so {} in all, of which there are {multiprocessors}: use fewer ranks or more GPUs",
        sharing * ranks
    )]
    Crowded {
        /// How many chose it.
        sharing: usize,
        /// How many there are.
        ranks: usize,
        /// The GPU.
        pci_bus_id: String,
        /// The smallest GPU's.
        multiprocessors: u32,
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
            process: Process::this(),
            ordinal: device.ordinal(),
            multiprocessors: device.multiprocessors()?,
            blocks_allowed: u32::MAX,
            pointer: memory.pointer().0,
            bytes: memory.allocation().bytes() as u64,
            handle: IpcHandle::of(memory)?,
            pci_bus_id: device.pci_bus_id()?,
        })
    }

    /// The same, by a rank that allows no more blocks.
    pub(crate) fn allowing(self, blocks: u32) -> Offer {
        Offer { blocks_allowed: blocks, ..self }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.process.token.to_le_bytes());
        bytes.extend_from_slice(&self.process.pid.to_le_bytes());
        bytes.extend_from_slice(&self.ordinal.to_le_bytes());
        bytes.extend_from_slice(&self.multiprocessors.to_le_bytes());
        bytes.extend_from_slice(&self.blocks_allowed.to_le_bytes());
        bytes.extend_from_slice(&self.pointer.to_le_bytes());
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.handle.0);
        bytes.extend_from_slice(self.pci_bus_id.as_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Offer> {
        let (token, rest) = bytes.split_first_chunk()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let (ordinal, rest) = rest.split_first_chunk()?;
        let (multiprocessors, rest) = rest.split_first_chunk()?;
        let (blocks_allowed, rest) = rest.split_first_chunk()?;
        let (pointer, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (handle, rest) = rest.split_first_chunk::<{ IpcHandle::BYTES }>()?;
        Some(Offer {
            process: Process { token: u64::from_le_bytes(*token), pid: u32::from_le_bytes(*pid) },
            ordinal: u32::from_le_bytes(*ordinal),
            multiprocessors: u32::from_le_bytes(*multiprocessors),
            blocks_allowed: u32::from_le_bytes(*blocks_allowed),
            pointer: u64::from_le_bytes(*pointer),
            bytes: u64::from_le_bytes(*len),
            handle: IpcHandle(*handle),
            pci_bus_id: std::str::from_utf8(rest).ok()?.to_owned(),
        })
    }
}

/// What tells a process from all others, of other containers too, where the same numbers are given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    /// Drawn once by each process. A fork has its parent's, and another number.
    token: u64,
    pid: u32,
}

impl Process {
    fn this() -> Process {
        static TOKEN: OnceLock<u64> = OnceLock::new();
        let draw = || {
            let mut token = [0; 8];
            // Without it the number alone must do, as it does where all ranks see the same processes.
            if let Err(error) = getrandom::fill(&mut token) {
                log::warn!("this process has no token: {error}");
            }
            u64::from_le_bytes(token)
        };
        Process { token: *TOKEN.get_or_init(draw), pid: std::process::id() }
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
    room: Room,
    threads_per_gpu: u32,
}

impl Shared {
    /// Opens what the ranks of the node offered, in order of rank; the one at `rank` is `own`, of this rank. `may_share` says
    /// whether ranks may share GPUs.
    pub(crate) fn open<T: bytemuck::Pod>(
        own: &DeviceMemory<T>,
        rank: usize,
        offers: &[Vec<u8>],
        may_share: bool,
    ) -> Result<Shared, SharingError> {
        let (offers, room) = read(offers, may_share)?;
        let (device, process) = (own.device(), Process::this());
        let mut shared = Shared {
            pointers: [DevicePointer(0); RANKS_MAX],
            own: own.allocation().clone(),
            _imported: Vec::new(),
            neighbours: Vec::new(),
            device: device.clone(),
            room,
            threads_per_gpu: threads_per_gpu(&offers, process),
        };
        for (peer, offer) in offers.iter().enumerate() {
            shared.pointers[peer] = if peer == rank {
                own.pointer()
            } else if offer.process == process {
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

    /// How many blocks a launch can have.
    pub(crate) fn room(&self) -> Room {
        self.room
    }

    /// How many ranks of this process the one of its GPUs has that has the most.
    pub(crate) fn threads_per_gpu(&self) -> u32 {
        self.threads_per_gpu
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

/// What the ranks of a node offered, if it can be read and goes together, and what room that leaves each of them.
pub(super) fn read(offers: &[Vec<u8>], may_share: bool) -> Result<(Vec<Offer>, Room), SharingError> {
    let parse = |(rank, bytes): (usize, &Vec<u8>)| {
        let reason = || "it cannot be read".to_owned();
        Offer::from_bytes(bytes).ok_or_else(|| SharingError::Offer { rank, reason: reason() })
    };
    let offers = offers.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    let room = check(&offers, may_share)?;
    Ok((offers, room))
}

/// How many ranks of a process one of its GPUs has at most.
fn threads_per_gpu(offers: &[Offer], process: Process) -> u32 {
    let own = || offers.iter().filter(|offer| offer.process == process);
    let on = |ordinal| own().filter(|offer| offer.ordinal == ordinal).count() as u32;
    own().map(|offer| on(offer.ordinal)).max().unwrap_or(0)
}

/// Whether ranks' offers go together.
fn check(offers: &[Offer], may_share: bool) -> Result<Room, SharingError> {
    let (mut fullest, mut multiprocessors, mut allowed) = ((0, 0), u32::MAX, u32::MAX);
    for (rank, offer) in offers.iter().enumerate() {
        let first = &offers[0];
        if offer.bytes != first.bytes {
            let reason = format!("it has {} bytes, and that of rank 0 has {}", offer.bytes, first.bytes);
            return Err(SharingError::Offer { rank, reason });
        }
        let mut before = offers[..rank].iter();
        let other = before.position(|other| other.pci_bus_id == offer.pci_bus_id);
        if let (Some(other), false) = (other, may_share) {
            let pci_bus_id = offer.pci_bus_id.clone();
            return Err(SharingError::SameDevice { rank: other, other: rank, pci_bus_id });
        }
        let sharing = offers.iter().filter(|other| other.pci_bus_id == offer.pci_bus_id).count();
        if sharing > fullest.0 {
            fullest = (sharing, rank);
        }
        multiprocessors = multiprocessors.min(offer.multiprocessors);
        allowed = allowed.min(offer.blocks_allowed);
    }
    let ((sharing, rank), ranks) = (fullest, offers.len());
    let room = Room::of(sharing as u32, multiprocessors);
    if !room.suffices(ranks) {
        let pci_bus_id = offers[rank].pci_bus_id.clone();
        return Err(SharingError::Crowded { sharing, ranks, pci_bus_id, multiprocessors });
    }
    Ok(room.within(allowed, ranks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(pci_bus_id: &str, bytes: u64) -> Offer {
        let handle = IpcHandle([7; IpcHandle::BYTES]);
        let process = Process { token: 5 << 40, pid: 1 };
        let pci_bus_id = pci_bus_id.to_owned();
        let (multiprocessors, blocks_allowed) = (132, u32::MAX);
        Offer { process, ordinal: 2, multiprocessors, blocks_allowed, pointer: 3, bytes, handle, pci_bus_id }
    }

    fn offers(pci_bus_ids: &[&str]) -> Vec<Offer> {
        pci_bus_ids.iter().map(|id| offer(id, 1)).collect()
    }

    #[test]
    fn an_offer_survives_its_bytes() {
        let offer = offer("0000:1b:00.0", 4096);
        assert_eq!(Offer::from_bytes(&offer.to_bytes()), Some(offer));
        assert_eq!(Offer::from_bytes(&[1, 2, 3]), None);
    }

    #[test]
    fn ranks_on_one_gpu_and_memory_of_different_lengths_are_named() {
        assert_eq!(check(&offers(&["a", "b"]), false), Ok(Room::of(1, 132)));
        let same = check(&offers(&["a", "b", "a"]), false).unwrap_err();
        assert_eq!(
            same.to_string(),
            "ranks 0 and 2 of the node both use the GPU at a: every rank needs one of its own, \
             unless EFARUN_SHARED_GPUS=1 lets ranks share GPUs, which is for trying a job out"
        );
        for may_share in [false, true] {
            let lengths = check(&[offer("a", 1), offer("b", 2)], may_share).unwrap_err().to_string();
            assert_eq!(
                lengths,
                "rank 1 of the node offers memory that cannot be used: it has 2 bytes, and that of rank 0 has 1"
            );
        }
    }

    #[test]
    fn ranks_that_may_share_gpus_have_the_room_that_the_fullest_and_smallest_leaves() {
        assert_eq!(check(&offers(&["a", "b"]), true), Ok(Room::of(1, 132)));
        assert_eq!(check(&offers(&["a", "b", "a"]), true), Ok(Room::of(2, 132)));
        assert_eq!(check(&offers(&["b", "a", "a", "b", "a"]), true), Ok(Room::of(3, 132)));
        let mut unequal = offers(&["a", "b", "a"]);
        unequal[1].multiprocessors = 108;
        assert_eq!(check(&unequal, true), Ok(Room::of(2, 108)));
        let mut frugal = offers(&["a", "b", "c"]);
        (frugal[1].blocks_allowed, frugal[2].blocks_allowed) = (24, 32);
        assert_eq!(check(&frugal, true), Ok(Room::of(1, 132).within(24, 3)), "the least of them holds");
        let mut small = offers(&["c", "b", "b", "b", "b", "b", "b", "b"]);
        small[0].multiprocessors = 50;
        assert_eq!(
            check(&small, true).unwrap_err().to_string(),
            "7 ranks of the node use the GPU at b, and each needs 8 multiprocessors, one for every rank of the node, \
             so 56 in all, of which there are 50: use fewer ranks or more GPUs"
        );
    }

    #[test]
    fn processes_of_one_number_are_two() {
        let this = Process::this();
        assert_eq!(this, Process::this());
        let elsewhere = Process { token: this.token ^ 1, ..this };
        let mut four = offers(&["a", "a", "a", "b"]);
        assert_eq!(threads_per_gpu(&four, this), 0);
        for (offer, process) in four.iter_mut().zip([this, elsewhere, this, this]) {
            offer.process = process;
        }
        four[3].ordinal = 3;
        assert_eq!((threads_per_gpu(&four, this), threads_per_gpu(&four, elsewhere)), (2, 1));
        let forked = Process { pid: this.pid + 1, ..this };
        assert_eq!(threads_per_gpu(&four, forked), 0);
    }
}
