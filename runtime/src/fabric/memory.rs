//! Memory that a provider reads and writes behind the compiler's back.
//!
//! What cards are told of and is large can be [on large pages](Memory::on_large_pages): a card keeps an entry for each page of a
//! region and has so many of them, and the kernel pins page by page. Pages of 2 MiB are asked for by `madvise` instead of
//! being taken from those that are set aside (`vm.nr_hugepages`): the EFA provider takes these for itself, and nobody need
//! set any aside for us. Where the kernel has none to give, ordinary ones take their place, and nothing else differs.
//!
//! # Safety
//!
//! The memory is allocated or mapped in [`Memory::new`] or [`Memory::on_large_pages`] and given back once, on drop, the way it
//! came. It is only ever reached through raw pointers, except for the slices that [`Memory::bytes`] hands out under its
//! contract.
#![expect(unsafe_code, reason = "raw memory; the module's Safety paragraph says why it is sound")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::{self, NonNull};

/// Zeroed memory, aligned to 16 bytes. A large piece takes up room only where it was touched.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    len_bytes: usize,
    origin: Origin,
}

/// Where memory came from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Heap(Layout),
    /// A mapping of its own, of so many bytes.
    Mapping(usize),
}

// SAFETY: memory has no thread; whoever makes slices of it answers for their use.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates `len_bytes`, one at least.
    ///
    /// # Panics
    ///
    /// When the length is beyond what an allocation can have.
    pub fn new(len_bytes: usize) -> Self {
        let len_bytes = len_bytes.max(1);
        let layout = Layout::from_size_align(len_bytes, ALIGN_BYTES)
            .expect("slot memory is smaller than half the address space");
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Memory { base, len_bytes, origin: Origin::Heap(layout) }
    }

    /// As [`Memory::new`], on pages of 2 MiB where there are any and so much is wanted; then it takes up room in whole ones of
    /// these.
    ///
    /// # Panics
    ///
    /// As [`Memory::new`].
    pub fn on_large_pages(len_bytes: usize) -> Self {
        let mapped = mapped_bytes(len_bytes).and_then(|bytes| Some((map_large(bytes)?, bytes)));
        match mapped {
            Some((base, bytes)) => Memory { base, len_bytes, origin: Origin::Mapping(bytes) },
            None => Memory::new(len_bytes),
        }
    }

    /// All of it.
    pub fn whole(&self) -> *mut [u8] {
        ptr::slice_from_raw_parts_mut(self.base.as_ptr(), self.len_bytes)
    }

    /// A piece of it.
    ///
    /// # Panics
    ///
    /// When the range is not inside.
    pub fn piece(&self, range: Range<usize>) -> *mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len_bytes, "a piece inside the memory");
        // SAFETY: the offset is inside the memory, as was just checked.
        let start = unsafe { self.base.as_ptr().add(range.start) };
        ptr::slice_from_raw_parts_mut(start, range.end - range.start)
    }

    /// A piece of it, to be read.
    ///
    /// # Safety
    ///
    /// Nobody writes to the piece while the slice lives: no operation that may write there is posted.
    ///
    /// # Panics
    ///
    /// When the range is not inside.
    pub unsafe fn bytes(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: inside the memory and initialised (zeroed); unchanged by the caller's promise.
        unsafe { &*self.piece(range) }
    }

    /// Copies bytes into it.
    ///
    /// # Safety
    ///
    /// No slice of the piece lives, and no operation that was posted reads or writes it.
    ///
    /// # Panics
    ///
    /// When the bytes would reach beyond the end.
    pub unsafe fn write(&self, start: usize, bytes: &[u8]) {
        let piece = self.piece(start..start + bytes.len());
        // SAFETY: inside the memory; `bytes` is no part of it, since no slice of the piece lives.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), piece.cast(), bytes.len()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.origin {
            Origin::Heap(layout) => {
                // SAFETY: allocated in `new` with this layout, freed only here.
                unsafe { dealloc(self.base.as_ptr(), layout) }
            }
            Origin::Mapping(bytes) => {
                // SAFETY: mapped in `on_large_pages`, all of it, unmapped only here.
                unsafe { libc::munmap(self.base.as_ptr().cast(), bytes) };
            }
        }
    }
}

