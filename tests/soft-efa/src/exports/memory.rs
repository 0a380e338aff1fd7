//! Protection domains, regions and address handles.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use super::{OK, device_number, guard, host, refuse};
use crate::abi::*;
use crate::address::Gid;
use crate::engine::{ProcessMemory, dmabuf};
use crate::nic::{Access, Region, RegionKind};
use crate::report;

/// An address handle, and what it stands for.
#[repr(C)]
pub(super) struct Handle {
    pub(super) ah: ibv_ah,
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
    pd: *mut ibv_pd,
    offset: u64,
    length: usize,
    iova: u64,
    fd: c_int,
    access: c_int,
) -> *mut ibv_mr {
    guard(std::ptr::null_mut(), || {
        let checked = dmabuf::len_bytes(fd).and_then(|len_bytes| {
            let end = offset.checked_add(length as u64);
            end.filter(|end| *end <= len_bytes).map(|_| ()).ok_or(Errno::EINVAL)
        });
        if let Err(errno) = checked {
            return refuse(errno);
        }
        // Who maps a dma-buf learns nothing of the pointer behind it; libfabric gives that as the address for operations.
        if ProcessMemory::kind(iova, length as u64) != Ok(RegionKind::Cuda) {
            report::say(
                "a dma-buf can only be registered with its CUDA pointer as the address for operations",
            );
            return refuse(Errno::EOPNOTSUPP);
        }
        // SAFETY: the caller's contract.
        let mr = unsafe { register(pd, iova as *mut c_void, length, iova, access as u32) };
        if !mr.is_null() {
            // SAFETY: just made. A region of a dma-buf has no address of its own.
            unsafe { (*mr).addr = std::ptr::null_mut() };
        }
        mr
    })
}

unsafe fn register(pd: *mut ibv_pd, addr: *mut c_void, length: usize, iova: u64, access: u32) -> *mut ibv_mr {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller's domain, of an open device.
        let (context, domain) = unsafe { ((*pd).context, (*pd).handle) };
        // SAFETY: as above.
        let number = unsafe { device_number(context) };
        // Of nothing there is no kind; the device refuses it for that.
        let kind =
            if length == 0 { Ok(RegionKind::Host) } else { ProcessMemory::kind(addr as u64, length as u64) };
        let registered = kind.and_then(|kind| {
            host().engine().device(number).nic().register(Region {
                domain,
                address: iova,
                memory: addr as u64,
                len_bytes: length as u64,
                access: Access(access & DEVICE_ACCESS),
                kind,
            })
        });
        report::whisper(|| match (kind, registered) {
            (Ok(kind), Ok(_)) => format!("device {number} registers {length} bytes of {kind:?} memory"),
            (_, refused) => format!("device {number} does not register {length} bytes: {refused:?}"),
        });
        match registered {
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
        let (context, domain, gid) = unsafe { ((*pd).context, (*pd).handle, Gid((*attr).grh.dgid.raw)) };
        // SAFETY: its device is open.
        let device = unsafe { device_number(context) };
        match host().engine().device(device).nic().handles().add(domain, gid) {
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
        // SAFETY: its device is open, and so is its domain.
        let (device, domain) = unsafe { (device_number(handle.ah.context), (*handle.ah.pd).handle) };
        host().engine().device(device).nic().handles().remove(domain, handle.gid);
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
