//! CUDA memory, as the devices of this process reach it: through the driver that the program has loaded.
//!
//! Given: addresses. Answers: whether they are device memory, and copies of what is in it. A card reaches device memory
//! by itself; here the process that owns it copies, as no other process can. The library is never loaded for it:
//! a process without `libcuda.so.1` has no such memory.
//!
//! # What a card does not do, and so must not be noticed
//!
//! - It waits for no kernel. Copies go through streams of our own that do not wait for the default stream, so that they
//!   arrive while a kernel spins until they do.
//! - It has no current context. Each copy brings the context of its memory along and takes it away again.
//! - It takes no part in a capture of a graph. Calls here are made as by a thread that has nothing to do with one.
//!
//! What cannot be hidden: a program that holds the driver's lock while it waits for a message waits for ever, as
//! `cuMemFree` does while a kernel spins.
//!
//! Memory that was freed is found out before each copy, by asking for its context; a card's mapping would be gone.
//!
//! # Safety
//!
//! Functions have the types that `cuda.h` gives them, and are found under the names of the versions that these types are
//! of. The library stays loaded: the handle that finds it is never closed. Addresses are only handed to the driver,
//! which checks them; the bytes on this side are slices.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::nic::Gone;

/// The driver of this process.
#[derive(Debug)]
pub(super) struct Cuda {
    calls: Calls,
    state: Mutex<State>,
}

/// The functions of the driver that are used.
#[derive(Clone, Copy, Debug)]
struct Calls {
    pointer_get_attribute: unsafe extern "C" fn(*mut c_void, c_int, u64) -> c_int,
    primary_ctx_retain: unsafe extern "C" fn(*mut Context, c_int) -> c_int,
    ctx_push_current: unsafe extern "C" fn(Context) -> c_int,
    ctx_pop_current: unsafe extern "C" fn(*mut Context) -> c_int,
    exchange_capture_mode: unsafe extern "C" fn(*mut c_int) -> c_int,
    stream_create: unsafe extern "C" fn(*mut Stream, c_uint) -> c_int,
    stream_synchronize: unsafe extern "C" fn(Stream) -> c_int,
    copy_to_host: unsafe extern "C" fn(*mut c_void, u64, usize, Stream) -> c_int,
    copy_to_device: unsafe extern "C" fn(u64, *const c_void, usize, Stream) -> c_int,
}

/// `CUcontext`; as a number, because nothing here looks behind it.
type Context = usize;
/// `CUstream`.
type Stream = usize;

/// What is kept between copies.
#[derive(Debug, Default)]
struct State {
    /// A stream of ours in every context that was copied in.
    streams: HashMap<Context, Stream>,
    /// Contexts of devices, for memory that is of no context: that of pools.
    primary: HashMap<c_int, Context>,
}

/// What an address is to CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Memory of a device, all of it.
    Device,
    /// Memory of a device, which ends before the region does.
    TooShort,
    /// Memory that the processor reaches, too.
    Host,
}

impl Cuda {
    /// The driver, if the program has loaded it.
    pub(super) fn of_process() -> Option<&'static Cuda> {
        static CUDA: OnceLock<Cuda> = OnceLock::new();
        if let Some(cuda) = CUDA.get() {
            return Some(cuda);
        }
        // SAFETY: only looks for a library that is there.
        let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NOW) };
        if library.is_null() {
            return None;
        }
        // SAFETY: the library was found, and is never closed.
        let calls = unsafe { Calls::of(library) }?;
        Some(CUDA.get_or_init(|| Cuda { calls, state: Mutex::default() }))
    }

    /// What memory this is.
    pub(super) fn place(&self, address: u64, len_bytes: u64) -> Place {
        let is_device = self.number::<c_uint>(MEMORY_TYPE, address) == Some(MEMORY_TYPE_DEVICE)
            // Managed memory has pages that the processor reaches, and a card takes those.
            && self.number::<c_uint>(IS_MANAGED, address).unwrap_or(0) == 0;
        if !is_device {
            return Place::Host;
        }
        // Memory may be made of several allocations side by side.
        let end = address.saturating_add(len_bytes);
        let mut reached = address;
        while reached < end {
            let next = self
                .number::<u64>(RANGE_START, reached)
                .zip(self.number::<u64>(RANGE_SIZE, reached))
                .map(|(start, size)| start.saturating_add(size))
                .filter(|next| *next > reached);
            let Some(next) = next else { return Place::TooShort };
            reached = next;
        }
        Place::Device
    }

    /// Copies from device memory.
    ///
    /// # Errors
    ///
    /// [`Gone`] when the driver does not know the memory any more.
    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Gone> {
        self.copy(address, |stream| {
            // SAFETY: as many bytes as the slice has; the driver checks the address.
            unsafe { (self.calls.copy_to_host)(into.as_mut_ptr().cast(), address, into.len(), stream) }
        })
    }

    /// Copies into device memory.
    ///
    /// # Errors
    ///
    /// As for [`Cuda::read`].
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Gone> {
        self.copy(address, |stream| {
            // SAFETY: as many bytes as the slice has; the driver checks the address.
            unsafe { (self.calls.copy_to_device)(address, bytes.as_ptr().cast(), bytes.len(), stream) }
        })
    }

    fn copy(&self, address: u64, mut copy: impl FnMut(Stream) -> c_int) -> Result<(), Gone> {
        let _uncaptured = Uncaptured::new(&self.calls);
        let mut state = self.state.lock();
        let context = self.context(&mut state, address)?;
        let _current = Current::new(&self.calls, context)?;
        // A context that was destroyed and made again at the same place has taken our stream along.
        for _ in 0..2 {
            let stream = match state.streams.get(&context) {
                Some(stream) => *stream,
                None => *state.streams.entry(context).or_insert(self.stream()?),
            };
            // SAFETY: a stream of the current context.
            if copy(stream) == SUCCESS && unsafe { (self.calls.stream_synchronize)(stream) } == SUCCESS {
                return Ok(());
            }
            state.streams.remove(&context);
        }
        Err(Gone)
    }

    fn context(&self, state: &mut State, address: u64) -> Result<Context, Gone> {
        // Asked each time: the only thing that is kept of memory is its address.
        let own = self.number::<Context>(CONTEXT, address).ok_or(Gone)?;
        if own != 0 {
            return Ok(own);
        }
        let device = self.number::<c_int>(DEVICE_ORDINAL, address).ok_or(Gone)?;
        if let Some(context) = state.primary.get(&device) {
            return Ok(*context);
        }
        let mut context = 0;
        // SAFETY: a place for a context. It is kept for the life of the process.
        match unsafe { (self.calls.primary_ctx_retain)(&raw mut context, device) } {
            SUCCESS => Ok(*state.primary.entry(device).or_insert(context)),
            _ => Err(Gone),
        }
    }

    fn stream(&self) -> Result<Stream, Gone> {
        let mut stream = 0;
        // SAFETY: a place for a stream.
        match unsafe { (self.calls.stream_create)(&raw mut stream, NON_BLOCKING) } {
            SUCCESS => Ok(stream),
            _ => Err(Gone),
        }
    }

    /// An attribute of an address, which is as long as its type; none when the driver does not know the address.
    fn number<T: Copy + Default>(&self, attribute: c_int, address: u64) -> Option<T> {
        let mut value = Value { bytes: [0; 8] };
        // SAFETY: no attribute that is asked for is longer than 8 bytes.
        let code = unsafe { (self.calls.pointer_get_attribute)((&raw mut value).cast(), attribute, address) };
        const { assert!(size_of::<T>() <= 8 && align_of::<T>() <= 8) };
        // SAFETY: integers only, no longer than what was written.
        (code == SUCCESS).then(|| unsafe { ptr::from_ref(&value).cast::<T>().read() })
    }
}

