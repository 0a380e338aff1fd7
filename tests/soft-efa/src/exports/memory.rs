//! Protection domains, regions and address handles.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use super::{OK, device_number, guard, host, refuse};
use crate::abi::*;
use crate::address::Gid;
use crate::nic::{Access, Region, RegionKind};

/// An address handle, and what it stands for.
#[repr(C)]
pub(super) struct Handle {
    ah: ibv_ah,
    pub(super) gid: Gid,
    number: u16,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd {
    guard(std::ptr::null_mut(), || {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        // SAFETY: an open device.
        let number = unsafe { device_number(context) };
        if !host().engine().device(number).nic().add_domain() {
            return refuse(Errno::ENOMEM);
        }
        Box::into_raw(Box::new(ibv_pd { context, handle: NEXT.fetch_add(1, Ordering::Relaxed) }))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int {
    guard(Errno::EIO as c_int, || {
        // SAFETY: a domain of `ibv_alloc_pd`, which is not used any more.
        let pd = unsafe { Box::from_raw(pd) };
        // SAFETY: its device is open.
        let number = unsafe { device_number(pd.context) };
        host().engine().device(number).nic().remove_domain();
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_mr(
    pd: *mut ibv_pd,
    addr: *mut c_void,
    length: usize,
    access: c_int,
) -> *mut ibv_mr {
    // SAFETY: the caller's contract.
    unsafe { register(pd, addr, length, addr as u64, access as u32) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_mr_iova(
    pd: *mut ibv_pd,
    addr: *mut c_void,
    length: usize,
    iova: u64,
    access: c_int,
) -> *mut ibv_mr {
    // SAFETY: the caller's contract.
    unsafe { register(pd, addr, length, iova, access as u32) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_mr_iova2(
    pd: *mut ibv_pd,
    addr: *mut c_void,
    length: usize,
    iova: u64,
    access: c_uint,
) -> *mut ibv_mr {
    // SAFETY: the caller's contract.
    unsafe { register(pd, addr, length, iova, access) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_dmabuf_mr(
    _pd: *mut ibv_pd,
    _offset: u64,
    _length: usize,
    _iova: u64,
    _fd: c_int,
    _access: c_int,
) -> *mut ibv_mr {
    refuse(Errno::EOPNOTSUPP)
}

unsafe fn register(pd: *mut ibv_pd, addr: *mut c_void, length: usize, iova: u64, access: u32) -> *mut ibv_mr {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller's domain, of an open device.
        let (context, domain) = unsafe { ((*pd).context, (*pd).handle) };
        // SAFETY: as above.
        let number = unsafe { device_number(context) };
        let region = Region {
            domain,
            address: iova,
            memory: addr as u64,
            len_bytes: length as u64,
            access: Access(access & DEVICE_ACCESS),
            kind: RegionKind::Host,
        };
        match host().engine().device(number).nic().register(region) {
            Err(errno) => refuse(errno),
            Ok(key) => Box::into_raw(Box::new(ibv_mr {
                context,
                pd,
                addr,
                length,
                handle: key,
                lkey: key,
                rkey: key,
            })),
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_dereg_mr(mr: *mut ibv_mr) -> c_int {
    guard(Errno::EIO as c_int, || {
        // SAFETY: a region of ours, which is not used any more.
        let mr = unsafe { Box::from_raw(mr) };
        // SAFETY: its device is open.
        let number = unsafe { device_number(mr.context) };
        host().engine().device(number).nic().regions().remove(mr.lkey);
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_create_ah(pd: *mut ibv_pd, attr: *mut ibv_ah_attr) -> *mut ibv_ah {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller's domain and attributes.
        let (context, gid) = unsafe { ((*pd).context, Gid((*attr).grh.dgid.raw)) };
        // SAFETY: its device is open.
        let device = unsafe { device_number(context) };
        match host().engine().device(device).nic().handles().add(gid) {
            None => refuse(Errno::ENOMEM),
            Some(number) => {
                let ah = ibv_ah { context, pd, handle: number.into() };
                Box::into_raw(Box::new(Handle { ah, gid, number })).cast()
            }
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_destroy_ah(ah: *mut ibv_ah) -> c_int {
    guard(Errno::EIO as c_int, || {
        // SAFETY: a handle of `ibv_create_ah`, which is not used any more.
        let handle = unsafe { Box::from_raw(ah.cast::<Handle>()) };
        // SAFETY: its device is open.
        let device = unsafe { device_number(handle.ah.context) };
        host().engine().device(device).nic().handles().remove(handle.gid);
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn efadv_query_ah(ah: *mut ibv_ah, attr: *mut efadv_ah_attr, len: u32) -> c_int {
    guard(Errno::EIO as c_int, || {
        // SAFETY: the caller's handle.
        let number = unsafe { (*ah.cast::<Handle>()).number };
        let known = efadv_ah_attr { comp_mask: 0, ahn: number, reserved: [0; 6] };
        // SAFETY: the caller's, for as many bytes as it says.
        unsafe { super::device::put_front(&known, attr.cast(), len as usize) };
        OK
    })
}

/// Local write, remote write, remote read. What is asked for beyond changes nothing here.
const DEVICE_ACCESS: u32 = 0b111;
