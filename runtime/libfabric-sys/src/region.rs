//! Memory registration.

use std::ffi::{c_int, c_uint, c_void};

use crate::Zeroed;
use crate::endpoint::iovec;
use crate::object::fid_mr;

/// What `fi_mr_regattr` reads, at its largest known size: a library reads the fields of its own version, whatever
/// API version was asked for.
#[repr(C)]
pub struct fi_mr_attr {
    pub memory: fi_mr_memory,
    pub iov_count: usize,
    pub access: u64,
    pub offset: u64,
    pub requested_key: u64,
    pub context: *mut c_void,
    pub auth_key_size: usize,
    pub auth_key: *mut u8,
    pub iface: c_uint,
    pub device: fi_mr_device,
    /// Since 1.19.
    pub hmem_data: *mut c_void,
    /// Since 1.22.
    pub page_size: usize,
    /// Since 2.0.
    pub base_mr: *const fid_mr,
    /// Since 2.0.
    pub sub_mr_cnt: usize,
}

/// Unnamed in C. `dmabuf` since 1.20, together with the flag `FI_MR_DMABUF`.
#[repr(C)]
pub union fi_mr_memory {
    pub mr_iov: *const iovec,
    pub dmabuf: *const fi_mr_dmabuf,
}

/// Unnamed in C.
#[repr(C)]
pub union fi_mr_device {
    pub reserved: u64,
    pub cuda: c_int,
}

/// Since 1.20.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fi_mr_dmabuf {
    pub fd: c_int,
    pub offset: u64,
    pub len: usize,
    pub base_addr: *mut c_void,
}

#[expect(unsafe_code, reason = "a promise about the structs above")]
mod zero {
    use super::{Zeroed, fi_mr_attr, fi_mr_dmabuf};

    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_mr_attr {}
    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_mr_dmabuf {}
}
