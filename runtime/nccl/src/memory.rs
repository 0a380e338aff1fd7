//! Memory, and what communicators know of it.
//!
//! # Safety
//!
//! As in `init`; that a window's memory stays until it is deregistered is the caller's promise, as with NCCL.
#![allow(unsafe_code)]

use std::collections::{BTreeSet, HashMap};
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use efarun_rt::cuda::{DeviceMemory, DevicePointer};

use crate::abi::{CommHandle, WINDOW_SYMMETRIC, WindowHandle};
use crate::comm::Comm;
use crate::export::export;
use crate::group::{self, Job, Setup};
use crate::init::{current_device, put};
use crate::outcome::Failure;

export! {
    /// Allocates memory of the current device that windows can be made of.
    fn ncclMemAlloc, pncclMemAlloc(pointer: *mut *mut c_void, bytes: usize) {
        if pointer.is_null() {
            return Err(Failure::argument("the place for the pointer is null"));
        }
        // Whole allocations of the driver's, so that no other's memory is shared with this one's.
        let len = bytes.max(1).next_multiple_of(GRANULARITY_BYTES);
        let memory = DeviceMemory::new(&current_device()?, len)?;
        let address = memory.pointer().0 as usize;
        ALLOCATED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert(address, memory);
        // SAFETY: the caller's pointer.
        unsafe { put(pointer, std::ptr::without_provenance_mut(address), "ptr") }
    }

    /// Frees what `ncclMemAlloc` gave, when the device is done with everything that was enqueued.
    fn ncclMemFree, pncclMemFree(pointer: *mut c_void) {
        if pointer.is_null() {
            return Ok(());
        }
        let mut allocated = ALLOCATED.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = allocated.get_or_insert_default().remove(&pointer.addr());
        drop(allocated);
        match memory {
            Some(_) => Ok(()),
            None => Err(Failure::argument(format!("{pointer:?} is not from ncclMemAlloc, or was freed"))),
        }
    }

    /// Remembers a buffer, and nothing more: one rank alone says so, and calls use memory in place only where all ranks
    /// offered theirs together, which is what windows are for.
    fn ncclCommRegister, pncclCommRegister(
        comm: CommHandle, buffer: *mut c_void, _bytes: usize, handle: *mut *mut c_void,
    ) {
        let comm = Comm::of(comm)?;
        if buffer.is_null() || handle.is_null() {
            return Err(Failure::argument("the buffer or the place for the handle is null"));
        }
        let number = comm.registered().add();
        // SAFETY: the caller's pointer.
        unsafe { put(handle, std::ptr::without_provenance_mut(number), "handle") }
    }

    /// Forgets a buffer, by the handle that registering it gave.
    fn ncclCommDeregister, pncclCommDeregister(comm: CommHandle, handle: *mut c_void) {
        Comm::of(comm)?.registered().remove(handle.addr())
    }

    /// Lets large calls use memory where it lies. Every rank calls it, with an allocation of the same length. The window is
    /// null where the ranks' memory cannot be shared.
    fn ncclCommWindowRegister, pncclCommWindowRegister(
        comm: CommHandle, buffer: *mut c_void, _bytes: usize, window: *mut WindowHandle, flags: c_int,
    ) {
        group::submit(register(comm, buffer, window, flags))
    }

    /// Ends a window, when the device is done with everything that was enqueued.
    fn ncclCommWindowDeregister, pncclCommWindowDeregister(comm: CommHandle, window: WindowHandle) {
        let comm = Comm::of(comm)?;
        if let Some(number) = window.addr().checked_sub(1) {
            comm.with_world(|world| {
                world.unregister_memory(number);
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn register(
    comm: CommHandle,
    buffer: *mut c_void,
    window: *mut WindowHandle,
    flags: c_int,
) -> Result<Job, Failure> {
    let comm = Comm::of(comm)?;
    if window.is_null() || buffer.is_null() {
        return Err(Failure::argument("the buffer or the place for the window is null"));
    }
    let (place, address) = (window.expose_provenance(), DevicePointer(buffer.addr() as u64));
    let order = comm.number;
    let act = Box::new(move |_| {
        comm.check()?;
        let window: *mut WindowHandle = std::ptr::with_exposed_provenance_mut(place);
        // Any other window is one that is not used in place.
        let number = if flags & WINDOW_SYMMETRIC == 0 {
            None
        } else {
            // SAFETY: the caller keeps the memory until it ends the window.
            let memory = unsafe { DeviceMemory::<u8>::borrow_raw(&comm.device, address) };
            comm.with_world(|world| match memory.map(|memory| world.register_memory(&memory)) {
                Ok(Ok(number)) => Ok(Some(number)),
                Ok(Err(error)) => {
                    let text = format_args!("a window of rank {} is not used in place: {error}", comm.rank);
                    efarun_rt::warning::tell("nccl: window", text);
                    Ok(None)
                }
                Err(error) => Err(error.into()),
            })?
        };
        let handle =
            number.map_or(std::ptr::null_mut(), |number| std::ptr::without_provenance_mut(number + 1));
        // SAFETY: the caller's place for a window, which it keeps until the group has ended.
        unsafe { window.write(handle) };
        Ok(())
    });
    Ok(Job::Setup(Setup { order, act }))
}

/// The handles of a communicator's registered buffers.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    last: usize,
    handles: BTreeSet<usize>,
}

impl Registered {
    /// A handle that is no other's, nor null.
    fn add(&mut self) -> usize {
        self.last += 1;
        self.handles.insert(self.last);
        self.last
    }

    fn remove(&mut self, handle: usize) -> Result<(), Failure> {
        if self.handles.remove(&handle) {
            return Ok(());
        }
        let reason = if (1..=self.last).contains(&handle) {
            "was deregistered before"
        } else {
            "is none of this communicator's"
        };
        Err(Failure::usage(format!("the handle {handle} of a registered buffer {reason}")))
    }
}

/// What `ncclMemAlloc` gave, by address.
static ALLOCATED: Mutex<Option<HashMap<usize, DeviceMemory<u8>>>> = Mutex::new(None);
/// What the driver maps at a time.
const GRANULARITY_BYTES: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_given_once_and_taken_once() {
        let mut registered = Registered::default();
        let handles = [registered.add(), registered.add(), registered.add()];
        assert_eq!(handles.iter().collect::<BTreeSet<_>>().len(), 3);
        assert!(!handles.contains(&0), "null is no handle");
        registered.remove(handles[1]).expect("it was given");
        let again = registered.remove(handles[1]).expect_err("it was taken");
        assert!(again.reason.contains("deregistered before"), "{}", again.reason);
        assert_ne!(registered.add(), handles[1], "who holds an old one means the old one");
        let unknown = registered.remove(77).expect_err("it was never given");
        assert!(unknown.reason.contains("none of this communicator's"), "{}", unknown.reason);
        registered.remove(handles[0]).expect("it was given");
    }
}
