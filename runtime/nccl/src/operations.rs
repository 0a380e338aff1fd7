//! Collectives, messages, and operations of the caller's.
//!
//! # Safety
//!
//! As in `init`; buffers and streams are CUDA's, and are looked at by the device only.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use efarun_rt::cuda::DevicePointer;
use efarun_rt::nvlink::{DeviceCall, DeviceCollective, DeviceElement, DeviceMessage, DeviceOp, Factor};
use efarun_rt::{Rank, ReduceOp};

use crate::abi::{self, BUILT_IN_OPS, CommHandle, SCALAR_ON_DEVICE, SCALAR_ON_HOST, StreamHandle};
use crate::comm::{Comm, PreMulSum};
use crate::export::export;
use crate::group::{self, Job};
use crate::init::put;
use crate::outcome::Failure;

export! {
    /// Reduces all ranks' vectors, into each rank's.
    fn ncclAllReduce, pncclAllReduce(
        input: *const c_void, output: *mut c_void, count: usize, element: c_int, op: c_int, comm: CommHandle,
        stream: StreamHandle,
    ) {
        let (collective, buffers) = (DeviceCollective::AllReduce, (input, output));
        group::submit(call(collective, buffers, count, element, Some(op), comm, stream))
    }

    /// Reduces all ranks' vectors, into the root's.
    fn ncclReduce, pncclReduce(
        input: *const c_void, output: *mut c_void, count: usize, element: c_int, op: c_int, root: c_int,
        comm: CommHandle, stream: StreamHandle,
    ) {
        group::submit(rank(root).and_then(|root| {
            call(DeviceCollective::Reduce { root }, (input, output), count, element, Some(op), comm, stream)
        }))
    }

    /// Copies the root's vector to all ranks.
    fn ncclBroadcast, pncclBroadcast(
        input: *const c_void, output: *mut c_void, count: usize, element: c_int, root: c_int, comm: CommHandle,
        stream: StreamHandle,
    ) {
        group::submit(rank(root).and_then(|root| {
            call(DeviceCollective::Broadcast { root }, (input, output), count, element, None, comm, stream)
        }))
    }

    /// Copies the root's vector to all ranks, in place.
    fn ncclBcast, pncclBcast(
        buffer: *mut c_void, count: usize, element: c_int, root: c_int, comm: CommHandle, stream: StreamHandle,
    ) {
        group::submit(rank(root).and_then(|root| {
            let collective = DeviceCollective::Broadcast { root };
            call(collective, (buffer.cast_const(), buffer), count, element, None, comm, stream)
        }))
    }

    /// Collects all ranks' blocks at every rank.
    fn ncclAllGather, pncclAllGather(
        input: *const c_void, output: *mut c_void, count: usize, element: c_int, comm: CommHandle,
        stream: StreamHandle,
    ) {
        group::submit(call(DeviceCollective::AllGather, (input, output), count, element, None, comm, stream))
    }

    /// Reduces all ranks' vectors, and leaves each rank its own block of the result.
    fn ncclReduceScatter, pncclReduceScatter(
        input: *const c_void, output: *mut c_void, count: usize, element: c_int, op: c_int, comm: CommHandle,
        stream: StreamHandle,
    ) {
        let (collective, buffers) = (DeviceCollective::ReduceScatter, (input, output));
        group::submit(call(collective, buffers, count, element, Some(op), comm, stream))
    }

    /// Gives every rank a block of each rank's.
    fn ncclAlltoAll, pncclAlltoAll(
        input: *const c_void, output: *mut c_void, count: usize, element: c_int, comm: CommHandle,
        stream: StreamHandle,
    ) {
        group::submit(call(DeviceCollective::AllToAll, (input, output), count, element, None, comm, stream))
    }

    /// Collects all ranks' blocks at the root.
    fn ncclGather, pncclGather(
        input: *const c_void, output: *mut c_void, count: usize, element: c_int, root: c_int, comm: CommHandle,
        stream: StreamHandle,
    ) {
        group::submit(rank(root).and_then(|root| {
            call(DeviceCollective::Gather { root }, (input, output), count, element, None, comm, stream)
        }))
    }

    /// Gives every rank a block of the root's.
    fn ncclScatter, pncclScatter(
        input: *const c_void, output: *mut c_void, count: usize, element: c_int, root: c_int, comm: CommHandle,
        stream: StreamHandle,
    ) {
        group::submit(rank(root).and_then(|root| {
            call(DeviceCollective::Scatter { root }, (input, output), count, element, None, comm, stream)
        }))
    }

    /// Sends to a rank.
    fn ncclSend, pncclSend(
        data: *const c_void, count: usize, element: c_int, peer: c_int, comm: CommHandle, stream: StreamHandle,
    ) {
        group::submit(message(true, data, count, element, peer, comm, stream))
    }

    /// Receives from a rank.
    fn ncclRecv, pncclRecv(
        data: *mut c_void, count: usize, element: c_int, peer: c_int, comm: CommHandle, stream: StreamHandle,
    ) {
        group::submit(message(false, data.cast_const(), count, element, peer, comm, stream))
    }

    /// Makes an operation that multiplies a rank's input by a scalar of its own, and sums the products.
    fn ncclRedOpCreatePreMulSum, pncclRedOpCreatePreMulSum(
        op: *mut c_int, scalar: *mut c_void, element: c_int, residence: c_int, comm: CommHandle,
    ) {
        let (comm, element) = (Comm::of(comm)?, abi::element(element)?);
        if scalar.is_null() {
            return Err(Failure::argument("the scalar is null"));
        }
        let factor = match residence {
            SCALAR_ON_DEVICE => Factor::At(pointer(scalar)),
            SCALAR_ON_HOST => {
                let mut bytes = [0; 8];
                // SAFETY: the caller's scalar has an element's bytes.
                unsafe { scalar.cast::<u8>().copy_to(bytes.as_mut_ptr(), element.size_bytes()) };
                Factor::Bytes(u64::from_le_bytes(bytes))
            }
            _ => return Err(Failure::argument(format!("{residence} is no ncclScalarResidence_t"))),
        };
        let mut ops = comm.ops();
        let place = ops.iter().position(Option::is_none).unwrap_or_else(|| {
            ops.push(None);
            ops.len() - 1
        });
        ops[place] = Some(PreMulSum { element, factor });
        // SAFETY: the caller's pointer.
        unsafe { put(op, BUILT_IN_OPS + place as c_int, "op") }
    }

    /// Forgets an operation. What was called with it keeps it.
    fn ncclRedOpDestroy, pncclRedOpDestroy(op: c_int, comm: CommHandle) {
        let comm = Comm::of(comm)?;
        let place = usize::try_from(op - BUILT_IN_OPS).ok();
        match place.and_then(|place| comm.ops().get_mut(place).and_then(Option::take)) {
            Some(_) => Ok(()),
            None => Err(Failure::argument(format!("{op} is no operation that was made for this communicator"))),
        }
    }
}

