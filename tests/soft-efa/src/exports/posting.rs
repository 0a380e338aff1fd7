//! Posting to queue pairs.

use std::ffi::{c_int, c_uint, c_void};
use std::time::Instant;

use nix::errno::Errno;
use parking_lot::lock_api::RawMutex as _;

use super::memory::Handle;
use super::pair::Pair;
use super::{OK, guard, host};
use crate::abi::*;
use crate::address::{Endpoint, Qpn};
use crate::nic::{Operation, Payload, Piece, Pieces, Receive, Work};
use crate::status::Status;

/// Puts the functions of this file into a queue pair's table.
pub(super) fn fill_in(qp: &mut ibv_qp_ex) {
    qp.wr_start = Some(wr_start);
    qp.wr_complete = Some(wr_complete);
    qp.wr_abort = Some(wr_abort);
    qp.wr_send = Some(wr_send);
    qp.wr_send_imm = Some(wr_send_imm);
    qp.wr_rdma_read = Some(wr_rdma_read);
    qp.wr_rdma_write = Some(wr_rdma_write);
    qp.wr_rdma_write_imm = Some(wr_rdma_write_imm);
    qp.wr_set_ud_addr = Some(wr_set_ud_addr);
    qp.wr_set_inline_data = Some(wr_set_inline_data);
    qp.wr_set_inline_data_list = Some(wr_set_inline_data_list);
    qp.wr_set_sge = Some(wr_set_sge);
    qp.wr_set_sge_list = Some(wr_set_sge_list);
}

unsafe extern "C" fn wr_start(qp: *mut ibv_qp_ex) {
    // SAFETY: a queue pair of ours; the lock is given back by `wr_complete` or `wr_abort`, which follows.
    unsafe { (*qp.cast::<Pair>()).lock.lock() };
}

unsafe extern "C" fn wr_complete(qp: *mut ibv_qp_ex) -> c_int {
    guard(Errno::EIO as c_int, || {
        let pair = qp.cast::<Pair>();
        // SAFETY: a queue pair of ours, whose lock has been held since `wr_start`.
        let (number, qpn, works) =
            unsafe { ((*pair).device, (*pair).qpn, std::mem::take(&mut *(*pair).batch.get())) };
        let mut engine = host().engine();
        let posted = engine.device(number).nic().post_send(Instant::now(), qpn, works);
        host().posted(&mut engine);
        drop(engine);
        // SAFETY: as above.
        unsafe { (*pair).lock.unlock() };
        if posted.is_ok() { OK } else { Errno::ENOMEM as c_int }
    })
}

unsafe extern "C" fn wr_abort(qp: *mut ibv_qp_ex) {
    let pair = qp.cast::<Pair>();
    // SAFETY: a queue pair of ours, whose lock has been held since `wr_start`.
    unsafe {
        (*(*pair).batch.get()).clear();
        (*pair).lock.unlock();
    }
}

/// Begins a work request.
unsafe fn begin(qp: *mut ibv_qp_ex, operation: Operation, immediate: Option<u32>) {
    guard((), || {
        // SAFETY: a queue pair of ours, whose lock has been held since `wr_start`.
        unsafe {
            let id = (*qp).wr_id;
            (*(*qp.cast::<Pair>()).batch.get()).push(Work {
                id,
                operation,
                payload: Payload::Memory(Pieces::default()),
                immediate,
                target: None,
                qkey: 0,
                flaw: None,
            });
        }
    });
}

/// Goes on with the work request that was begun last.
unsafe fn go_on(qp: *mut ibv_qp_ex, change: impl FnOnce(&mut Work)) {
    guard((), || {
        // SAFETY: as above; a consumer sets what it has begun.
        if let Some(work) = unsafe { (*(*qp.cast::<Pair>()).batch.get()).last_mut() } {
            change(work);
        }
    });
}

unsafe extern "C" fn wr_send(qp: *mut ibv_qp_ex) {
    // SAFETY: the consumer's contract.
    unsafe { begin(qp, Operation::Send, None) }
}

unsafe extern "C" fn wr_send_imm(qp: *mut ibv_qp_ex, immediate: u32) {
    // SAFETY: the consumer's contract.
    unsafe { begin(qp, Operation::Send, Some(immediate)) }
}

