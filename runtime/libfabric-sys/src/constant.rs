//! Numbers of the C headers.

use std::ffi::{c_int, c_uint};

pub type fi_addr_t = u64;

// Capabilities, operation flags, CQ entry flags.
pub const FI_MSG: u64 = 1 << 1;
pub const FI_RMA: u64 = 1 << 2;
pub const FI_TAGGED: u64 = 1 << 3;
pub const FI_READ: u64 = 1 << 8;
pub const FI_WRITE: u64 = 1 << 9;
pub const FI_RECV: u64 = 1 << 10;
pub const FI_SEND: u64 = 1 << 11;
pub const FI_TRANSMIT: u64 = FI_SEND;
pub const FI_REMOTE_READ: u64 = 1 << 12;
pub const FI_REMOTE_WRITE: u64 = 1 << 13;
pub const FI_MULTI_RECV: u64 = 1 << 16;
pub const FI_REMOTE_CQ_DATA: u64 = 1 << 17;
pub const FI_COMPLETION: u64 = 1 << 24;
pub const FI_INJECT: u64 = 1 << 25;
pub const FI_INJECT_COMPLETE: u64 = 1 << 26;
pub const FI_TRANSMIT_COMPLETE: u64 = 1 << 27;
pub const FI_DELIVERY_COMPLETE: u64 = 1 << 28;
/// Registers a dmabuf: a flag of `fi_mr_regattr` since 1.20.
pub const FI_MR_DMABUF: u64 = 1 << 40;
pub const FI_HMEM: u64 = 1 << 47;
pub const FI_LOCAL_COMM: u64 = 1 << 51;
pub const FI_REMOTE_COMM: u64 = 1 << 52;
pub const FI_NUMERICHOST: u64 = 1 << 55;
pub const FI_SOURCE: u64 = 1 << 57;

// Modes.
pub const FI_CONTEXT: u64 = 1 << 59;
pub const FI_CONTEXT2: u64 = 1 << 52;
pub const FI_RX_CQ_DATA: u64 = 1 << 56;

// Memory registration modes.
pub const FI_MR_LOCAL: c_int = 1 << 2;
pub const FI_MR_VIRT_ADDR: c_int = 1 << 4;
pub const FI_MR_ALLOCATED: c_int = 1 << 5;
pub const FI_MR_PROV_KEY: c_int = 1 << 6;
pub const FI_MR_ENDPOINT: c_int = 1 << 9;
pub const FI_MR_HMEM: c_int = 1 << 10;

// Addresses.
pub const FI_ADDR_UNSPEC: fi_addr_t = u64::MAX;
pub const FI_FORMAT_UNSPEC: u32 = 0;
pub const FI_SOCKADDR_IN: u32 = 2;
pub const FI_SOCKADDR_IN6: u32 = 3;
pub const FI_ADDR_EFA: u32 = 12;

// enum fi_av_type
pub const FI_AV_UNSPEC: c_uint = 0;
pub const FI_AV_TABLE: c_uint = 2;

// enum fi_ep_type
pub const FI_EP_RDM: c_uint = 3;

// enum fi_progress
pub const FI_PROGRESS_UNSPEC: c_uint = 0;
pub const FI_PROGRESS_AUTO: c_uint = 1;
pub const FI_PROGRESS_MANUAL: c_uint = 2;

// enum fi_threading
pub const FI_THREAD_UNSPEC: c_uint = 0;
pub const FI_THREAD_SAFE: c_uint = 1;
pub const FI_THREAD_DOMAIN: c_uint = 3;

// enum fi_resource_mgmt
pub const FI_RM_ENABLED: c_uint = 2;

// enum fi_wait_obj
pub const FI_WAIT_NONE: c_uint = 0;
pub const FI_WAIT_UNSPEC: c_uint = 1;
pub const FI_WAIT_FD: c_uint = 3;

// enum fi_cq_format
pub const FI_CQ_FORMAT_DATA: c_uint = 3;
pub const FI_CQ_FORMAT_TAGGED: c_uint = 4;

// enum fi_hmem_iface
pub const FI_HMEM_SYSTEM: c_uint = 0;
pub const FI_HMEM_CUDA: c_uint = 1;

// Commands of fi_control.
pub const FI_GETWAIT: c_int = 5;
pub const FI_ENABLE: c_int = 6;

// Levels and names of fi_getopt.
pub const FI_OPT_ENDPOINT: c_int = 0;
pub const FI_OPT_MIN_MULTI_RECV: c_int = 0;
pub const FI_OPT_FI_HMEM_P2P: c_int = 8;
/// A `bool`, since 1.18.
pub const FI_OPT_CUDA_API_PERMITTED: c_int = 10;
/// A `bool`, since 1.20.
pub const FI_OPT_SHARED_MEMORY_PERMITTED: c_int = 11;
/// Of the EFA provider, since 2.0: how often the device retries for a receiver that is not ready, as a `size_t`.
pub const FI_OPT_EFA_RNR_RETRY: c_int = -(0xefa << 16);
/// Of the EFA provider: whether it reads others' memory by messages of its own instead of by the device, as a `bool`.
pub const FI_OPT_EFA_EMULATED_READ: c_int = FI_OPT_EFA_RNR_RETRY + 1;

// enum fi_type, for fi_tostr.
pub const FI_TYPE_INFO: c_uint = 0;
pub const FI_TYPE_CAPS: c_uint = 2;
pub const FI_TYPE_PROTOCOL: c_uint = 12;

// Codes, positive; calls return them negated. Below 256 they are errno's.
pub const FI_EINTR: c_int = libc::EINTR;
pub const FI_EAGAIN: c_int = libc::EAGAIN;
pub const FI_ENOMEM: c_int = libc::ENOMEM;
pub const FI_EINVAL: c_int = libc::EINVAL;
pub const FI_ENOSYS: c_int = libc::ENOSYS;
pub const FI_ENODATA: c_int = libc::ENODATA;
pub const FI_ENOPROTOOPT: c_int = libc::ENOPROTOOPT;
pub const FI_EOPNOTSUPP: c_int = libc::EOPNOTSUPP;
pub const FI_ECANCELED: c_int = libc::ECANCELED;
pub const FI_EOTHER: c_int = 256;
pub const FI_ETOOSMALL: c_int = 257;
pub const FI_EAVAIL: c_int = 259;
pub const FI_ETRUNC: c_int = 265;