/// How much is mapped for so many bytes where large pages are worth it: whole ones of these, and a rest that is not nearly one
/// on ordinary ones.
fn mapped_bytes(len_bytes: usize) -> Option<usize> {
    let is_nearly_one = len_bytes % LARGE_BYTES > LARGE_BYTES - LARGE_BYTES / 8;
    let unit = if is_nearly_one { LARGE_BYTES } else { PAGES_BYTES };
    len_bytes.checked_next_multiple_of(unit).filter(|bytes| *bytes >= LARGE_BYTES && !cfg!(miri))
}

/// Maps zeros, aligned to large pages, and asks for these. None where the kernel does not map so much.
fn map_large(bytes: usize) -> Option<NonNull<u8>> {
    let reserved = bytes.checked_add(LARGE_BYTES)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, wherever the kernel likes.
    let start = unsafe { libc::mmap(ptr::null_mut(), reserved, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    let start = start.cast::<u8>();
    let before = start.align_offset(LARGE_BYTES);
    let after = reserved - before - bytes;
    // SAFETY: what is unmapped is the mapping's beginning and end, which nobody knows of, in whole pages; what is between is
    // advised on. Where the kernel does not take the advice, nothing differs but the pages.
    unsafe {
        let base = start.add(before);
        if before > 0 {
            libc::munmap(start.cast(), before);
        }
        if after > 0 {
            libc::munmap(base.add(bytes).cast(), after);
        }
        libc::madvise(base.cast(), bytes, libc::MADV_HUGEPAGE);
        NonNull::new(base)
    }
}

/// What `malloc` gives by itself: with more, zeroed memory would be written, and so taken, at once.
const ALIGN_BYTES: usize = 16;
/// A large page on the machines that have EFA cards.
const LARGE_BYTES: usize = 2 << 20;
/// A multiple of what ordinary pages have on any of them.
const PAGES_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pages_are_for_what_fills_them() {
        const MIB: usize = 1 << 20;
        for (len, mapped) in [
            (0, None),
            (1 << 20, None),
            (7 * MIB / 4, None),
            (2 * MIB - 4000, Some(2 * MIB)),
            (2 * MIB, Some(2 * MIB)),
            (2 * MIB + 1, Some(2 * MIB + PAGES_BYTES)),
            (4 * MIB - 1, Some(4 * MIB)),
            (usize::MAX, None),
        ] {
            assert_eq!(mapped_bytes(len), mapped, "{len}");
        }
    }

    #[test]
    fn large_memory_is_zeroed_aligned_and_ends_where_it_should() {
        for len in [1, 3000, LARGE_BYTES - 1, LARGE_BYTES, 2 * LARGE_BYTES + 5] {
            let memory = Memory::on_large_pages(len);
            let whole = memory.whole();
            assert_eq!(whole.len(), len);
            assert!(len < LARGE_BYTES - 1 || whole.cast::<u8>().addr().is_multiple_of(LARGE_BYTES));
            // SAFETY: nobody else knows of the memory.
            let bytes = unsafe { &mut *whole };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(7);
        }
        // What is not touched is not taken.
        assert_eq!(Memory::on_large_pages(1 << 30).whole().len(), 1 << 30);
    }

    #[test]
    fn large_memory_is_on_large_pages_where_the_kernel_gives_any() {
        let setting = "/sys/kernel/mm/transparent_hugepage/enabled";
        let setting = std::fs::read_to_string(setting).unwrap_or_default();
        if !setting.contains("[always]") && !setting.contains("[madvise]") {
            println!("SKIPPED: this kernel gives no large pages for the asking: `{}`", setting.trim());
            return;
        }
        let memory = Memory::on_large_pages(8 * LARGE_BYTES);
        // SAFETY: nobody else knows of the memory.
        unsafe { (*memory.whole()).fill(1) };
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", memory.whole().cast::<u8>().addr());
        // The kernel may have put it into one mapping with a neighbour of its kind.
        let own = maps.split("\nVmFlags").find(|map| map.lines().any(|line| line.starts_with(&start)));
        let all = own.unwrap_or(&maps);
        let large = all.lines().filter_map(|line| line.strip_prefix("AnonHugePages:"));
        let large_kb: u64 =
            large.filter_map(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok()).sum();
        assert!(large_kb >= 2048, "{large_kb} kB on large pages of {all}");
    }
}
