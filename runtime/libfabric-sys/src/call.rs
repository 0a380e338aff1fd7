//! The calls that C programs get as inline functions: each goes through its object's table.
//!
//! Arguments, results and errors are those of the manual page of the same name. A call whose table or entry the
//! provider left out returns `-FI_ENOSYS`.
//!
//! # Safety
//!
//! For every function: pointers to objects come from the call that opens them and are not closed yet, all other
//! pointers are valid for what the manual page says the call reads and writes, and memory that an operation was given
//! stays valid until its completion was read or its endpoint closed.
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph is every function's contract")]
#![expect(clippy::missing_safety_doc, reason = "the module's Safety paragraph is every function's contract")]
#![expect(clippy::too_many_arguments, reason = "C's signatures")]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use crate::completion::{fi_cq_attr, fi_cq_err_entry, fi_eq_attr, fi_eq_err_entry};
use crate::constant::{FI_ENABLE, FI_ENOSYS, fi_addr_t};
use crate::endpoint::{fi_av_attr, fi_msg, fi_msg_tagged};
use crate::info::fi_info;
use crate::object::{fid, fid_av, fid_cq, fid_domain, fid_ep, fid_eq, fid_fabric, fid_mr};
use crate::region::fi_mr_attr;

/// `object.table.entry(arguments)`, or `-FI_ENOSYS`.
macro_rules! call {
    ($object:expr, $table:ident, $entry:ident, ($($argument:expr),*)) => {{
        // SAFETY: the caller's objects are open, and an open object's tables live as long as it does; an absent
        // table is null. The arguments are the caller's to promise.
        unsafe {
            match (*$object).$table.as_ref().and_then(|table| table.$entry) {
                Some(function) => function($($argument),*),
                None => -FI_ENOSYS as _,
            }
        }
    }};
}

pub unsafe fn fi_close(object: *mut fid) -> c_int {
    call!(object, ops, close, (object))
}

pub unsafe fn fi_control(object: *mut fid, command: c_int, arg: *mut c_void) -> c_int {
    call!(object, ops, control, (object, command, arg))
}

pub unsafe fn fi_open_ops(
    object: *mut fid,
    name: *const c_char,
    flags: u64,
    ops: *mut *mut c_void,
    context: *mut c_void,
) -> c_int {
    call!(object, ops, ops_open, (object, name, flags, ops, context))
}

pub unsafe fn fi_domain(
    fabric: *mut fid_fabric,
    info: *mut fi_info,
    domain: *mut *mut fid_domain,
    context: *mut c_void,
) -> c_int {
    call!(fabric, ops, domain, (fabric, info, domain, context))
}

pub unsafe fn fi_eq_open(
    fabric: *mut fid_fabric,
    attr: *mut fi_eq_attr,
    eq: *mut *mut fid_eq,
    context: *mut c_void,
) -> c_int {
    call!(fabric, ops, eq_open, (fabric, attr, eq, context))
}

pub unsafe fn fi_trywait(fabric: *mut fid_fabric, fids: *mut *mut fid, count: c_int) -> c_int {
    call!(fabric, ops, trywait, (fabric, fids, count))
}

pub unsafe fn fi_av_open(
    domain: *mut fid_domain,
    attr: *mut fi_av_attr,
    av: *mut *mut fid_av,
    context: *mut c_void,
) -> c_int {
    call!(domain, ops, av_open, (domain, attr, av, context))
}

pub unsafe fn fi_cq_open(
    domain: *mut fid_domain,
    attr: *mut fi_cq_attr,
    cq: *mut *mut fid_cq,
    context: *mut c_void,
) -> c_int {
    call!(domain, ops, cq_open, (domain, attr, cq, context))
}

pub unsafe fn fi_endpoint(
    domain: *mut fid_domain,
    info: *mut fi_info,
    ep: *mut *mut fid_ep,
    context: *mut c_void,
) -> c_int {
    call!(domain, ops, endpoint, (domain, info, ep, context))
}

