//! Devices: finding, opening and asking them.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::OnceLock;

use nix::errno::Errno;

use super::{OK, completion, device_number, events, guard, host, pair, posting, refuse};
use crate::abi::*;
use crate::engine::Host;
use crate::report;

/// A device as verbs lists it.
#[repr(C)]
struct Listed {
    device: ibv_device,
    number: usize,
}

// SAFETY: made once, and only read from then on.
unsafe impl Sync for Listed {}
// SAFETY: as above.
unsafe impl Send for Listed {}

/// An open device.
#[repr(C)]
pub(super) struct Context {
    number: usize,
    verbs: verbs_context,
}

impl Context {
    /// The number of the device whose context this is.
    pub(super) unsafe fn of(context: *mut ibv_context) -> usize {
        // SAFETY: every context that is handed out lies inside a `Context`, at this offset.
        unsafe {
            let offset = std::mem::offset_of!(Context, verbs) + std::mem::offset_of!(verbs_context, context);
            (*context.byte_sub(offset).cast::<Context>()).number
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_device_list(count: *mut c_int) -> *mut *mut ibv_device {
    guard(std::ptr::null_mut(), || {
        let devices = match devices() {
            Ok(devices) => devices,
            Err(errno) => return refuse(errno),
        };
        let list: Vec<*mut ibv_device> = devices
            .iter()
            .map(|listed| (&raw const listed.device).cast_mut())
            .chain([std::ptr::null_mut()])
            .collect();
        if !count.is_null() {
            // SAFETY: the caller's, for an int.
            unsafe { *count = devices.len() as c_int };
        }
        // The end of the list is its null; its length is found again by that.
        Box::leak(list.into_boxed_slice()).as_mut_ptr()
    })
}

/// Devices that are not lost, with their places in sysfs.
fn devices() -> Result<Vec<&'static Listed>, Errno> {
    static LISTED: OnceLock<Result<Vec<Listed>, Errno>> = OnceLock::new();
    let all = LISTED.get_or_init(|| {
        let host = Host::of_process().map_err(|error| {
            report::say(&format!("{error}; there are no devices"));
            Errno::EINVAL
        })?;
        Ok((0..host.settings.nics).map(|number| listed(host, number)).collect())
    });
    let all = all.as_ref().map_err(|errno| *errno)?;
    let mut engine = host().engine();
    Ok(all.iter().filter(|listed| !engine.device(listed.number).is_lost()).collect())
}

fn listed(host: &Host, number: u8) -> Listed {
    let name = host.settings.profile.pci_address(number).device_name();
    // SAFETY: integers, arrays of integers and null pointers.
    let mut device: ibv_device = unsafe { std::mem::zeroed() };
    device.node_type = IBV_NODE_UNSPECIFIED;
    device.transport_type = IBV_TRANSPORT_UNSPECIFIED;
    put_text(&mut device.name, &name);
    put_text(&mut device.dev_name, &format!("uverbs{number}"));
    let class = host.sysfs.path().join("class");
    put_text(&mut device.dev_path, &class.join(format!("infiniband_verbs/uverbs{number}")).to_string_lossy());
    put_text(&mut device.ibdev_path, &class.join("infiniband").join(name).to_string_lossy());
    Listed { device, number: number.into() }
}

fn put_text(place: &mut [c_char], text: &str) {
    let room = place.len() - 1;
    for (place, byte) in place.iter_mut().zip(text.bytes().take(room)) {
        *place = byte as c_char;
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_free_device_list(list: *mut *mut ibv_device) {
    guard((), || {
        if list.is_null() {
            return;
        }
        // SAFETY: a list of `ibv_get_device_list`, which ends with a null and whose elements live for ever.
        unsafe {
            let mut len = 0;
            while !(*list.add(len)).is_null() {
                len += 1;
            }
            drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(list, len + 1)));
        }
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_device_name(device: *mut ibv_device) -> *const c_char {
    // SAFETY: a listed device.
    unsafe { (&raw const (*device).name).cast() }
}

/// The number of a listed device.
pub(super) unsafe fn number(device: *mut ibv_device) -> usize {
    // SAFETY: listed devices have their number behind them.
    unsafe { (*device.cast::<Listed>()).number }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_device_guid(device: *mut ibv_device) -> u64 {
    guard(0, || {
        // SAFETY: a listed device.
        let number = unsafe { number(device) };
        u64::from_ne_bytes(host().engine().device(number).nic().gid().guid())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_open_device(device: *mut ibv_device) -> *mut ibv_context {
    guard(std::ptr::null_mut(), || {
        // SAFETY: a listed device.
        let number = unsafe { number(device) };
        if host().engine().device(number).is_lost() {
            return refuse(Errno::ENODEV);
        }
        // SAFETY: integers, null pointers, absent functions, and a mutex that nobody uses.
        let mut verbs: verbs_context = unsafe { std::mem::zeroed() };
        verbs.sz = size_of::<verbs_context>();
        verbs.query_port = Some(query_port);
        verbs.create_cq_ex = Some(completion::create_cq_ex);
        verbs.create_qp_ex = Some(pair::create_qp_ex);
        verbs.context.device = device;
        verbs.context.cmd_fd = -1;
        verbs.context.async_fd = -1;
        verbs.context.num_comp_vectors = COMPLETION_VECTORS;
        // What says that the struct around it is there.
        verbs.context.abi_compat = usize::MAX as *mut _;
        verbs.context.ops.req_notify_cq = Some(completion::req_notify_cq);
        verbs.context.ops.post_recv = Some(posting::post_recv);
        verbs.context.ops.post_send = Some(posting::post_send);
        let whole = Box::into_raw(Box::new(Context { number, verbs }));
        // SAFETY: just made.
        let context = unsafe { &raw mut (*whole).verbs.context };
        if let Err(errno) = events::open(context) {
            // SAFETY: just made, and handed to nobody.
            drop(unsafe { Box::from_raw(whole) });
            return refuse(errno);
        }
        if host().engine().device(number).nic().has_faults() {
            // What breaks does so for programs, too, that only wait for it.
            host().start_thread();
        }
        context
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_close_device(context: *mut ibv_context) -> c_int {
    guard(Errno::EIO as c_int, || {
        events::close(context);
        let offset = std::mem::offset_of!(Context, verbs) + std::mem::offset_of!(verbs_context, context);
        // SAFETY: a context of `ibv_open_device`, which is not used any more.
        drop(unsafe { Box::from_raw(context.byte_sub(offset).cast::<Context>()) });
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_device(context: *mut ibv_context, attr: *mut ibv_device_attr) -> c_int {
    guard(Errno::EIO as c_int, || {
        // SAFETY: an open device.
        let number = unsafe { device_number(context) };
        let host = host();
        let mut engine = host.engine();
        let nic = engine.device(number).nic();
        let limits = *nic.limits();
        // SAFETY: integers only.
        let mut device: ibv_device_attr = unsafe { std::mem::zeroed() };
        put_text(&mut device.fw_ver, "0.0.0.0");
        device.node_guid = u64::from_ne_bytes(nic.gid().guid());
        device.sys_image_guid = device.node_guid;
        device.max_mr_size = limits.region_bytes;
        device.page_size_cap = PAGE_SIZES;
        device.vendor_id = AMAZON;
        device.vendor_part_id = host.settings.profile.part_id;
        device.hw_ver = host.settings.profile.part_id;
        device.max_qp = limits.queue_pairs as c_int;
        device.max_qp_wr = limits.send_queue.min(limits.receive_queue) as c_int;
        device.max_sge = c_int::from(limits.send_pieces.min(limits.receive_pieces));
        device.max_sge_rd = 1;
        device.max_cq = limits.completion_queues as c_int;
        device.max_cqe = limits.completion_queue_entries as c_int;
        device.max_mr = limits.regions as c_int;
        device.max_pd = limits.protection_domains as c_int;
        device.max_ah = limits.address_handles as c_int;
        device.max_pkeys = 1;
        device.phys_port_cnt = 1;
        // SAFETY: the caller's, of this type.
        unsafe { attr.write(device) };
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_port(
    context: *mut ibv_context,
    port: u8,
    attr: *mut ibv_port_attr,
) -> c_int {
    // SAFETY: callers of the function, rather than of the table, have room for the front of the struct only.
    unsafe { query_port(context, port, attr, COMPAT_PORT_ATTR_BYTES) }
}

unsafe extern "C" fn query_port(
    context: *mut ibv_context,
    port: u8,
    attr: *mut ibv_port_attr,
    len: usize,
) -> c_int {
    guard(Errno::EIO as c_int, || {
        if port != 1 {
            return Errno::EINVAL as c_int;
        }
        // SAFETY: an open device.
        let number = unsafe { device_number(context) };
        let host = host();
        let mut engine = host.engine();
        let device = engine.device(number);
        let is_down = device.is_lost() || device.nic().faults().is_link_down();
        // SAFETY: integers only.
        let mut known: ibv_port_attr = unsafe { std::mem::zeroed() };
        known.state = if is_down { IBV_PORT_DOWN } else { IBV_PORT_ACTIVE };
        known.max_mtu = IBV_MTU_4096;
        known.active_mtu = IBV_MTU_4096;
        known.gid_tbl_len = 1;
        known.max_msg_sz = device.nic().limits().mtu_bytes;
        known.pkey_tbl_len = 1;
        known.max_vl_num = 1;
        known.active_width = host.settings.profile.port.width;
        known.active_speed = host.settings.profile.port.speed;
        known.phys_state = if is_down { PHYS_DISABLED } else { PHYS_LINK_UP };
        // SAFETY: the caller's, for as many bytes as it says.
        unsafe { put_front(&known, attr.cast(), len) };
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_gid(
    context: *mut ibv_context,
    port: u8,
    index: c_int,
    gid: *mut ibv_gid,
) -> c_int {
    guard(-1, || {
        if port != 1 || index != 0 {
            Errno::EINVAL.set();
            return -1;
        }
        // SAFETY: an open device; the caller's GID.
        unsafe {
            let own = host().engine().device(device_number(context)).nic().gid();
            (*gid).raw = own.0;
        }
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn efadv_query_device(
    context: *mut ibv_context,
    attr: *mut efadv_device_attr,
    len: u32,
) -> c_int {
    guard(Errno::EIO as c_int, || {
        // SAFETY: an open device.
        let number = unsafe { device_number(context) };
        let mut engine = host().engine();
        let nic = engine.device(number).nic();
        let (limits, capabilities) = (*nic.limits(), nic.capabilities());
        let mut caps = EFADV_DEVICE_ATTR_CAPS_RNR_RETRY | EFADV_DEVICE_ATTR_CAPS_CQ_WITH_SGID;
        for (has, bit) in [
            (capabilities.rdma_read, EFADV_DEVICE_ATTR_CAPS_RDMA_READ),
            (capabilities.rdma_write, EFADV_DEVICE_ATTR_CAPS_RDMA_WRITE),
            (capabilities.unsolicited_write, EFADV_DEVICE_ATTR_CAPS_UNSOLICITED_WRITE_RECV),
        ] {
            caps |= if has { bit } else { 0 };
        }
        let has_rdma = capabilities.rdma_read || capabilities.rdma_write;
        let known = efadv_device_attr {
            comp_mask: 0,
            max_sq_wr: limits.send_queue,
            max_rq_wr: limits.receive_queue,
            max_sq_sge: limits.send_pieces,
            max_rq_sge: limits.receive_pieces,
            inline_buf_size: limits.inline_bytes,
            reserved: [0; 2],
            device_caps: caps,
            max_rdma_size: if has_rdma { limits.rdma_bytes } else { 0 },
            later: [0; 4],
        };
        // SAFETY: the caller's, for as many bytes as it says.
        unsafe { put_front(&known, attr.cast(), len as usize) };
        OK
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_fork_init() -> c_int {
    OK
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_is_fork_initialized() -> c_uint {
    IBV_FORK_UNNEEDED
}

/// Copies as much of a struct as its reader has room for.
pub(super) unsafe fn put_front<T>(known: &T, place: *mut u8, len: usize) {
    let len = len.min(size_of::<T>());
    // SAFETY: the caller's contract, and no more than there is.
    unsafe { std::ptr::copy_nonoverlapping(std::ptr::from_ref(known).cast::<u8>(), place, len) }
}

/// The provider refuses wait objects where there is but one.
const COMPLETION_VECTORS: c_int = 8;
const AMAZON: u32 = 0x1d0f;
/// 4 KiB and up.
const PAGE_SIZES: u64 = 0xffff_f000;
const PHYS_DISABLED: u8 = 3;
const PHYS_LINK_UP: u8 = 5;
