//! Memory of a name that nobody can guess, mapped by the ranks of one node.
//!
//! A sealed memfd. The ranks that did not make it open it through `/proc/<pid>/fd/<fd>`, which the kernel allows to
//! processes of one user in one PID namespace, and to threads of the maker itself. What it begins with says what it is, and
//! by a random token that it is the one that was offered.
//!
//! # Safety
//! The mapping lives as long as the [`Mapping`], is remapped by [`Mapping::detach`] only, to memory of the same length, and
//! cannot shrink: the seal was seen before it was mapped. Ranges are checked against its length.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt::Display;
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
use nix::sys::mman::{MRemapFlags, MapFlags, ProtFlags, mmap, mmap_anonymous, mremap, munmap};

use crate::transport::TransportError;

/// Shared memory, mapped. Its first page is taken by what says what it is.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
    file: File,
    token: [u8; TOKEN_BYTES],
}

// SAFETY: `base` is a mapping that any thread may access; who accesses it goes through atomics or is ordered by them.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes shared memory that is empty and not yet known to anybody, and is `kind`; `what` says it to people. Memory is
    /// taken for its first page alone.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when the system has no memory or descriptor for it.
    pub(super) fn create(len_bytes: usize, kind: Kind, what: &dyn Display) -> Result<Self, TransportError> {
        let mut token = [0; TOKEN_BYTES];
        getrandom::fill(&mut token).map_err(|error| {
            failed("getrandom", Errno::EIO, format_args!("a token for shared memory: {error}"))
        })?;
        let fd = memfd_create(c"efarun-arena", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(|errno| failed("memfd_create", errno, "shared memory for this node's ranks"))?;
        let file = File::from(fd);
        file.set_len(len_bytes as u64).map_err(|error| failed("ftruncate", errno_of(&error), what))?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))
            .map_err(|errno| failed("fcntl(F_ADD_SEALS)", errno, what))?;
        let mapping = Mapping::map(file, len_bytes, token, what)?;
        mapping.reserve(0, PAGE_BYTES)?;
        for (index, word) in mapping.identity(kind).into_iter().enumerate() {
            mapping.word64(8 * index).store(word, Ordering::Relaxed);
        }
        Ok(mapping)
    }

    /// Opens what another rank of this node offered.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when it cannot be opened, or is not what was offered.
    pub(super) fn open(
        offer: &Offer,
        len_bytes: usize,
        kind: Kind,
        what: &dyn Display,
    ) -> Result<Self, TransportError> {
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
        if !metadata.is_file() || metadata.size() != len_bytes as u64 {
            return Err(refuse("is not an arena of the expected size"));
        }
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
        if !seals.is_ok_and(|seals| seals.contains(SEALS)) {
            return Err(refuse("is not sealed"));
        }
        let mapping = Mapping::map(file, len_bytes, offer.token, what)?;
        let found = std::array::from_fn(|index| mapping.word64(8 * index).load(Ordering::Relaxed));
        if found != mapping.identity(kind) {
            return Err(refuse("is another arena than the one that was offered"));
        }
        Ok(mapping)
    }

    /// What another rank needs to open it. Good for as long as it lives.
    pub(super) fn offer(&self) -> Offer {
        Offer { pid: std::process::id(), fd: self.file.as_raw_fd(), token: self.token }
    }

    /// Takes memory for a range, so that touching it later cannot fail.
    pub(super) fn reserve(&self, offset: usize, len_bytes: usize) -> Result<(), TransportError> {
        self.allocate(FallocateFlags::empty(), offset, len_bytes)
            .map_err(|errno| failed("fallocate", errno, format_args!("{len_bytes} bytes of shared memory")))
    }

    /// Gives the memory of a range back to the system. It holds zeros then, for whoever still looks.
    pub(super) fn give_back(&self, offset: usize, len_bytes: usize) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if len_bytes > 0
            && let Err(errno) = self.allocate(flags, offset, len_bytes)
        {
            log::debug!("{len_bytes} bytes of shared memory stay taken: {}", errno.desc());
        }
    }

    fn allocate(&self, flags: FallocateFlags, offset: usize, len_bytes: usize) -> Result<(), Errno> {
        let as_offset =
            |bytes| libc::off_t::try_from(bytes).expect("an arena is smaller than half the address space");
        loop {
            match fallocate(&self.file, flags, as_offset(offset), as_offset(len_bytes)) {
                Err(Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    /// Puts memory that nobody shares, with the same content, in the place of whole pages of this mapping: what others write
    /// there later is not seen any more.
    ///
    /// # Safety
    ///
    /// Nobody in this process relies on what is written to the range meanwhile.
    pub(super) unsafe fn detach(&self, offset: usize, len_bytes: usize) {
        let Some(len) = NonZeroUsize::new(len_bytes) else { return };
        let place = self.range(offset, len_bytes);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing; it is as long as what is copied to it,
        // which is within this one; and it takes the place of pages of this one, for which it is good in the same way.
        let moved = unsafe {
            mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE).and_then(|copy| {
                std::ptr::copy_nonoverlapping(place.as_ptr(), copy.cast::<u8>().as_ptr(), len_bytes);
                let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
                mremap(copy, len_bytes, len_bytes, flags, Some(place.cast::<c_void>()))
            })
        };
        if let Err(errno) = moved {
            log::error!("a late rank may still write to a buffer of a call that failed: {}", errno.desc());
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

    /// A range as raw memory.
    ///
    /// # Panics
    ///
    /// When it is not within the mapping.
    pub(super) fn range(&self, offset: usize, len_bytes: usize) -> NonNull<u8> {
        let fits = offset.checked_add(len_bytes).is_some_and(|end| end <= self.len_bytes);
        assert!(fits, "a range is within what is shared");
        // SAFETY: the offset is within the mapping, which is one allocation.
        unsafe { self.base.add(offset) }
    }

    fn map(
        file: File,
        len_bytes: usize,
        token: [u8; TOKEN_BYTES],
        what: &dyn Display,
    ) -> Result<Self, TransportError> {
        let len = NonZeroUsize::new(len_bytes).expect("there is a first page at least");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let base = unsafe { mmap(None, len, protection, flags, &file, 0) }
            .map_err(|errno| failed("mmap", errno, what))?;
        Ok(Mapping { base: base.cast(), len_bytes, file, token })
    }

    fn identity(&self, kind: Kind) -> [u64; 5] {
        let (low, high) = self.token.split_at(TOKEN_BYTES / 2);
        let token = [low, high].map(|half| u64::from_le_bytes(half.try_into().expect("half of 16 bytes")));
        [MAGIC, kind.0[0], kind.0[1], token[0], token[1]]
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`, unmapped once; whoever borrowed from it also borrowed `self`. The call
        // cannot fail for a mapping that exists.
        let _ = unsafe { munmap(self.base.cast::<c_void>(), self.len_bytes) };
    }
}

/// What is shared, in two numbers that all ranks must have alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(pub(super) [u64; 2]);

/// How to open shared memory, as it travels to the node's other ranks.
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
pub(super) const PAGE_BYTES: usize = 4096;
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);
