//! Queue pairs: how they come and go.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_uint};
use std::time::Instant;

use nix::errno::Errno;
use parking_lot::RawMutex;
use parking_lot::lock_api::RawMutex as _;

use super::completion::Queue;
use super::{OK, device_number, guard, host, posting, refuse};
use crate::abi::*;
use crate::address::Qpn;
use crate::nic::{PairKind, PairSettings, PairState, Work};
use crate::report;

/// A queue pair.
#[repr(C)]
pub(super) struct Pair {
    pub(super) qp: ibv_qp_ex,
    pub(super) device: usize,
    pub(super) qpn: Qpn,
    /// Held while work requests are put together, as rdma-core does: several threads may post.
    pub(super) lock: RawMutex,
    /// What is being put together; belongs to who holds the lock.
    pub(super) batch: UnsafeCell<Vec<Work>>,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn efadv_create_qp_ex(
    context: *mut ibv_context,
    attr: *mut ibv_qp_init_attr_ex,
    efa_attr: *mut efadv_qp_init_attr,
    len: u32,
) -> *mut ibv_qp {
    guard(std::ptr::null_mut(), || {
        if (len as usize) < EFADV_QP_INIT_ATTR_FIRST_BYTES || efa_attr.is_null() {
            return refuse(Errno::EINVAL);
        }
        // SAFETY: the caller's, as long as it says.
        let efa = unsafe { *efa_attr };
        if efa.driver_qp_type != EFADV_QP_DRIVER_TYPE_SRD {
            return refuse(Errno::EOPNOTSUPP);
        }
        let takes_unsolicited = efa.flags & EFADV_QP_FLAGS_UNSOLICITED_WRITE_RECV != 0;
        // SAFETY: the caller's contract.
        unsafe { create(context, attr, PairKind::Reliable, takes_unsolicited) }
    })
}

pub(super) unsafe extern "C" fn create_qp_ex(
    context: *mut ibv_context,
    attr: *mut ibv_qp_init_attr_ex,
) -> *mut ibv_qp {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller's contract.
        unsafe {
            if (*attr).qp_type != IBV_QPT_UD {
                return refuse(Errno::EOPNOTSUPP);
            }
            create(context, attr, PairKind::Datagram, false)
        }
    })
}

/// The older way, which libfabric used until 1.22 for datagrams: its attributes are the front of the newer ones.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_create_qp(pd: *mut ibv_pd, attr: *mut ibv_qp_init_attr_ex) -> *mut ibv_qp {
    guard(std::ptr::null_mut(), || {
        // SAFETY: integers and null pointers.
        let mut whole: ibv_qp_init_attr_ex = unsafe { std::mem::zeroed() };
        // SAFETY: the caller's domain and attributes, of which only what comes before `comp_mask` is there.
        unsafe {
            let front = std::mem::offset_of!(ibv_qp_init_attr_ex, comp_mask);
            (&raw mut whole).cast::<u8>().copy_from_nonoverlapping(attr.cast(), front);
            whole.pd = pd;
            create_qp_ex((*pd).context, &raw mut whole)
        }
    })
}