pub unsafe fn fi_mr_reg(
    domain: *mut fid_domain,
    buf: *const c_void,
    len: usize,
    access: u64,
    offset: u64,
    requested_key: u64,
    flags: u64,
    mr: *mut *mut fid_mr,
    context: *mut c_void,
) -> c_int {
    call!(
        domain,
        mr,
        reg,
        (domain.cast::<fid>(), buf, len, access, offset, requested_key, flags, mr, context)
    )
}

pub unsafe fn fi_mr_regattr(
    domain: *mut fid_domain,
    attr: *const fi_mr_attr,
    flags: u64,
    mr: *mut *mut fid_mr,
) -> c_int {
    call!(domain, mr, regattr, (domain.cast::<fid>(), attr, flags, mr))
}

/// Binds a region to an endpoint where `FI_MR_ENDPOINT` asks for it.
pub unsafe fn fi_mr_bind(mr: *mut fid_mr, object: *mut fid, flags: u64) -> c_int {
    call!(mr.cast::<fid>(), ops, bind, (mr.cast::<fid>(), object, flags))
}

pub unsafe fn fi_mr_enable(mr: *mut fid_mr) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { fi_control(mr.cast::<fid>(), FI_ENABLE, ptr::null_mut()) }
}

pub unsafe fn fi_mr_desc(mr: *mut fid_mr) -> *mut c_void {
    // SAFETY: the region is open.
    unsafe { (*mr).mem_desc }
}

pub unsafe fn fi_mr_key(mr: *mut fid_mr) -> u64 {
    // SAFETY: the region is open.
    unsafe { (*mr).key }
}

pub unsafe fn fi_av_insert(
    av: *mut fid_av,
    addr: *const c_void,
    count: usize,
    fi_addr: *mut fi_addr_t,
    flags: u64,
    context: *mut c_void,
) -> c_int {
    call!(av, ops, insert, (av, addr, count, fi_addr, flags, context))
}

pub unsafe fn fi_ep_bind(ep: *mut fid_ep, object: *mut fid, flags: u64) -> c_int {
    call!(ep.cast::<fid>(), ops, bind, (ep.cast::<fid>(), object, flags))
}

pub unsafe fn fi_enable(ep: *mut fid_ep) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { fi_control(ep.cast::<fid>(), FI_ENABLE, ptr::null_mut()) }
}

pub unsafe fn fi_getname(ep: *mut fid_ep, addr: *mut c_void, addrlen: *mut usize) -> c_int {
    call!(ep, cm, getname, (ep.cast::<fid>(), addr, addrlen))
}

pub unsafe fn fi_cancel(ep: *mut fid_ep, context: *mut c_void) -> isize {
    call!(ep, ops, cancel, (ep.cast::<fid>(), context))
}

pub unsafe fn fi_getopt(
    ep: *mut fid_ep,
    level: c_int,
    optname: c_int,
    optval: *mut c_void,
    optlen: *mut usize,
) -> c_int {
    call!(ep, ops, getopt, (ep.cast::<fid>(), level, optname, optval, optlen))
}

pub unsafe fn fi_setopt(
    ep: *mut fid_ep,
    level: c_int,
    optname: c_int,
    optval: *const c_void,
    optlen: usize,
) -> c_int {
    call!(ep, ops, setopt, (ep.cast::<fid>(), level, optname, optval, optlen))
}

pub unsafe fn fi_recv(
    ep: *mut fid_ep,
    buf: *mut c_void,
    len: usize,
    desc: *mut c_void,
    src_addr: fi_addr_t,
    context: *mut c_void,
) -> isize {
    call!(ep, msg, recv, (ep, buf, len, desc, src_addr, context))
}

pub unsafe fn fi_send(
    ep: *mut fid_ep,
    buf: *const c_void,
    len: usize,
    desc: *mut c_void,
    dest_addr: fi_addr_t,
    context: *mut c_void,
) -> isize {
    call!(ep, msg, send, (ep, buf, len, desc, dest_addr, context))
}

pub unsafe fn fi_recvmsg(ep: *mut fid_ep, msg: *const fi_msg, flags: u64) -> isize {
    call!(ep, msg, recvmsg, (ep, msg, flags))
}