/// Room for an attribute, aligned for any.
#[repr(C, align(8))]
struct Value {
    bytes: [u8; 8],
}

impl Calls {
    /// The functions of a library; none when it lacks one.
    ///
    /// # Safety
    ///
    /// The library is NVIDIA's driver, or has functions of the same types, and stays loaded.
    unsafe fn of(library: *mut c_void) -> Option<Calls> {
        // SAFETY: the caller's contract.
        unsafe {
            Some(Calls {
                pointer_get_attribute: find(library, c"cuPointerGetAttribute")?,
                primary_ctx_retain: find(library, c"cuDevicePrimaryCtxRetain")?,
                ctx_push_current: find(library, c"cuCtxPushCurrent_v2")?,
                ctx_pop_current: find(library, c"cuCtxPopCurrent_v2")?,
                exchange_capture_mode: find(library, c"cuThreadExchangeStreamCaptureMode")?,
                stream_create: find(library, c"cuStreamCreate")?,
                stream_synchronize: find(library, c"cuStreamSynchronize")?,
                copy_to_host: find(library, c"cuMemcpyDtoHAsync_v2")?,
                copy_to_device: find(library, c"cuMemcpyHtoDAsync_v2")?,
            })
        }
    }
}

/// A function of a library, of the type that the caller says it has.
unsafe fn find<F: Copy>(library: *mut c_void, name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the caller's library.
    let function = unsafe { libc::dlsym(library, name.as_ptr()) };
    // SAFETY: a function's address, which is as long as a pointer to it.
    (!function.is_null()).then(|| unsafe { std::mem::transmute_copy(&function) })
}

/// While it lives, this thread's calls do not break another's capture of a graph.
struct Uncaptured<'a> {
    calls: &'a Calls,
    before: c_int,
}

impl<'a> Uncaptured<'a> {
    fn new(calls: &'a Calls) -> Uncaptured<'a> {
        let mut mode = CAPTURE_RELAXED;
        // SAFETY: a place for a mode. Where it fails, the mode stays what it is.
        unsafe { (calls.exchange_capture_mode)(&raw mut mode) };
        Uncaptured { calls, before: mode }
    }
}

impl Drop for Uncaptured<'_> {
    fn drop(&mut self) {
        // SAFETY: as above, with the mode from before.
        unsafe { (self.calls.exchange_capture_mode)(&raw mut self.before) };
    }
}

/// While it lives, a context is this thread's.
struct Current<'a>(&'a Calls);

impl<'a> Current<'a> {
    fn new(calls: &'a Calls, context: Context) -> Result<Current<'a>, Gone> {
        // SAFETY: a context that the driver has just named.
        match unsafe { (calls.ctx_push_current)(context) } {
            SUCCESS => Ok(Current(calls)),
            _ => Err(Gone),
        }
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut context = 0;
        // SAFETY: a place for the context that was pushed.
        unsafe { (self.0.ctx_pop_current)(&raw mut context) };
    }
}

const SUCCESS: c_int = 0;
// `CUpointer_attribute`.
const CONTEXT: c_int = 1;
const MEMORY_TYPE: c_int = 2;
const IS_MANAGED: c_int = 8;
const DEVICE_ORDINAL: c_int = 9;
const RANGE_START: c_int = 11;
const RANGE_SIZE: c_int = 12;
const MEMORY_TYPE_DEVICE: c_uint = 2;
/// `CU_STREAM_NON_BLOCKING`: does not wait for the default stream.
const NON_BLOCKING: c_uint = 1;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
const CAPTURE_RELAXED: c_int = 2;
