//! Queues: what they are opened with and what is read from them.

use std::ffi::{c_int, c_uint, c_void};

use crate::Zeroed;
use crate::constant::fi_addr_t;
use crate::object::fid;

#[repr(C)]
pub struct fi_cq_attr {
    pub size: usize,
    pub flags: u64,
    pub format: c_uint,
    pub wait_obj: c_uint,
    pub signaling_vector: c_int,
    pub wait_cond: c_uint,
    pub wait_set: *mut c_void,
    /// Since a version after 2.6.
    pub xpu_ctx: *mut c_void,
}

#[repr(C)]
pub struct fi_eq_attr {
    pub size: usize,
    pub flags: u64,
    pub wait_obj: c_uint,
    pub signaling_vector: c_int,
    pub wait_set: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fi_cq_data_entry {
    pub op_context: *mut c_void,
    pub flags: u64,
    pub len: usize,
    pub buf: *mut c_void,
    pub data: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fi_cq_tagged_entry {
    pub op_context: *mut c_void,
    pub flags: u64,
    pub len: usize,
    pub buf: *mut c_void,
    pub data: u64,
    pub tag: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fi_cq_err_entry {
    pub op_context: *mut c_void,
    pub flags: u64,
    pub len: usize,
    pub buf: *mut c_void,
    pub data: u64,
    pub tag: u64,
    pub olen: usize,
    pub err: c_int,
    pub prov_errno: c_int,
    /// Null and 0 when given to `fi_cq_readerr`; then points into the CQ until that is read again.
    pub err_data: *mut c_void,
    pub err_data_size: usize,
    /// Since 1.20, written when the fabric was opened with API version 1.20 or later.
    pub src_addr: fi_addr_t,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct fi_eq_err_entry {
    pub fid: *mut fid,
    pub context: *mut c_void,
    pub data: u64,
    pub err: c_int,
    pub prov_errno: c_int,
    pub err_data: *mut c_void,
    pub err_data_size: usize,
}

#[expect(unsafe_code, reason = "a promise about the structs above")]
mod zero {
    use super::{
        Zeroed, fi_cq_attr, fi_cq_data_entry, fi_cq_err_entry, fi_cq_tagged_entry, fi_eq_attr,
        fi_eq_err_entry,
    };

    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_cq_attr {}
    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_eq_attr {}
    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_cq_tagged_entry {}
    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_cq_data_entry {}
    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_cq_err_entry {}
    // SAFETY: pointers and integers only.
    unsafe impl Zeroed for fi_eq_err_entry {}
}
