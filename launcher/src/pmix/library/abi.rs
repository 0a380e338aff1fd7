//! The part of libpmix's binary interface that is used here: the same in its releases 3 to 6.
//!
//! Only layouts, numbers and types of functions; nothing is called. A server's table of functions has grown with the
//! releases (28 entries in 4 and 5): ours is longer and zero where it has nothing, which every release takes for "not
//! served".

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// A process: a name space and a rank in it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Proc {
    pub(super) nspace: [c_char; NSPACE_BYTES],
    pub(super) rank: u32,
}

/// A value of one of many types.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Value {
    pub(super) kind: u16,
    pub(super) data: Data,
}

/// What a [`Value`] holds, by its kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union Data {
    pub(super) text: *mut c_char,
    pub(super) bytes: Bytes,
    pub(super) array: *mut Array,
    pub(super) flag: bool,
    pub(super) short: u16,
    pub(super) number: u32,
    pub(super) word: u64,
    pub(super) whole: [u64; 3],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    pub(super) start: *mut c_char,
    pub(super) len: usize,
}

#[repr(C)]
pub(super) struct Array {
    pub(super) kind: u16,
    pub(super) len: usize,
    pub(super) start: *mut c_void,
}

/// A value with a key.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Info {
    pub(super) key: [c_char; KEY_BYTES],
    pub(super) flags: u32,
    pub(super) value: Value,
}

/// What a process has published.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Published {
    pub(super) proc: Proc,
    pub(super) key: [c_char; KEY_BYTES],
    pub(super) value: Value,
}

/// A program that is to be started.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct App {
    pub(super) command: *mut c_char,
    /// With the program itself in front, and null at the end.
    pub(super) args: *const *const c_char,
    pub(super) env: *const *const c_char,
    pub(super) wdir: *mut c_char,
    pub(super) count: c_int,
    pub(super) infos: *mut Info,
    pub(super) info_count: usize,
}

/// Bytes that values are written to, one behind the other, or read from.
#[repr(C)]
pub(super) struct DataBuffer {
    pub(super) base: *mut c_char,
    pub(super) pack: *mut c_char,
    pub(super) unpack: *mut c_char,
    pub(super) allocated: usize,
    pub(super) used: usize,
}

impl DataBuffer {
    pub(super) const EMPTY: DataBuffer = DataBuffer {
        base: ptr::null_mut(),
        pack: ptr::null_mut(),
        unpack: ptr::null_mut(),
        allocated: 0,
        used: 0,
    };
}

/// Keys that a process asks for together.
#[repr(C)]
pub(super) struct Query {
    pub(super) keys: *const *const c_char,
    pub(super) qualifiers: *mut Info,
    pub(super) qualifier_count: usize,
}

pub(super) type Status = c_int;
pub(super) type OpDone = unsafe extern "C" fn(Status, *mut c_void);
pub(super) type Release = unsafe extern "C" fn(*mut c_void);
/// Status, bytes, their number, the caller's own, and what gives the bytes back.
pub(super) type ModexDone =
    unsafe extern "C" fn(Status, *const c_char, usize, *mut c_void, Option<Release>, *mut c_void);
pub(super) type LookupDone = unsafe extern "C" fn(Status, *mut Published, usize, *mut c_void);
/// Status, the name space, and the caller's own.
pub(super) type SpawnDone = unsafe extern "C" fn(Status, *const c_char, *mut c_void);
/// Status, infos, their number, the caller's own, and what gives the infos back.
pub(super) type InfoDone =
    unsafe extern "C" fn(Status, *mut Info, usize, *mut c_void, Option<Release>, *mut c_void);
pub(super) type OwnModexDone = unsafe extern "C" fn(Status, *mut c_char, usize, *mut c_void);

pub(super) type ServerInit = unsafe extern "C" fn(*mut ServerModule, *mut Info, usize) -> Status;
pub(super) type RegisterNspace =
    unsafe extern "C" fn(*const c_char, c_int, *mut Info, usize, Option<OpDone>, *mut c_void) -> Status;
pub(super) type RegisterClient =
    unsafe extern "C" fn(*const Proc, u32, u32, *mut c_void, Option<OpDone>, *mut c_void) -> Status;
pub(super) type DeregisterNspace = unsafe extern "C" fn(*const c_char, Option<OpDone>, *mut c_void);
pub(super) type DeregisterClient = unsafe extern "C" fn(*const Proc, Option<OpDone>, *mut c_void);
pub(super) type SetupFork = unsafe extern "C" fn(*const Proc, *mut *mut *mut c_char) -> Status;
pub(super) type RequestModex = unsafe extern "C" fn(*const Proc, OwnModexDone, *mut c_void) -> Status;
pub(super) type Generate = unsafe extern "C" fn(*const c_char, *mut *mut c_char) -> Status;
/// Status, who tells it, how far it goes, infos, their number, and what is called in the end.
pub(super) type NotifyEvent =
    unsafe extern "C" fn(Status, *const Proc, u8, *mut Info, usize, Option<OpDone>, *mut c_void) -> Status;
