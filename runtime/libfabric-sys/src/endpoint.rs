//! What endpoints and address vectors are given.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::Zeroed;
use crate::constant::fi_addr_t;

pub use libc::iovec;

/// What a provider with mode `FI_CONTEXT2` scribbles into while an operation runs; `FI_CONTEXT` needs the first half.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fi_context2 {
    pub internal: [*mut c_void; 8],
}

#[repr(C)]
pub struct fi_msg {
    pub msg_iov: *const iovec,
    pub desc: *mut *mut c_void,
    pub iov_count: usize,
    pub addr: fi_addr_t,
    pub context: *mut c_void,
    pub data: u64,
}

#[repr(C)]
pub struct fi_msg_tagged {
    pub msg_iov: *const iovec,
    pub desc: *mut *mut c_void,
    pub iov_count: usize,
    pub addr: fi_addr_t,
    pub tag: u64,
    pub ignore: u64,
    pub context: *mut c_void,
    pub data: u64,
}

#[repr(C)]
pub struct fi_av_attr {
    pub type_: c_uint,
    pub rx_ctx_bits: c_int,
    pub count: usize,
    pub ep_per_node: usize,
    pub name: *const c_char,
    pub map_addr: *mut c_void,
    pub flags: u64,
}

#[expect(unsafe_code, reason = "a promise about the structs above")]
mod zero {
    use super::{Zeroed, fi_av_attr, fi_context2, fi_msg, fi_msg_tagged};

    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_context2 {}
    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_msg {}
    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_msg_tagged {}
    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_av_attr {}
}
