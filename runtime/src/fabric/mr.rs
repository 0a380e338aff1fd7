//! Memory that the provider was told of.
//!
//! # Safety
//!
//! The object is open from `fi_mr_reg` until this type drops it. That the memory outlives it is the promise of whoever
//! calls [`MemoryRegion::register`].
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph says why it is sound")]

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use libfabric_sys as sys;

use super::domain::Domain;
use super::endpoint::Endpoint;
use super::error::FabricError;
use super::fabric::{log_close, no_object};

/// Who may do what with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This process sends from it and receives into it.
    Messages,
    /// This process writes from it to others' memory.
    WriteFrom,
    /// Others write into it.
    WrittenTo,
}

impl Access {
    fn flags(self) -> u64 {
        match self {
            Access::Messages => sys::FI_SEND | sys::FI_RECV,
            Access::WriteFrom => sys::FI_WRITE | sys::FI_SEND,
            Access::WrittenTo => sys::FI_REMOTE_WRITE | sys::FI_RECV,
        }
    }
}

/// A registered piece of memory.
#[derive(Debug)]
pub struct MemoryRegion {
    raw: NonNull<sys::fid_mr>,
    domain: Arc<Domain>,
}

// SAFETY: objects of a domain are opened with FI_THREAD_SAFE.
unsafe impl Send for MemoryRegion {}
// SAFETY: as above.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Registers memory for operations of `endpoint`.
    ///
    /// # Safety
    ///
    /// The memory stays mapped until the region is dropped.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_mr_regattr`, `fi_mr_bind` or `fi_mr_enable`.
    pub unsafe fn register(
        endpoint: &Endpoint,
        memory: *const [u8],
        access: Access,
    ) -> Result<Self, FabricError> {
        let domain = endpoint.domain();
        let part = sys::iovec { iov_base: memory.cast_mut().cast(), iov_len: memory.len() };
        let attr = sys::fi_mr_attr {
            memory: sys::fi_mr_memory { mr_iov: &raw const part },
            iov_count: 1,
            access: access.flags(),
            ..sys::zeroed()
        };
        let library = domain.info().library();
        let mut raw = ptr::null_mut();
        // SAFETY: the domain is open, the attributes are of full size and read before the call returns; the memory
        // is the caller's promise.
        let code = unsafe { sys::call::fi_mr_regattr(domain.as_ptr(), &raw const attr, 0, &raw mut raw) };
        library.check("fi_mr_regattr", code)?;
        let raw = NonNull::new(raw).ok_or_else(|| no_object(domain.info(), "fi_mr_regattr"))?;
        let region = MemoryRegion { raw, domain: domain.clone() };
        if domain.info().wants_bound_regions() {
            // SAFETY: region and endpoint are open.
            unsafe {
                library
                    .check("fi_mr_bind", sys::call::fi_mr_bind(raw.as_ptr(), endpoint.as_ptr().cast(), 0))?;
                library.check("fi_mr_enable", sys::call::fi_mr_enable(raw.as_ptr()))?;
            }
        }
        Ok(region)
    }

    /// What others name the region by.
    pub fn key(&self) -> u64 {
        // SAFETY: the region is open.
        unsafe { sys::call::fi_mr_key(self.raw.as_ptr()) }
    }

    /// What operations name the region by.
    pub(super) fn descriptor(&self) -> *mut c_void {
        // SAFETY: the region is open.
        unsafe { sys::call::fi_mr_desc(self.raw.as_ptr()) }
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: opened by `register`, closed only here.
        let code = unsafe { sys::call::fi_close(self.raw.as_ptr().cast()) };
        log_close(self.domain.info(), "memory region", code);
    }
}
