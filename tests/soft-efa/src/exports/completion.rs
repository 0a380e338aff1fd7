//! Completion queues and the channels of their events.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use parking_lot::RawMutex;
use parking_lot::lock_api::RawMutex as _;

use super::{OK, device_number, guard, host, refuse};
use crate::abi::*;
use crate::engine::Channel;
use crate::nic::{Completed, Completion, QueueId};

/// A completion queue.
#[repr(C)]
pub(super) struct Queue {
    cq: ibv_cq_ex,
    efadv: efadv_cq,
    device: usize,
    pub(super) id: QueueId,
    /// Held from a poll that finds something to its end, as rdma-core does: several threads may poll.
    lock: RawMutex,
    /// What the consumer looks at; belongs to who holds the lock.
    current: UnsafeCell<Option<Completion>>,
}

/// A channel, and where its events come from.
#[repr(C)]
struct EventChannel {
    channel: ibv_comp_channel,
    writer: Arc<OwnedFd>,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn efadv_create_cq(
    context: *mut ibv_context,
    attr: *mut ibv_cq_init_attr_ex,
    efa_attr: *mut efadv_cq_init_attr,
    len: u32,
) -> *mut ibv_cq_ex {
    guard(std::ptr::null_mut(), || {
        let flags = if len as usize >= size_of::<efadv_cq_init_attr>() && !efa_attr.is_null() {
            // SAFETY: the caller's, as long as it says.
            unsafe { (*efa_attr).wc_flags }
        } else {
            0
        };
        // SAFETY: an open device.
        let number = unsafe { device_number(context) };
        let unsolicited = host().engine().device(number).nic().capabilities().unsolicited_write;
        let known = EFADV_WC_EX_WITH_SGID | if unsolicited { EFADV_WC_EX_WITH_IS_UNSOLICITED } else { 0 };
        if flags & !known != 0 {
            return refuse(Errno::EOPNOTSUPP);
        }
        // SAFETY: the caller's contract.
        unsafe { create_cq_ex(context, attr) }
    })
}

pub(super) unsafe extern "C" fn create_cq_ex(
    context: *mut ibv_context,
    attr: *mut ibv_cq_init_attr_ex,
) -> *mut ibv_cq_ex {
    guard(std::ptr::null_mut(), || {
        // SAFETY: an open device, and the caller's attributes.
        let (number, attr) = unsafe { (device_number(context), &*attr) };
        let has_channel = !attr.channel.is_null();
        let Some(id) = host().engine().device(number).nic().create_queue(attr.cqe, has_channel) else {
            return refuse(Errno::ENOMEM);
        };
        // SAFETY: integers, null pointers, absent functions, and a mutex and a condition that nobody uses.
        let mut cq: ibv_cq_ex = unsafe { std::mem::zeroed() };
        cq.base.context = context;
        cq.base.channel = attr.channel;
        cq.base.cq_context = attr.cq_context;
        cq.base.handle = id.0;
        cq.base.cqe = attr.cqe as c_int;
        cq.start_poll = Some(start_poll);
        cq.next_poll = Some(next_poll);
        cq.end_poll = Some(end_poll);
        cq.read_opcode = Some(read_opcode);
        cq.read_vendor_err = Some(read_vendor_err);
        cq.read_byte_len = Some(read_byte_len);
        cq.read_imm_data = Some(read_imm_data);
        cq.read_qp_num = Some(read_qp_num);
        cq.read_src_qp = Some(read_src_qp);
        cq.read_wc_flags = Some(read_wc_flags);
        cq.read_slid = Some(read_slid);
        cq.read_sl = Some(read_zero);
        cq.read_dlid_path_bits = Some(read_zero);
        let efadv = efadv_cq {
            comp_mask: 0,
            wc_read_sgid: Some(wc_read_sgid),
            wc_is_unsolicited: Some(wc_is_unsolicited),
        };
        let queue =
            Queue { cq, efadv, device: number, id, lock: RawMutex::INIT, current: UnsafeCell::new(None) };
        let queue = Box::into_raw(Box::new(queue));
        if has_channel {
            // SAFETY: the caller's channel, which outlives its queues.
            let writer = unsafe {
                (*attr.channel).refcnt += 1;
                (*attr.channel.cast::<EventChannel>()).writer.clone()
            };
            host().engine().device(number).set_channel(id, Channel { writer, token: queue as u64 });
        }
        queue.cast()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn efadv_cq_from_ibv_cq_ex(cq: *mut ibv_cq_ex) -> *mut efadv_cq {
    // SAFETY: a queue of ours.
    unsafe { &raw mut (*cq.cast::<Queue>()).efadv }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_destroy_cq(cq: *mut ibv_cq) -> c_int {
    guard(Errno::EIO as c_int, || {
        let queue = cq.cast::<Queue>();
        // SAFETY: a queue of ours.
        let (number, id, channel) = unsafe { ((*queue).device, (*queue).id, (*queue).cq.base.channel) };
        let mut engine = host().engine();
        let device = engine.device(number);
        if !device.nic().destroy_queue(id) {
            return Errno::EBUSY as c_int;
        }
        device.remove_channel(id);
        drop(engine);
        // SAFETY: the queue is not used any more; its channel still is.
        unsafe {
            if !channel.is_null() {
                (*channel).refcnt -= 1;
            }
            drop(Box::from_raw(queue));
        }
        OK
    })
}

pub(super) unsafe extern "C" fn req_notify_cq(cq: *mut ibv_cq, _solicited_only: c_int) -> c_int {
    guard(Errno::EIO as c_int, || {
        // SAFETY: a queue of ours.
        let (number, id) = unsafe { ((*cq.cast::<Queue>()).device, (*cq.cast::<Queue>()).id) };
        let mut engine = host().engine();
        let device = engine.device(number);
        if device.nic().arm(id) {
            device.raise(id);
        }
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel {
    guard(std::ptr::null_mut(), || {
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (reader, writer) = match pair {
            Ok(pair) => pair,
            Err(errno) => return refuse(errno),
        };
        let fd = std::os::fd::IntoRawFd::into_raw_fd(reader);
        let channel = ibv_comp_channel { context, fd, refcnt: 0 };
        Box::into_raw(Box::new(EventChannel { channel, writer: Arc::new(writer) })).cast()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int {
    guard(Errno::EIO as c_int, || {
        // SAFETY: a channel of ours; once nothing refers to it any more, it and its descriptor are taken back.
        unsafe {
            if (*channel).refcnt != 0 {
                return Errno::EBUSY as c_int;
            }
            drop(OwnedFd::from_raw_fd((*channel).fd));
            drop(Box::from_raw(channel.cast::<EventChannel>()));
        }
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_cq_event(
    channel: *mut ibv_comp_channel,
    cq: *mut *mut ibv_cq,
    cq_context: *mut *mut c_void,
) -> c_int {
    guard(-1, || {
        let mut token = [0; 8];
        // SAFETY: the caller's channel. Its program decides whether reading waits; no lock is held meanwhile.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw((*channel).fd) };
        match nix::unistd::read(fd, &mut token) {
            Ok(8) => {}
            Ok(_) => {
                Errno::EIO.set();
                return -1;
            }
            // It has set errno.
            Err(_) => return -1,
        }
        let queue = u64::from_ne_bytes(token) as *mut ibv_cq;
        // SAFETY: only queues of this channel are written to it, and a program reads all events of a queue before it
        // destroys it.
        unsafe {
            *cq = queue;
            *cq_context = (*queue).cq_context;
        }
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_ack_cq_events(_cq: *mut ibv_cq, _count: c_uint) {}

unsafe extern "C" fn start_poll(cq: *mut ibv_cq_ex, _attr: *mut c_void) -> c_int {
    guard(Errno::EIO as c_int, || {
        let queue = cq.cast::<Queue>();
        // SAFETY: a queue of ours.
        let (number, id, lock) = unsafe { ((*queue).device, (*queue).id, &(*queue).lock) };
        lock.lock();
        let completion = host().attend().device(number).nic().poll(id);
        // SAFETY: the lock is held.
        let status = unsafe { show(queue, completion) };
        if status != OK {
            // SAFETY: locked above; a poll that finds nothing has no end.
            unsafe { lock.unlock() };
        }
        status
    })
}

unsafe extern "C" fn next_poll(cq: *mut ibv_cq_ex) -> c_int {
    guard(Errno::EIO as c_int, || {
        let queue = cq.cast::<Queue>();
        // SAFETY: a queue of ours, whose lock this consumer has held since `start_poll`.
        unsafe {
            let completion = host().engine().device((*queue).device).nic().poll((*queue).id);
            show(queue, completion)
        }
    })
}

unsafe extern "C" fn end_poll(cq: *mut ibv_cq_ex) {
    // SAFETY: a queue of ours, whose lock this consumer has held since `start_poll`.
    unsafe { (*cq.cast::<Queue>()).lock.unlock() };
}

/// Lets the consumer look at a completion, or tells it that there is none.
unsafe fn show(queue: *mut Queue, completion: Option<Completion>) -> c_int {
    let Some(completion) = completion else { return Errno::ENOENT as c_int };
    // SAFETY: the queue's lock is held.
    unsafe {
        (*queue).cq.wr_id = completion.id;
        (*queue).cq.status = completion.status.verbs();
        *(*queue).current.get() = Some(completion);
    }
    OK
}

unsafe fn current(cq: *mut ibv_cq_ex) -> Completion {
    // SAFETY: a queue of ours, whose lock this consumer has held since `start_poll`.
    let current = unsafe { *(*cq.cast::<Queue>()).current.get() };
    current.expect("a poll that found nothing gives nothing to read")
}

unsafe extern "C" fn read_opcode(cq: *mut ibv_cq_ex) -> c_uint {
    // SAFETY: the consumer polls.
    guard(IBV_WC_SEND, || match unsafe { current(cq) }.what {
        Completed::Send => IBV_WC_SEND,
        Completed::Read => IBV_WC_RDMA_READ,
        Completed::Write => IBV_WC_RDMA_WRITE,
        Completed::Receive => IBV_WC_RECV,
        Completed::ReceiveWrite => IBV_WC_RECV_RDMA_WITH_IMM,
    })
}

unsafe extern "C" fn read_vendor_err(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: the consumer polls.
    guard(0, || unsafe { current(cq) }.status as u32)
}

unsafe extern "C" fn read_byte_len(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: the consumer polls.
    guard(0, || unsafe { current(cq) }.len_bytes)
}

unsafe extern "C" fn read_imm_data(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: the consumer polls.
    guard(0, || unsafe { current(cq) }.immediate.unwrap_or(0))
}

unsafe extern "C" fn read_qp_num(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: the consumer polls.
    guard(0, || unsafe { current(cq) }.pair.0)
}

unsafe extern "C" fn read_src_qp(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: the consumer polls.
    guard(0, || unsafe { current(cq) }.source.map_or(0, |source| source.qpn.0))
}

unsafe extern "C" fn read_wc_flags(cq: *mut ibv_cq_ex) -> c_uint {
    // SAFETY: the consumer polls.
    guard(0, || if unsafe { current(cq) }.immediate.is_some() { IBV_WC_WITH_IMM } else { 0 })
}

unsafe extern "C" fn read_slid(cq: *mut ibv_cq_ex) -> u32 {
    // SAFETY: the consumer polls.
    guard(UNKNOWN_SENDER, || unsafe { sender_number(cq) }.map_or(UNKNOWN_SENDER, u32::from))
}

unsafe extern "C" fn read_zero(_cq: *mut ibv_cq_ex) -> u8 {
    0
}

unsafe extern "C" fn wc_read_sgid(efadv: *mut efadv_cq, gid: *mut ibv_gid) -> c_int {
    guard(-(Errno::ENOENT as c_int), || {
        // SAFETY: it lies inside a queue of ours, whose consumer polls.
        unsafe {
            let cq = efadv.byte_sub(std::mem::offset_of!(Queue, efadv)).cast::<ibv_cq_ex>();
            let Some(source) = current(cq).source else { return -(Errno::ENOENT as c_int) };
            // A sender that has a number is told by that alone.
            if sender_number(cq).is_some() {
                return -(Errno::ENOENT as c_int);
            }
            (*gid).raw = source.gid.0;
        }
        OK
    })
}

unsafe extern "C" fn wc_is_unsolicited(efadv: *mut efadv_cq) -> bool {
    guard(false, || {
        // SAFETY: it lies inside a queue of ours, whose consumer polls.
        unsafe {
            current(efadv.byte_sub(std::mem::offset_of!(Queue, efadv)).cast::<ibv_cq_ex>()).is_unsolicited
        }
    })
}

unsafe fn sender_number(cq: *mut ibv_cq_ex) -> Option<u16> {
    // SAFETY: the consumer polls.
    let (device, completion) = unsafe { ((*cq.cast::<Queue>()).device, current(cq)) };
    host().engine().device(device).nic().source_number(&completion)
}

/// What stands for a sender without an address handle here.
const UNKNOWN_SENDER: u32 = 0xffff;