pub(super) type Pack = unsafe extern "C" fn(*const Proc, *mut DataBuffer, *mut c_void, i32, u16) -> Status;
pub(super) type Unpack =
    unsafe extern "C" fn(*const Proc, *mut DataBuffer, *mut c_void, *mut i32, u16) -> Status;
pub(super) type FreeInfo = unsafe extern "C" fn(*mut Info);
pub(super) type Version = unsafe extern "C" fn() -> *const c_char;

/// The functions by which libpmix calls its server, by the places of the interface.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ServerModule {
    pub(super) client_connected: *const c_void,
    pub(super) client_finalized: *const c_void,
    pub(super) abort: *const c_void,
    pub(super) fence: *const c_void,
    pub(super) direct_modex: *const c_void,
    pub(super) publish: *const c_void,
    pub(super) lookup: *const c_void,
    pub(super) unpublish: *const c_void,
    pub(super) spawn: *const c_void,
    pub(super) connect: *const c_void,
    pub(super) disconnect: *const c_void,
    pub(super) register_events: *const c_void,
    pub(super) deregister_events: *const c_void,
    /// libpmix listens by itself.
    pub(super) listener: *const c_void,
    pub(super) notify_event: *const c_void,
    pub(super) query: *const c_void,
    /// Tools, logs: libpmix answers by itself where there is nothing.
    pub(super) unserved: [*const c_void; 2],
    pub(super) allocate: *const c_void,
    pub(super) job_control: *const c_void,
    pub(super) monitor: *const c_void,
    pub(super) get_credential: *const c_void,
    pub(super) validate_credential: *const c_void,
    /// Output and input of tools.
    pub(super) more_unserved: [*const c_void; 2],
    pub(super) group: *const c_void,
    pub(super) fabric: *const c_void,
    /// Takes the place of the first one from release 4 on.
    pub(super) client_connected_2: *const c_void,
    pub(super) later: [*const c_void; 36],
}

const _: () = {
    assert!(size_of::<Proc>() == 260 && size_of::<Value>() == 32 && size_of::<Info>() == 552);
    assert!(std::mem::offset_of!(Info, value) == 520 && size_of::<Array>() == 24);
    assert!(std::mem::offset_of!(Published, value) == 776 && size_of::<Published>() == 808);
    assert!(std::mem::offset_of!(ServerModule, group) == 25 * size_of::<usize>());
    assert!(std::mem::offset_of!(ServerModule, client_connected_2) == 27 * size_of::<usize>());
    assert!(std::mem::offset_of!(ServerModule, query) == 15 * size_of::<usize>());
    assert!(size_of::<DataBuffer>() == 40 && size_of::<Query>() == 24);
    assert!(size_of::<App>() == 56 && std::mem::offset_of!(App, infos) == 40);
    assert!(size_of::<ServerModule>() == 64 * size_of::<usize>());
};

pub(super) const NSPACE_BYTES: usize = 256;
pub(super) const KEY_BYTES: usize = 512;

pub(super) const BOOL: u16 = 1;
pub(super) const STRING: u16 = 3;
pub(super) const SIZE: u16 = 4;
pub(super) const UINT16: u16 = 13;
pub(super) const UINT32: u16 = 14;
pub(super) const STATUS: u16 = 20;
pub(super) const PROC: u16 = 22;
pub(super) const INFO: u16 = 24;
pub(super) const BYTE_OBJECT: u16 = 27;
pub(super) const DATA_ARRAY: u16 = 39;
pub(super) const PROC_RANK: u16 = 40;
/// Numbers that lie in a value itself, but for [`STATUS`] and [`PROC_RANK`].
pub(super) const PLAIN: std::ops::RangeInclusive<u16> = 4..=17;

pub(super) const SUCCESS: Status = 0;
pub(super) const ERROR: Status = -1;
pub(super) const NOT_FOUND: Status = -46;
pub(super) const OUT_OF_RESOURCE: Status = -29;
pub(super) const NOT_SUPPORTED: Status = -47;
/// Done before the call returned: there will be no answer by a function.
pub(super) const OPERATION_SUCCEEDED: Status = -157;

/// Some of what was asked for was found.
pub(super) const PARTIAL_SUCCESS: Status = -52;

/// How far an event goes: to nobody but the host's own.
pub(super) const RANGE_RM: u8 = 1;
/// What is to be done to a group.
pub(super) const GROUP_CONSTRUCT: c_int = 0;
pub(super) const GROUP_DESTRUCT: c_int = 1;

/// All ranks of a name space.
pub(super) const RANK_WILDCARD: u32 = u32::MAX - 1;
