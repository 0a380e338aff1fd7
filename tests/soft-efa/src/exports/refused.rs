//! What other users of verbs in the same program may ask of our devices while they look around: RDMA's connection
//! manager, UCX, libfabric's verbs provider. They are told little, and refused whatever a real EFA device refuses.

use std::ffi::{c_int, c_void};

use nix::errno::Errno;

use super::{OK, device, guard, refuse};
use crate::abi::*;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_device_index(listed: *mut ibv_device) -> c_int {
    // SAFETY: a listed device.
    guard(-1, || unsafe { device::number(listed) } as c_int)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_pkey(
    _context: *mut ibv_context,
    port: u8,
    index: c_int,
    pkey: *mut u16,
) -> c_int {
    if port != 1 || index != 0 {
        Errno::EINVAL.set();
        return -1;
    }
    // SAFETY: the caller's.
    unsafe { pkey.write(DEFAULT_PKEY) };
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn _ibv_query_gid_ex(
    _context: *mut ibv_context,
    _port: u32,
    _index: u32,
    _entry: *mut c_void,
    _flags: u32,
    _len: usize,
) -> c_int {
    Errno::EOPNOTSUPP as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn _ibv_query_gid_table(
    _context: *mut ibv_context,
    _entries: *mut c_void,
    _max: usize,
    _flags: u32,
    _len: usize,
) -> isize {
    -(Errno::EOPNOTSUPP as isize)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_create_cq(
    _context: *mut ibv_context,
    _entries: c_int,
    _cq_context: *mut c_void,
    _channel: *mut ibv_comp_channel,
    _vector: c_int,
) -> *mut ibv_cq {
    refuse(Errno::EOPNOTSUPP)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_create_srq(_pd: *mut ibv_pd, _attr: *mut c_void) -> *mut c_void {
    refuse(Errno::EOPNOTSUPP)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_qp(
    _qp: *mut ibv_qp,
    _attr: *mut ibv_qp_attr,
    _mask: c_int,
    _init_attr: *mut c_void,
) -> c_int {
    Errno::EOPNOTSUPP as c_int
}

/// The full-membership partition, which is the only one.
const DEFAULT_PKEY: u16 = 0xffff;
