//! The memory that the ranks of one node share.
//!
//! A sealed memfd: a page that says what it is, a bell, a `closed` word and a cord per rank, then a board per rank and a ring
//! per ordered pair. The ranks
//! that did not make it open it through `/proc/<pid>/fd/<fd>`, which the kernel allows to processes of one user in
//! one PID namespace, and to threads of the maker itself. A random token in the first page proves that it is the
//! one that was offered.
//!
//! # Safety
//! The mapping lives as long as the [`Arena`], is never remapped, and cannot shrink: the seal was seen before it was
//! mapped. Offsets come from [`Geometry`], which is checked once, and stay below its length. Everything but payloads
//! is accessed as atomics.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::bell::Bell;
use super::board::board_bytes;
use crate::transport::TransportError;

/// A node's shared memory, mapped.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    geometry: Geometry,
    file: File,
    token: [u8; TOKEN_BYTES],
}

// SAFETY: `base` is a mapping that any thread may access; every access goes through atomics or is ordered by them
// (the rules of the module above).
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Makes an arena that is empty and not yet known to anybody.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when the system has no memory or descriptor for it.
    pub fn create(geometry: Geometry) -> Result<Self, TransportError> {
        let mut token = [0; TOKEN_BYTES];
        getrandom::fill(&mut token).map_err(|error| {
            failed("getrandom", Errno::EIO, format_args!("a token for the arena: {error}"))
        })?;
        let fd = memfd_create(c"efarun-arena", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(|errno| failed("memfd_create", errno, "shared memory for this node's ranks"))?;
        let file = File::from(fd);
        file.set_len(geometry.arena_bytes() as u64)
            .map_err(|error| failed("ftruncate", errno_of(&error), geometry))?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))
            .map_err(|errno| failed("fcntl(F_ADD_SEALS)", errno, geometry))?;
        let arena = Arena::map(file, geometry, token)?;
        arena.reserve(0, geometry.boards_offset())?;
        for (index, word) in arena.identity().into_iter().enumerate() {
            arena.word64(8 * index).store(word, Ordering::Relaxed);
        }
        Ok(arena)
    }

    /// Opens the arena that another rank of this node offered.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when it cannot be opened, or is not what was offered.
    pub fn open(offer: &Offer, geometry: Geometry) -> Result<Self, TransportError> {
        let path = offer.path();
        let file = File::options()
            .read(true)
            .write(true)
            // What is behind the path is not known yet: opening must neither wait nor adopt a terminal.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&path)
            .map_err(|error| failed("open", errno_of(&error), path.display()))?;
        let metadata = file.metadata().map_err(|error| failed("fstat", errno_of(&error), path.display()))?;
        let refuse = |what: &str| failed("open", Errno::EINVAL, format_args!("{} {what}", path.display()));
        if !metadata.is_file() || metadata.size() != geometry.arena_bytes() as u64 {
            return Err(refuse("is not an arena of the expected size"));
        }
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
        if !seals.is_ok_and(|seals| seals.contains(SEALS)) {
            return Err(refuse("is not sealed"));
        }
        let arena = Arena::map(file, geometry, offer.token)?;
        let found = std::array::from_fn(|index| arena.word64(8 * index).load(Ordering::Relaxed));
        if found != arena.identity() {
            return Err(refuse("is another arena than the one that was offered"));
        }
        Ok(arena)
    }

    /// What another rank needs to open this arena. Good for as long as the arena lives.
    pub fn offer(&self) -> Offer {
        Offer { pid: std::process::id(), fd: self.file.as_raw_fd(), token: self.token }
    }

    /// How it is laid out.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The bell of a local rank.
    pub(super) fn bell(&self, local_rank: usize) -> Bell<'_> {
        Bell::new(self.word32(self.geometry.bell_offset(local_rank)))
    }

    /// Whether a local rank has closed.
    pub(super) fn is_closed(&self, local_rank: usize) -> bool {
        self.word32(self.geometry.bell_offset(local_rank) + CLOSED_OFFSET).load(Ordering::Acquire) != 0
    }

    /// Says that a local rank closes. Called by that rank only.
    pub(super) fn mark_closed(&self, local_rank: usize) {
        self.word32(self.geometry.bell_offset(local_rank) + CLOSED_OFFSET).store(1, Ordering::Release);
    }

    /// Where a local rank's cord is: the process and its descriptor. None where it has shown none.
    pub(super) fn cord(&self, local_rank: usize) -> Option<(u32, u32)> {
        let word = self.word64(self.geometry.bell_offset(local_rank) + CORD_OFFSET).load(Ordering::Acquire);
        (word != 0).then_some(((word >> 32) as u32, word as u32))
    }

    /// Shows where a local rank's cord is. Called by that rank only.
    pub(super) fn show_cord(&self, local_rank: usize, pid: u32, fd: u32) {
        let word = u64::from(pid) << 32 | u64::from(fd);
        self.word64(self.geometry.bell_offset(local_rank) + CORD_OFFSET).store(word, Ordering::Release);
    }

    /// Takes memory for a range of the arena, so that touching it later cannot fail.
    pub(super) fn reserve(&self, offset: usize, len_bytes: usize) -> Result<(), TransportError> {
        let as_offset =
            |bytes| libc::off_t::try_from(bytes).expect("an arena is smaller than half the address space");
        loop {
            match fallocate(&self.file, FallocateFlags::empty(), as_offset(offset), as_offset(len_bytes)) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(failed(
                        "fallocate",
                        errno,
                        format_args!("{len_bytes} bytes of shared memory"),
                    ));
                }
            }
        }
    }

    /// The 32-bit word at an offset.
    pub(super) fn word32(&self, offset: usize) -> &AtomicU32 {
        let pointer = self.range(offset, size_of::<u32>()).cast::<u32>();
        assert!(pointer.is_aligned());
        // SAFETY: within the mapping and aligned, both just checked; words are accessed as atomics by everybody; the
        // borrow of `self` keeps the mapping.
        unsafe { AtomicU32::from_ptr(pointer.as_ptr()) }
    }

    /// The 64-bit word at an offset.
    pub(super) fn word64(&self, offset: usize) -> &AtomicU64 {
        let pointer = self.range(offset, size_of::<u64>()).cast::<u64>();
        assert!(pointer.is_aligned());
        // SAFETY: as for `word32`.
        unsafe { AtomicU64::from_ptr(pointer.as_ptr()) }
    }

    /// Copies bytes into the arena.
    ///
    /// # Safety
    ///
    /// The range belongs to the caller: by rule 4 nobody reads it now.
    pub(super) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.range(offset, bytes.len());
        // SAFETY: the target is within the mapping; `bytes` is no part of the arena, for a caller's buffer never
        // is; and nobody else accesses the target, as the caller promises.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.as_ptr(), bytes.len()) };
    }

    /// Shows bytes of the arena.
    ///
    /// # Safety
    ///
    /// The range belongs to the caller while it holds the result: by rule 3 it was published, by rule 4 it is not
    /// overwritten before it is released.
    pub(super) unsafe fn read(&self, offset: usize, len_bytes: usize) -> &[u8] {
        let source = self.range(offset, len_bytes);
        // SAFETY: within the mapping, which the borrow keeps; not written meanwhile by a rank that keeps the rules.
        // One that breaks them runs as the same user, and what it can do to this slice is to change bytes that are
        // only ever reduced or copied.
        unsafe { std::slice::from_raw_parts(source.as_ptr(), len_bytes) }
    }

    /// A range of the arena as raw memory.
    pub(super) fn raw(&self, offset: usize, len_bytes: usize) -> NonNull<u8> {
        self.range(offset, len_bytes)
    }

    fn range(&self, offset: usize, len_bytes: usize) -> NonNull<u8> {
        let fits = offset.checked_add(len_bytes).is_some_and(|end| end <= self.geometry.arena_bytes());
        assert!(fits, "offsets come from the geometry");
        // SAFETY: the offset is within the mapping, which is one allocation.
        unsafe { self.base.add(offset) }
    }

    fn map(file: File, geometry: Geometry, token: [u8; TOKEN_BYTES]) -> Result<Self, TransportError> {
        let len = NonZeroUsize::new(geometry.arena_bytes()).expect("an arena has at least its first page");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let base = unsafe { mmap(None, len, protection, flags, &file, 0) }
            .map_err(|errno| failed("mmap", errno, geometry))?;
        Ok(Arena { base: base.cast(), geometry, file, token })
    }

    fn identity(&self) -> [u64; 5] {
        let Geometry { ranks, slots, slot_bytes } = self.geometry;
        let (low, high) = self.token.split_at(TOKEN_BYTES / 2);
        let token = [low, high].map(|half| u64::from_le_bytes(half.try_into().expect("half of 16 bytes")));
        [MAGIC, u64::from(ranks), u64::from(slots) << 32 | u64::from(slot_bytes), token[0], token[1]]
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`, unmapped once; whoever borrowed from it also borrowed `self`. The call
        // cannot fail for a mapping that exists.
        let _ = unsafe { munmap(self.base.cast::<c_void>(), self.geometry.arena_bytes()) };
    }
}

/// How an arena is laid out; the same on every rank of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Ranks on the node.
    pub ranks: u32,
    /// Slots per ring.
    pub slots: u32,
    /// Payload bytes of a slot.
    pub slot_bytes: u32,
}

impl Geometry {
    /// The layout for so many ranks: rings of 8 slots of 64 KiB.
    pub fn new(ranks: u32) -> Self {
        Geometry { ranks, slots: 8, slot_bytes: 64 << 10 }
    }

    fn arena_bytes(self) -> usize {
        self.rings_offset() + self.ranks as usize * self.ranks as usize * self.ring_bytes()
    }

    fn bell_offset(self, local_rank: usize) -> usize {
        PAGE_BYTES + local_rank * BELL_BYTES
    }

    fn boards_offset(self) -> usize {
        self.bell_offset(self.ranks as usize).next_multiple_of(PAGE_BYTES)
    }

    /// Where a local rank's board begins: at a page.
    pub(super) fn board_offset(self, local_rank: usize) -> usize {
        self.boards_offset() + local_rank * board_bytes(self)
    }

    fn rings_offset(self) -> usize {
        self.board_offset(self.ranks as usize).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of one ring: a page of control words, then the slots' payloads.
    pub(super) fn ring_bytes(self) -> usize {
        debug_assert!((1 + self.slots as usize) * SLOT_HEADER_BYTES <= PAGE_BYTES);
        (PAGE_BYTES + self.slots as usize * self.slot_bytes as usize).next_multiple_of(PAGE_BYTES)
    }

    /// Where the ring from one local rank to another begins.
    pub(super) fn ring_offset(self, from: usize, to: usize) -> usize {
        self.rings_offset() + (from * self.ranks as usize + to) * self.ring_bytes()
    }

    /// Where a slot's header lies within its ring.
    pub(super) fn slot_header_offset(self, slot: usize) -> usize {
        (1 + slot) * SLOT_HEADER_BYTES
    }

    /// Where a slot's payload lies within its ring.
    pub(super) fn payload_offset(self, slot: usize) -> usize {
        PAGE_BYTES + slot * self.slot_bytes as usize
    }
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shared memory for {} ranks, {} bytes, mostly unused", self.ranks, self.arena_bytes())
    }
}

/// How to open an arena, as it travels to the node's other ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pid: u32,
    fd: i32,
    token: [u8; TOKEN_BYTES],
}

impl Offer {
    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.pid.to_le_bytes()[..], &self.fd.to_le_bytes(), &self.token].concat()
    }

    /// From bytes, if they are an offer.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (pid, rest) = bytes.split_first_chunk()?;
        let (fd, rest) = rest.split_first_chunk()?;
        let token = rest.try_into().ok()?;
        Some(Offer { pid: u32::from_le_bytes(*pid), fd: i32::from_le_bytes(*fd), token })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", self.pid, self.fd))
    }
}

fn failed(call: &'static str, errno: Errno, what: impl std::fmt::Display) -> TransportError {
    let cause =
        format!("{what}: {}; EFARUN_LOCAL_TRANSPORT=network does without shared memory", errno.desc());
    TransportError::Call { call, code: errno as i32, cause }
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

const MAGIC: u64 = u64::from_le_bytes(*b"efarun01");
const TOKEN_BYTES: usize = 16;
const PAGE_BYTES: usize = 4096;
/// Two cache lines: neighbouring lines are fetched in pairs.
const BELL_BYTES: usize = 128;
const CLOSED_OFFSET: usize = 4;
const CORD_OFFSET: usize = 8;
const SLOT_HEADER_BYTES: usize = 64;
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);
