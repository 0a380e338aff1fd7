//! The network that a provider's domains are on.
//!
//! # Safety
//!
//! The object is open from `fi_fabric` until this type drops it, which is after its children, since they hold it.
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph says why it is sound")]

use std::ptr::{self, NonNull};
use std::sync::Arc;

use libfabric_sys as sys;

use super::error::FabricError;
use super::info::Info;
use crate::warning;

/// A fabric.
#[derive(Debug)]
pub struct Fabric {
    raw: NonNull<sys::fid_fabric>,
    info: Info,
}

// SAFETY: fabrics may be used from any thread (FI_THREAD_SAFE).
unsafe impl Send for Fabric {}
// SAFETY: as above.
unsafe impl Sync for Fabric {}

impl Fabric {
    /// Opens the fabric that `info` is on.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_fabric`.
    pub fn open(info: &Info) -> Result<Arc<Self>, FabricError> {
        let mut raw = ptr::null_mut();
        // SAFETY: the attributes belong to `info` and are alive; the library only reads them.
        let code = unsafe {
            let attr = (*info.as_ptr()).fabric_attr;
            (info.library().fi_fabric)(attr, &raw mut raw, ptr::null_mut())
        };
        info.library().check("fi_fabric", code)?;
        let raw = NonNull::new(raw).ok_or_else(|| no_object(info, "fi_fabric"))?;
        Ok(Arc::new(Fabric { raw, info: info.clone() }))
    }

    /// What it was opened from.
    pub fn info(&self) -> &Info {
        &self.info
    }

    pub(super) fn as_ptr(&self) -> *mut sys::fid_fabric {
        self.raw.as_ptr()
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed only here, and all children are gone.
        let code = unsafe { sys::call::fi_close(self.raw.as_ptr().cast()) };
        log_close(&self.info, "fabric", code);
    }
}

/// For a provider that says yes and gives nothing.
pub(super) fn no_object(info: &Info, call: &'static str) -> FabricError {
    info.library().error(call, -(sys::FI_EOTHER as isize))
}

/// An object that does not close is left open: nothing can be done about it, and it is no reason to end the program.
pub(super) fn log_close(info: &Info, object: &str, code: i32) {
    if code != 0 {
        let text = format_args!(
            "closing the {object} of {}: {}: it is left open",
            info.provider(),
            info.library().text(-code)
        );
        warning::tell(&format!("fabric: {object} not closed"), text);
    }
}
