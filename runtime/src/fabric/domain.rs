//! One interface or device of a fabric.
//!
//! # Safety
//!
//! The object is open from `fi_domain` until this type drops it, which is after its children, since they hold it.
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph says why it is sound")]

use std::ptr::{self, NonNull};
use std::sync::Arc;

use libfabric_sys as sys;

use super::error::FabricError;
use super::fabric::{Fabric, log_close, no_object};
use super::info::Info;

/// A domain.
#[derive(Debug)]
pub struct Domain {
    raw: NonNull<sys::fid_domain>,
    fabric: Arc<Fabric>,
}

// SAFETY: domains are opened with FI_THREAD_SAFE.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    /// Opens the domain of the fabric's info.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_domain`.
    pub fn open(fabric: &Arc<Fabric>) -> Result<Arc<Self>, FabricError> {
        let info = fabric.info();
        let mut raw = ptr::null_mut();
        // SAFETY: fabric and info are alive, and the info is of this fabric.
        let code =
            unsafe { sys::call::fi_domain(fabric.as_ptr(), info.as_ptr(), &raw mut raw, ptr::null_mut()) };
        info.library().check("fi_domain", code)?;
        let raw = NonNull::new(raw).ok_or_else(|| no_object(info, "fi_domain"))?;
        Ok(Arc::new(Domain { raw, fabric: fabric.clone() }))
    }

    /// The fabric that it is on.
    pub fn fabric(&self) -> &Arc<Fabric> {
        &self.fabric
    }

    /// What it was opened from.
    pub fn info(&self) -> &Info {
        self.fabric.info()
    }

    pub(super) fn as_ptr(&self) -> *mut sys::fid_domain {
        self.raw.as_ptr()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed only here, and all children are gone.
        let code = unsafe { sys::call::fi_close(self.raw.as_ptr().cast()) };
        log_close(self.info(), "domain", code);
    }
}
