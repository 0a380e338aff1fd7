//! NCCL's types as C has them, and what their values mean.

use std::ffi::{c_char, c_int, c_uint, c_void};

use efarun_rt::nvlink::DeviceElement;
use efarun_rt::{ElementType, ReduceOp};

use crate::outcome::Failure;

/// `ncclResult_t`.
pub(crate) type Code = c_int;
/// `ncclComm_t`: a number of ours, which nobody looks behind.
pub(crate) type CommHandle = *mut c_void;
/// `ncclWindow_t`, likewise.
pub(crate) type WindowHandle = *mut c_void;
/// `cudaStream_t`.
pub(crate) type StreamHandle = *mut c_void;

/// What `ncclGetVersion` says: the interface that is offered is that of NCCL 2.28.9.
pub(crate) const VERSION: c_int = 22809;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct UniqueId {
    pub(crate) internal: [u8; 128],
}

/// `ncclSimInfo_t`.
#[repr(C)]
pub(crate) struct SimInfo {
    pub(crate) size: usize,
    pub(crate) magic: c_uint,
    pub(crate) version: c_uint,
    pub(crate) estimated_time: f32,
}

/// `ncclTeam_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Team {
    pub(crate) ranks: c_int,
    pub(crate) rank: c_int,
    pub(crate) stride: c_int,
}

/// `NCCL_SPLIT_NOCOLOR`.
pub(crate) const NO_COLOR: c_int = -1;
/// `NCCL_WIN_COLL_SYMMETRIC`.
pub(crate) const WINDOW_SYMMETRIC: c_int = 1;
/// `ncclNumOps`: from here on operations are made by `ncclRedOpCreatePreMulSum`.
pub(crate) const BUILT_IN_OPS: c_int = 5;
/// `ncclScalarDevice` and `ncclScalarHostImmediate`.
pub(crate) const SCALAR_ON_DEVICE: c_int = 0;
pub(crate) const SCALAR_ON_HOST: c_int = 1;

/// The element type of an `ncclDataType_t`.
pub(crate) fn element(code: c_int) -> Result<DeviceElement, Failure> {
    Ok(match code {
        0 => ElementType::I8.into(),
        1 => ElementType::U8.into(),
        2 => ElementType::I32.into(),
        3 => ElementType::U32.into(),
        4 => ElementType::I64.into(),
        5 => ElementType::U64.into(),
        6 => ElementType::F16.into(),
        7 => ElementType::F32.into(),
        8 => ElementType::F64.into(),
        9 => ElementType::Bf16.into(),
        10 => DeviceElement::F8E4M3,
        11 => DeviceElement::F8E5M2,
        _ => return Err(Failure::argument(format!("{code} is no ncclDataType_t: they go from 0 to 11"))),
    })
}

/// The operation of a built-in `ncclRedOp_t`.
pub(crate) fn built_in_op(code: c_int) -> Option<ReduceOp> {
    Some(match code {
        0 => ReduceOp::Sum,
        1 => ReduceOp::Prod,
        2 => ReduceOp::Max,
        3 => ReduceOp::Min,
        4 => ReduceOp::Avg,
        _ => return None,
    })
}

/// A C string that stays.
pub(crate) type StaticText = *const c_char;
