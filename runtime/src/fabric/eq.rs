//! Events that belong to no operation.
//!
//! The EFA provider ends the process when an endpoint fails without an event queue to say so in.
//!
//! # Safety
//!
//! The object is open from `fi_eq_open` until this type drops it, which is after the endpoints bound to it, since
//! they hold it.
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph says why it is sound")]

use std::ptr::{self, NonNull};
use std::sync::Arc;

use libfabric_sys as sys;

use super::error::FabricError;
use super::fabric::{Fabric, log_close, no_object};

/// An event queue.
#[derive(Debug)]
pub struct EventQueue {
    raw: NonNull<sys::fid_eq>,
    fabric: Arc<Fabric>,
}

// SAFETY: event queues may be used from any thread (FI_THREAD_SAFE).
unsafe impl Send for EventQueue {}
// SAFETY: as above.
unsafe impl Sync for EventQueue {}

impl EventQueue {
    /// Opens an event queue that is read, never waited for.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_eq_open`.
    pub fn open(fabric: &Arc<Fabric>) -> Result<Arc<Self>, FabricError> {
        let mut attr = sys::fi_eq_attr { wait_obj: sys::FI_WAIT_NONE, ..sys::zeroed() };
        let mut raw = ptr::null_mut();
        // SAFETY: the fabric is open; the attributes are of full size and only read.
        let code =
            unsafe { sys::call::fi_eq_open(fabric.as_ptr(), &raw mut attr, &raw mut raw, ptr::null_mut()) };
        fabric.info().library().check("fi_eq_open", code)?;
        let raw = NonNull::new(raw).ok_or_else(|| no_object(fabric.info(), "fi_eq_open"))?;
        Ok(Arc::new(EventQueue { raw, fabric: fabric.clone() }))
    }

    /// Reads what is there. Events without an error need no answer on the endpoints that efarun uses.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] with the error that an event carries: the endpoint is broken.
    pub fn check(&self) -> Result<(), FabricError> {
        let library = self.fabric.info().library();
        let mut event = 0;
        let mut buffer = [0_u64; 32];
        // SAFETY: the queue is open; the library writes at most as many bytes as it was told.
        let read = unsafe {
            sys::call::fi_eq_read(
                self.raw.as_ptr(),
                &raw mut event,
                buffer.as_mut_ptr().cast(),
                size_of_val(&buffer),
                0,
            )
        };
        if read != -(sys::FI_EAVAIL as isize) {
            return Ok(());
        }
        let mut entry = sys::zeroed::<sys::fi_eq_err_entry>();
        // SAFETY: the queue is open, the entry of full size.
        let read = unsafe { sys::call::fi_eq_readerr(self.raw.as_ptr(), &raw mut entry, 0) };
        if read < 0 {
            Err(library.error("fi_eq_readerr", read))
        } else {
            Err(library.error("an event", -(entry.err as isize)))
        }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::fid_eq {
        self.raw.as_ptr()
    }
}

impl Drop for EventQueue {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed only here, and no endpoint is bound any more.
        let code = unsafe { sys::call::fi_close(self.raw.as_ptr().cast()) };
        log_close(self.fabric.info(), "event queue", code);
    }
}
