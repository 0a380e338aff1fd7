//! Memory that a provider reads and writes behind the compiler's back.
//!
//! # Safety
//!
//! The allocation is made in [`Memory::new`] and freed once, on drop. It is only ever reached through raw pointers,
//! except for the slices that [`Memory::bytes`] hands out under its contract.
#![expect(unsafe_code, reason = "raw memory; the module's Safety paragraph says why it is sound")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::{self, NonNull};

/// Zeroed memory, aligned to 16 bytes. A large piece takes up room only where it was touched.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    layout: Layout,
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
        let layout = Layout::from_size_align(len_bytes.max(1), ALIGN_BYTES)
            .expect("slot memory is smaller than half the address space");
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Memory { base, layout }
    }

    /// All of it.
    pub fn whole(&self) -> *mut [u8] {
        ptr::slice_from_raw_parts_mut(self.base.as_ptr(), self.layout.size())
    }

    /// A piece of it.
    ///
    /// # Panics
    ///
    /// When the range is not inside.
    pub fn piece(&self, range: Range<usize>) -> *mut [u8] {
        assert!(range.start <= range.end && range.end <= self.layout.size(), "a piece inside the memory");
        // SAFETY: the offset is inside the allocation, as was just checked.
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
        // SAFETY: inside the allocation and initialised (zeroed); unchanged by the caller's promise.
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
        // SAFETY: inside the allocation; `bytes` is no part of it, since no slice of the piece lives.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), piece.cast(), bytes.len()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// What `malloc` gives by itself: with more, zeroed memory would be written, and so taken, at once.
const ALIGN_BYTES: usize = 16;