unsafe extern "C" fn wr_rdma_read(qp: *mut ibv_qp_ex, remote_key: u32, address: u64) {
    // SAFETY: the consumer's contract.
    unsafe { begin(qp, Operation::Read { remote_key, address }, None) }
}

unsafe extern "C" fn wr_rdma_write(qp: *mut ibv_qp_ex, remote_key: u32, address: u64) {
    // SAFETY: the consumer's contract.
    unsafe { begin(qp, Operation::Write { remote_key, address }, None) }
}

unsafe extern "C" fn wr_rdma_write_imm(qp: *mut ibv_qp_ex, remote_key: u32, address: u64, immediate: u32) {
    // SAFETY: the consumer's contract.
    unsafe { begin(qp, Operation::Write { remote_key, address }, Some(immediate)) }
}

unsafe extern "C" fn wr_set_ud_addr(qp: *mut ibv_qp_ex, ah: *mut ibv_ah, qpn: u32, qkey: u32) {
    // SAFETY: the consumer's handle, and a queue pair of ours.
    let target = unsafe { target((*qp).qp_base.pd, ah, qpn) };
    // SAFETY: the consumer's contract.
    unsafe {
        go_on(qp, |work| {
            work.target = target;
            work.qkey = qkey;
        });
    }
}

unsafe extern "C" fn wr_set_inline_data(qp: *mut ibv_qp_ex, address: *mut c_void, length: usize) {
    let buffer = ibv_data_buf { addr: address, length };
    // SAFETY: the consumer's contract, with a list of one.
    unsafe { wr_set_inline_data_list(qp, 1, &raw const buffer) }
}

unsafe extern "C" fn wr_set_inline_data_list(qp: *mut ibv_qp_ex, count: usize, buffers: *const ibv_data_buf) {
    let limit = usize::from(host().settings.profile.limits.inline_bytes);
    let mut bytes = Vec::with_capacity(limit);
    let mut is_too_long = false;
    for place in 0..count {
        // SAFETY: the consumer's list, and its buffers.
        let buffer = unsafe { *buffers.add(place) };
        if bytes.len() + buffer.length > limit {
            is_too_long = true;
        } else if buffer.length != 0 {
            // SAFETY: as above.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(buffer.addr.cast(), buffer.length) });
        }
    }
    // SAFETY: the consumer's contract.
    unsafe {
        go_on(qp, |work| {
            work.payload = Payload::Inline(bytes);
            work.flaw = is_too_long.then_some(Status::BadLength);
        });
    }
}

unsafe extern "C" fn wr_set_sge(qp: *mut ibv_qp_ex, key: u32, address: u64, length: u32) {
    let piece = ibv_sge { addr: address, length, lkey: key };
    // SAFETY: the consumer's contract, with a list of one.
    unsafe { wr_set_sge_list(qp, 1, &raw const piece) }
}

unsafe extern "C" fn wr_set_sge_list(qp: *mut ibv_qp_ex, count: usize, pieces: *const ibv_sge) {
    // SAFETY: the consumer's list.
    let pieces = unsafe { pieces_of(pieces, count, host().settings.profile.limits.send_pieces) };
    // SAFETY: the consumer's contract.
    unsafe {
        go_on(qp, |work| match pieces {
            Some(pieces) => work.payload = Payload::Memory(pieces),
            None => work.flaw = Some(Status::BadLength),
        });
    }
}

pub(super) unsafe extern "C" fn post_recv(
    qp: *mut ibv_qp,
    first: *mut ibv_recv_wr,
    bad: *mut *mut ibv_recv_wr,
) -> c_int {
    guard(Errno::EIO as c_int, || {
        let pair = qp.cast::<Pair>();
        // SAFETY: a queue pair of ours.
        let (number, qpn) = unsafe { ((*pair).device, (*pair).qpn) };
        let limit = host().settings.profile.limits.receive_pieces;
        let (mut engine, now) = (host().engine(), Instant::now());
        let nic = engine.device(number).nic();
        let mut next = first;
        while !next.is_null() {
            // SAFETY: the caller's list of work requests, each with its list of pieces.
            let (request, pieces) =
                unsafe { (&*next, pieces_of((*next).sg_list, (*next).num_sge as usize, limit)) };
            let posted = match pieces {
                None => Err(Errno::EINVAL),
                Some(pieces) if nic.post_receive(now, qpn, Receive { id: request.wr_id, pieces }) => Ok(()),
                Some(_) => Err(Errno::ENOMEM),
            };
            if let Err(errno) = posted {
                // SAFETY: the caller's.
                unsafe { *bad = next };
                return errno as c_int;
            }
            next = request.next;
        }
        OK
    })
}

