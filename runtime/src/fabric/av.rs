//! Peers' addresses, and the short form that operations name them by.
//!
//! # Safety
//!
//! The object is open from `fi_av_open` until this type drops it, which is after the endpoints bound to it, since
//! they hold it.
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph says why it is sound")]

use std::ptr::{self, NonNull};
use std::sync::Arc;

use libfabric_sys as sys;

use super::domain::Domain;
use super::error::FabricError;
use super::fabric::{log_close, no_object};

/// An address vector.
#[derive(Debug)]
pub struct AddressVector {
    raw: NonNull<sys::fid_av>,
    domain: Arc<Domain>,
}

// SAFETY: objects of a domain are opened with FI_THREAD_SAFE.
unsafe impl Send for AddressVector {}
// SAFETY: as above.
unsafe impl Sync for AddressVector {}

/// A peer, as an address vector knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FabricAddress(pub(super) sys::fi_addr_t);

impl AddressVector {
    /// Opens an address vector for about `count` addresses.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_av_open`.
    pub fn open(domain: &Arc<Domain>, count: usize) -> Result<Arc<Self>, FabricError> {
        let mut attr = sys::fi_av_attr { type_: sys::FI_AV_TABLE, count, ..sys::zeroed() };
        let mut raw = ptr::null_mut();
        // SAFETY: the domain is open; the attributes are of full size and only read.
        let code =
            unsafe { sys::call::fi_av_open(domain.as_ptr(), &raw mut attr, &raw mut raw, ptr::null_mut()) };
        domain.info().library().check("fi_av_open", code)?;
        let raw = NonNull::new(raw).ok_or_else(|| no_object(domain.info(), "fi_av_open"))?;
        Ok(Arc::new(AddressVector { raw, domain: domain.clone() }))
    }

    /// Adds the address that a peer's [`super::Endpoint::address`] gave.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_av_insert`, also for bytes that are no address of this provider.
    pub fn insert(&self, address: &[u8]) -> Result<FabricAddress, FabricError> {
        // Providers read as many bytes as their addresses have, whatever they were given.
        let mut padded = [0_u8; LONGEST_ADDRESS];
        let library = self.domain.info().library();
        let invalid = || library.error("fi_av_insert", -(sys::FI_EINVAL as isize));
        padded.get_mut(..address.len()).ok_or_else(invalid)?.copy_from_slice(address);
        let mut inserted = sys::FI_ADDR_UNSPEC;
        // SAFETY: the vector is open; one address is read, from a buffer that is larger than any; one handle is
        // written.
        let count = unsafe {
            sys::call::fi_av_insert(
                self.raw.as_ptr(),
                padded.as_ptr().cast(),
                1,
                &raw mut inserted,
                0,
                ptr::null_mut(),
            )
        };
        library.check("fi_av_insert", count)?;
        if count == 1 { Ok(FabricAddress(inserted)) } else { Err(invalid()) }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::fid_av {
        self.raw.as_ptr()
    }
}

impl Drop for AddressVector {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed only here, and no endpoint is bound any more.
        let code = unsafe { sys::call::fi_close(self.raw.as_ptr().cast()) };
        log_close(self.domain.info(), "address vector", code);
    }
}

const LONGEST_ADDRESS: usize = 256;
