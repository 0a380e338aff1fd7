//! The memory of this process, as its devices reach it.
//!
//! # Safety
//!
//! Hardware reads and writes registered memory while the program runs, and so does this: the program has promised, by
//! registering it, that the memory stays mapped until it is deregistered, and by posting, that it keeps its hands off
//! until the completion. Bounds were checked against the region before.
#![allow(unsafe_code)]

use crate::nic::{Memory, Region};

/// This process's memory.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory;

impl Memory for ProcessMemory {
    fn read(&self, _region: &Region, memory: u64, into: &mut [u8]) {
        // SAFETY: inside a registered region, see the module; `into` is the device's own memory, or that of a link.
        unsafe { std::ptr::copy_nonoverlapping(memory as *const u8, into.as_mut_ptr(), into.len()) }
    }

    fn write(&self, _region: &Region, memory: u64, bytes: &[u8]) {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory as *mut u8, bytes.len()) }
    }
}