unsafe fn create(
    context: *mut ibv_context,
    attr: *mut ibv_qp_init_attr_ex,
    kind: PairKind,
    takes_unsolicited: bool,
) -> *mut ibv_qp {
    // SAFETY: an open device, and the caller's attributes.
    let (number, attr) = unsafe { (device_number(context), &*attr) };
    let mut engine = host().engine();
    let device = engine.device(number);
    if device.is_lost() {
        return refuse(Errno::ENODEV);
    }
    let (limits, capabilities) = (*device.nic().limits(), device.nic().capabilities());
    let cap = attr.cap;
    let writes = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM;
    let sends = IBV_QP_EX_WITH_SEND | IBV_QP_EX_WITH_SEND_WITH_IMM;
    let known = match kind {
        PairKind::Datagram => sends,
        PairKind::Reliable => {
            sends
                | if capabilities.rdma_read { IBV_QP_EX_WITH_RDMA_READ } else { 0 }
                | if capabilities.rdma_write { writes } else { 0 }
        }
    };
    let asked = if attr.comp_mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS != 0 { attr.send_ops_flags } else { 0 };
    if asked & !known != 0 || (takes_unsolicited && !capabilities.unsolicited_write) {
        return refuse(Errno::EOPNOTSUPP);
    }
    if cap.max_send_wr > limits.send_queue
        || cap.max_recv_wr > limits.receive_queue
        || cap.max_send_sge > limits.send_pieces.into()
        || cap.max_recv_sge > limits.receive_pieces.into()
        || cap.max_inline_data > limits.inline_bytes.into()
        || attr.send_cq.is_null()
        || attr.recv_cq.is_null()
        || attr.pd.is_null()
    {
        return refuse(Errno::EINVAL);
    }
    let Some(qpn) = device.open_door() else { return refuse(Errno::ENOMEM) };
    // SAFETY: the caller's domain and queues.
    let (domain, send_queue, receive_queue) = unsafe {
        ((*attr.pd).handle, (*attr.send_cq.cast::<Queue>()).id, (*attr.recv_cq.cast::<Queue>()).id)
    };
    device.nic().create_pair(PairSettings {
        qpn,
        kind,
        domain,
        send_queue,
        receive_queue,
        send_limit: cap.max_send_wr,
        receive_limit: cap.max_recv_wr,
        takes_unsolicited,
    });
    drop(engine);
    host().start_thread();
    // SAFETY: integers, null pointers, absent functions, and a mutex and a condition that nobody uses.
    let mut qp: ibv_qp_ex = unsafe { std::mem::zeroed() };
    qp.qp_base.context = context;
    qp.qp_base.qp_context = attr.qp_context;
    qp.qp_base.pd = attr.pd;
    qp.qp_base.send_cq = attr.send_cq;
    qp.qp_base.recv_cq = attr.recv_cq;
    qp.qp_base.handle = qpn.0;
    qp.qp_base.qp_num = qpn.0;
    qp.qp_base.state = IBV_QPS_RESET;
    qp.qp_base.qp_type = attr.qp_type;
    posting::fill_in(&mut qp);
    let batch = UnsafeCell::new(Vec::new());
    Box::into_raw(Box::new(Pair { qp, device: number, qpn, lock: RawMutex::INIT, batch })).cast()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_qp_to_qp_ex(qp: *mut ibv_qp) -> *mut ibv_qp_ex {
    qp.cast()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_modify_qp(qp: *mut ibv_qp, attr: *mut ibv_qp_attr, mask: c_int) -> c_int {
    guard(Errno::EIO as c_int, || {
        let mask = mask as c_uint;
        // SAFETY: a queue pair of ours, and the caller's attributes.
        let (number, qpn, attr) = unsafe { ((*qp.cast::<Pair>()).device, (*qp.cast::<Pair>()).qpn, &*attr) };
        let state = (mask & IBV_QP_STATE != 0).then_some(attr.qp_state);
        let moved = state.map(|state| match state {
            IBV_QPS_ERR => PairState::Failed,
            IBV_QPS_RTR | IBV_QPS_RTS => PairState::Ready,
            _ => PairState::Fresh,
        });
        let qkey = (mask & IBV_QP_QKEY != 0).then_some(attr.qkey);
        let patience = (mask & IBV_QP_RNR_RETRY != 0).then_some(attr.rnr_retry);
        if patience.is_some_and(|patience| patience > 7) {
            return Errno::EINVAL as c_int;
        }
        let mut engine = host().engine();
        engine.device(number).nic().modify_pair(Instant::now(), qpn, moved, qkey, patience);
        if let Some(state) = state {
            // SAFETY: a queue pair of ours.
            unsafe { (*qp).state = state };
        }
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_destroy_qp(qp: *mut ibv_qp) -> c_int {
    guard(Errno::EIO as c_int, || {
        // SAFETY: a queue pair of ours, which is not used any more.
        let pair = unsafe { Box::from_raw(qp.cast::<Pair>()) };
        host().let_out(pair.device, pair.qpn);
        let mut engine = host().engine();
        let device = engine.device(pair.device);
        let (lost, turned_away) = device.nic().destroy_pair(pair.qpn);
        if lost > 0 {
            report::whisper(|| {
                format!(
                    "queue pair {} closes over {lost} operations that nobody has answered; {turned_away} were turned away and to come again",
                    pair.qpn.0
                )
            });
        }
        device.shut_door(Instant::now(), pair.qpn);
        OK
    })
}

/// Whether data lands in order: it does not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_qp_data_in_order(
    _qp: *mut ibv_qp,
    _operation: c_uint,
    _flags: u32,
) -> c_int {
    0
}

// What newer consumers ask for first: they do without when it is refused.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn efadv_query_qp_wqs(
    _qp: *mut ibv_qp,
    _send: *mut std::ffi::c_void,
    _receive: *mut std::ffi::c_void,
    _len: u32,
) -> c_int {
    Errno::EOPNOTSUPP as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn efadv_query_cq(_cq: *mut ibv_cq, _attr: *mut std::ffi::c_void, _len: u32) -> c_int {
    Errno::EOPNOTSUPP as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn efadv_query_mr(_mr: *mut ibv_mr, _attr: *mut std::ffi::c_void, _len: u32) -> c_int {
    Errno::EOPNOTSUPP as c_int
}