pub unsafe fn fi_read(
    ep: *mut fid_ep,
    buf: *mut c_void,
    len: usize,
    desc: *mut c_void,
    src_addr: fi_addr_t,
    addr: u64,
    key: u64,
    context: *mut c_void,
) -> isize {
    call!(ep, rma, read, (ep, buf, len, desc, src_addr, addr, key, context))
}

pub unsafe fn fi_write(
    ep: *mut fid_ep,
    buf: *const c_void,
    len: usize,
    desc: *mut c_void,
    dest_addr: fi_addr_t,
    addr: u64,
    key: u64,
    context: *mut c_void,
) -> isize {
    call!(ep, rma, write, (ep, buf, len, desc, dest_addr, addr, key, context))
}

pub unsafe fn fi_writedata(
    ep: *mut fid_ep,
    buf: *const c_void,
    len: usize,
    desc: *mut c_void,
    data: u64,
    dest_addr: fi_addr_t,
    addr: u64,
    key: u64,
    context: *mut c_void,
) -> isize {
    call!(ep, rma, writedata, (ep, buf, len, desc, data, dest_addr, addr, key, context))
}

pub unsafe fn fi_trecv(
    ep: *mut fid_ep,
    buf: *mut c_void,
    len: usize,
    desc: *mut c_void,
    src_addr: fi_addr_t,
    tag: u64,
    ignore: u64,
    context: *mut c_void,
) -> isize {
    call!(ep, tagged, recv, (ep, buf, len, desc, src_addr, tag, ignore, context))
}

pub unsafe fn fi_tsend(
    ep: *mut fid_ep,
    buf: *const c_void,
    len: usize,
    desc: *mut c_void,
    dest_addr: fi_addr_t,
    tag: u64,
    context: *mut c_void,
) -> isize {
    call!(ep, tagged, send, (ep, buf, len, desc, dest_addr, tag, context))
}

pub unsafe fn fi_tsendmsg(ep: *mut fid_ep, msg: *const fi_msg_tagged, flags: u64) -> isize {
    call!(ep, tagged, sendmsg, (ep, msg, flags))
}

pub unsafe fn fi_eq_read(
    eq: *mut fid_eq,
    event: *mut u32,
    buf: *mut c_void,
    len: usize,
    flags: u64,
) -> isize {
    call!(eq, ops, read, (eq, event, buf, len, flags))
}

pub unsafe fn fi_eq_readerr(eq: *mut fid_eq, entry: *mut fi_eq_err_entry, flags: u64) -> isize {
    call!(eq, ops, readerr, (eq, entry, flags))
}

pub unsafe fn fi_cq_read(cq: *mut fid_cq, buf: *mut c_void, count: usize) -> isize {
    call!(cq, ops, read, (cq, buf, count))
}

pub unsafe fn fi_cq_readerr(cq: *mut fid_cq, entry: *mut fi_cq_err_entry, flags: u64) -> isize {
    call!(cq, ops, readerr, (cq, entry, flags))
}

pub unsafe fn fi_cq_sread(
    cq: *mut fid_cq,
    buf: *mut c_void,
    count: usize,
    cond: *const c_void,
    timeout_ms: c_int,
) -> isize {
    call!(cq, ops, sread, (cq, buf, count, cond, timeout_ms))
}

pub unsafe fn fi_cq_signal(cq: *mut fid_cq) -> c_int {
    call!(cq, ops, signal, (cq))
}

/// Null where the provider has no text.
pub unsafe fn fi_cq_strerror(
    cq: *mut fid_cq,
    prov_errno: c_int,
    err_data: *const c_void,
    buf: *mut c_char,
    len: usize,
) -> *const c_char {
    // SAFETY: the CQ is open, and so its table is there; the rest is the caller's contract.
    unsafe {
        match (*cq).ops.as_ref().and_then(|table| table.strerror) {
            Some(function) => function(cq, prov_errno, err_data, buf, len),
            None => ptr::null(),
        }
    }
}