/// The older way to send, which libfabric used until 1.22 for datagrams.
pub(super) unsafe extern "C" fn post_send(
    qp: *mut ibv_qp,
    first: *mut ibv_send_wr,
    bad: *mut *mut ibv_send_wr,
) -> c_int {
    guard(Errno::EIO as c_int, || {
        let pair = qp.cast::<Pair>();
        // SAFETY: a queue pair of ours.
        let (number, qpn) = unsafe { ((*pair).device, (*pair).qpn) };
        let mut engine = host().engine();
        let mut next = first;
        while !next.is_null() {
            // SAFETY: the caller's list of work requests.
            let request = unsafe { &*next };
            // SAFETY: as above.
            let posted = match unsafe { sent((*qp).pd, request) } {
                None => Err(Errno::EINVAL),
                Some(work) => {
                    let posted = engine.device(number).nic().post_send(Instant::now(), qpn, vec![work]);
                    posted.map_err(|_| Errno::ENOMEM)
                }
            };
            if let Err(errno) = posted {
                // SAFETY: the caller's.
                unsafe { *bad = next };
                host().posted(&mut engine);
                return errno as c_int;
            }
            next = request.next;
        }
        host().posted(&mut engine);
        OK
    })
}

/// A work request of the older form; none for an operation that this form has not on EFA.
unsafe fn sent(pd: *mut ibv_pd, request: &ibv_send_wr) -> Option<Work> {
    let limits = &host().settings.profile.limits;
    let immediate = match request.opcode {
        IBV_WR_SEND => None,
        IBV_WR_SEND_WITH_IMM => Some(request.imm_data),
        _ => return None,
    };
    // SAFETY: sends of datagrams have this part of the union.
    let ud = unsafe { request.wr.ud };
    let count = request.num_sge as usize;
    let payload = if request.send_flags & IBV_SEND_INLINE as c_uint != 0 {
        let mut bytes = Vec::new();
        for place in 0..count {
            // SAFETY: the caller's list, and its buffers.
            unsafe {
                let piece = *request.sg_list.add(place);
                bytes.extend_from_slice(std::slice::from_raw_parts(
                    piece.addr as *const u8,
                    piece.length as usize,
                ));
            }
        }
        (bytes.len() <= usize::from(limits.inline_bytes)).then_some(Payload::Inline(bytes))?
    } else {
        // SAFETY: the caller's list.
        Payload::Memory(unsafe { pieces_of(request.sg_list, count, limits.send_pieces) }?)
    };
    Some(Work {
        id: request.wr_id,
        operation: Operation::Send,
        payload,
        immediate,
        // SAFETY: the caller's handle.
        target: unsafe { target(pd, ud.ah, ud.remote_qpn) },
        qkey: ud.remote_qkey,
        flaw: None,
    })
}

/// Where a handle leads; none when it is none of the queue pair's domain.
unsafe fn target(pd: *mut ibv_pd, ah: *mut ibv_ah, qpn: u32) -> Option<Endpoint> {
    // SAFETY: the caller's handle, which may be null.
    let handle = unsafe { ah.cast::<Handle>().as_ref() }.filter(|handle| handle.ah.pd == pd)?;
    Some(Endpoint { gid: handle.gid, qpn: Qpn(qpn) })
}

unsafe fn pieces_of(list: *const ibv_sge, count: usize, limit: u16) -> Option<Pieces> {
    if count > usize::from(limit) {
        return None;
    }
    // SAFETY: the caller's list.
    Pieces::new((0..count).map(|place| unsafe { *list.add(place) }).map(|piece| Piece {
        address: piece.addr,
        len_bytes: piece.length,
        key: piece.lkey,
    }))
}