/// A collective, checked as far as it can be without the device.
fn call(
    collective: DeviceCollective,
    (input, output): (*const c_void, *mut c_void),
    count: usize,
    element: c_int,
    op: Option<c_int>,
    comm: CommHandle,
    stream: StreamHandle,
) -> Result<Job, Failure> {
    let (comm, element) = (Comm::of(comm)?, abi::element(element)?);
    let operation = collective.name();
    if let Some(root) = collective.root().filter(|root| root.0 >= comm.ranks) {
        return Err(Failure::argument(format!(
            "{operation}: there is no root {root} among {} ranks",
            comm.ranks
        )));
    }
    let op = op.map_or(Ok(DeviceOp::Of(ReduceOp::Sum)), |op| operator(&comm, op, element))?;
    let is_root = collective.root().is_none_or(|root| root.0 == comm.rank);
    let (gives, gets) = match collective {
        DeviceCollective::Reduce { .. } | DeviceCollective::Gather { .. } => (true, is_root),
        DeviceCollective::Broadcast { .. } | DeviceCollective::Scatter { .. } => (is_root, true),
        _ => (true, true),
    };
    let bytes = count.checked_mul(element.size_bytes()).and_then(|it| it.checked_mul(comm.ranks as usize));
    if bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(Failure::argument(format!("{operation}: {count} elements are more than memory has")));
    }
    for (is_used, is_null, name) in
        [(gives, input.is_null(), "sendbuff"), (gets, output.is_null(), "recvbuff")]
    {
        if count > 0 && is_used && is_null {
            return Err(Failure::argument(format!("{operation}: {name} is null")));
        }
    }
    let (input, output) = (pointer(input), pointer(output));
    Ok(Job::Call { comm, stream, call: DeviceCall { collective, element, op, count, input, output } })
}

fn operator(comm: &Arc<Comm>, op: c_int, element: DeviceElement) -> Result<DeviceOp, Failure> {
    if let Some(op) = abi::built_in_op(op) {
        return Ok(DeviceOp::Of(op));
    }
    let place = usize::try_from(op - BUILT_IN_OPS).ok();
    let made = place.and_then(|place| comm.ops().get(place).copied().flatten());
    match made {
        Some(PreMulSum { element: of, factor }) if of == element => Ok(DeviceOp::PreMulSum(factor)),
        Some(_) => {
            Err(Failure::argument(format!("the operation {op} was made for elements of another type")))
        }
        None => Err(Failure::argument(format!("{op} is no ncclRedOp_t of this communicator"))),
    }
}

fn message(
    is_sent: bool,
    data: *const c_void,
    count: usize,
    element: c_int,
    peer: c_int,
    comm: CommHandle,
    stream: StreamHandle,
) -> Result<Job, Failure> {
    let (comm, element, peer) = (Comm::of(comm)?, abi::element(element)?, rank(peer)?);
    let operation = if is_sent { "send" } else { "recv" };
    if peer.0 >= comm.ranks {
        return Err(Failure::argument(format!("{operation}: there is no rank {peer} among {}", comm.ranks)));
    }
    let Some(bytes) = count.checked_mul(element.size_bytes()).filter(|&bytes| isize::try_from(bytes).is_ok())
    else {
        return Err(Failure::argument(format!("{operation}: {count} elements are more than memory has")));
    };
    if count > 0 && data.is_null() {
        return Err(Failure::argument(format!("{operation}: the buffer is null")));
    }
    let message = DeviceMessage { peer, data: pointer(data), bytes };
    Ok(Job::Message { comm, stream, is_sent, message })
}

fn rank(number: c_int) -> Result<Rank, Failure> {
    u32::try_from(number).map(Rank).map_err(|_| Failure::argument(format!("{number} is no rank")))
}

fn pointer(address: *const c_void) -> DevicePointer {
    DevicePointer(address.addr() as u64)
}
