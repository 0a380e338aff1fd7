//! The page on which this process shows which operation it has come to ([`efarun_wire::position`]), for whoever asks while
//! a rank does not answer by itself.
//!
//! It costs an operation a few stores. Every World of the process has an entry of its own.
//!
//! # Safety
//! The mapping is as long as [`Memory`], lives as long as the [`Page`], is never remapped, and cannot shrink: the seal is set
//! before it is mapped. All of its words that are reached by reference are atomics.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use efarun_wire::position::{
    ENTRIES, ENTRIES_OFFSET, ENTRY_BYTES, PAGE_BYTES, PageOffer, Position, TOKEN_BYTES,
};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::transport::shm::Calling;

/// A process's page, mapped.
#[derive(Debug)]
pub(super) struct Page {
    memory: NonNull<Memory>,
    file: File,
    token: [u8; TOKEN_BYTES],
}

// SAFETY: a mapping that any thread may access, by atomics only.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Makes a page that no World is on yet.
    pub(super) fn new() -> io::Result<Self> {
        let mut token = [0; TOKEN_BYTES];
        getrandom::fill(&mut token).map_err(io::Error::other)?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"efarun-position", flags)?);
        file.set_len(PAGE_BYTES as u64)?;
        file.write_all_at(&token, 0)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let len = NonZeroUsize::new(PAGE_BYTES).expect("a page has bytes");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let memory = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Page { memory: memory.cast(), file, token })
    }

    /// What the agent needs to read it. Good for as long as the page lives.
    pub(super) fn offer(&self) -> PageOffer {
        PageOffer { pid: std::process::id(), fd: self.file.as_raw_fd().unsigned_abs(), token: self.token }
    }

    /// Shows that a World begins an operation: one more than its number.
    pub(super) fn begin(&self, world: u32, begun: u64, signature: u64) {
        let entry = self.entry(world);
        entry.calling.enter(begun, signature);
        entry.world.store(u64::from(world) + 1, Ordering::Release);
    }

    /// What the page says of a World.
    pub(super) fn position(&self, world: u32) -> Option<Position> {
        let entry = self.entry(world);
        let (begun, signature) = entry.calling.now()?;
        let is_there = entry.world.load(Ordering::Acquire) == u64::from(world) + 1;
        is_there.then_some(Position { begun, signature })
    }

    fn entry(&self, world: u32) -> &Entry {
        // SAFETY: within the mapping, which the borrow keeps, and aligned, as mappings begin at pages; all fields are atomics.
        unsafe { &self.memory.as_ref().entries[world as usize % ENTRIES] }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`, unmapped once; whoever borrowed from it also borrowed `self`. The call cannot
        // fail for a mapping that exists.
        let _ = unsafe { munmap(self.memory.cast::<c_void>(), PAGE_BYTES) };
    }
}

#[repr(C)]
struct Memory {
    token: [u8; ENTRIES_OFFSET],
    entries: [Entry; ENTRIES],
}

#[repr(C, align(128))]
struct Entry {
    world: AtomicU64,
    calling: Calling,
}

const _: () = assert!(size_of::<Memory>() <= PAGE_BYTES && size_of::<Entry>() == ENTRY_BYTES);
const _: () = assert!(std::mem::offset_of!(Memory, entries) == ENTRIES_OFFSET);

#[cfg(test)]
mod tests {
    use efarun_wire::position::position;

    use super::*;

    /// As an agent reads it.
    fn read(page: &Page, world: u32) -> Option<Position> {
        let mut bytes = [0; PAGE_BYTES];
        let offer = page.offer();
        File::open(format!("/proc/{}/fd/{}", offer.pid, offer.fd))
            .unwrap()
            .read_exact_at(&mut bytes, 0)
            .unwrap();
        position(&bytes, &offer, world)
    }

    #[test]
    fn an_agent_reads_what_the_rank_has_written() {
        let page = Page::new().unwrap();
        assert_eq!((read(&page, 0), page.position(0)), (None, None));
        for begun in 1..4 {
            page.begin(0, begun, 100 + begun);
            page.begin(3, 7, 8);
            let expected = Some(Position { begun, signature: 100 + begun });
            assert_eq!((read(&page, 0), page.position(0)), (expected, expected));
            assert_eq!(read(&page, 3), Some(Position { begun: 7, signature: 8 }));
        }
        // A later World in the place of one that is over.
        page.begin(ENTRIES as u32, 1, 2);
        assert_eq!((read(&page, 0), page.position(0)), (None, None));
    }
}
