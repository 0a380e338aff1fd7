//! A queue of work for one device.
//!
//! # Safety
//!
//! A stream of ours is destroyed once, with its last clone. One that is somebody else's is never destroyed, and its owner
//! has promised ([`Stream::borrow_raw`]) that it outlives us.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult, CUstream, CUstream_flags, CUstreamCaptureStatus};

use super::{CudaError, Device, DevicePointer, Event, HostMemory};

/// A queue of work for one device. What is enqueued runs in order, after the call that enqueued it has returned. Clones
/// are the same queue.
#[derive(Clone, Debug)]
pub struct Stream {
    device: Device,
    raw: CUstream,
    /// None where the stream is somebody else's.
    _owned: Option<Arc<Owned>>,
}

// SAFETY: a stream may be used from any thread; the driver locks for itself.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// Two handles of one stream are equal.
impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw && self.device.ordinal() == other.device.ordinal()
    }
}

impl Stream {
    /// Makes a stream that does not wait for the device's default stream.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn new(device: &Device) -> Result<Stream, CudaError> {
        let mut raw = ptr::null_mut();
        let _current = device.make_current()?;
        // SAFETY: the context is current; writes one handle.
        let result = unsafe { sys::cuStreamCreate(&mut raw, CUstream_flags::CU_STREAM_NON_BLOCKING as u32) };
        device.check("cuStreamCreate", result)?;
        let owned = Arc::new(Owned { device: device.clone(), raw });
        Ok(Stream { device: device.clone(), raw, _owned: Some(owned) })
    }

    /// A stream that somebody else made: PyTorch's, or a C caller's. Null is the device's default stream.
    ///
    /// # Safety
    ///
    /// `raw` is a stream of this device's primary context, and is not destroyed before the result and its clones are dropped,
    /// nor before a World that was given one.
    pub unsafe fn borrow_raw(device: &Device, raw: *mut std::ffi::c_void) -> Stream {
        Stream { device: device.clone(), raw: raw.cast(), _owned: None }
    }

    /// Whose queue it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits until everything that was enqueued is done. Not while it is being captured.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`], also for what went wrong in that work.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let _current = self.device.make_current()?;
        // SAFETY: the stream is alive.
        self.device.check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw) })
    }

    /// Whether everything that was enqueued is done.
    ///
    /// # Errors
    ///
    /// As [`Stream::synchronize`].
    pub fn is_done(&self) -> Result<bool, CudaError> {
        let _current = self.device.make_current()?;
        // SAFETY: the stream is alive.
        match unsafe { sys::cuStreamQuery(self.raw) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => self.device.check("cuStreamQuery", result).map(|()| true),
        }
    }

    /// Lets what is enqueued from now on wait for what the event has recorded.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn wait_for(&self, event: &Event) -> Result<(), CudaError> {
        let _current = self.device.make_current()?;
        // SAFETY: stream and event are alive.
        let result = unsafe { sys::cuStreamWaitEvent(self.raw, event.raw(), 0) };
        self.device.check("cuStreamWaitEvent", result)
    }

    /// Enqueues a copy within the device's memory.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    ///
    /// # Safety
    ///
    /// Both are addresses of so many bytes that the device reaches, until the copy is done.
    pub unsafe fn copy(&self, from: DevicePointer, to: DevicePointer, bytes: usize) -> Result<(), CudaError> {
        let _current = self.device.make_current()?;
        // SAFETY: the caller's promise; the stream is alive.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.raw) };
        self.device.check("cuMemcpyDtoD", result)
    }

    /// Enqueues a copy from the device to memory of the host that was allocated for it, from its beginning on.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    ///
    /// # Panics
    ///
    /// When the host's memory has not so many bytes.
    ///
    /// # Safety
    ///
    /// The device reaches so many bytes at the address until the copy is done. The host looks at its memory afterwards
    /// only, and does not free it before.
    pub unsafe fn copy_to_host(
        &self,
        from: DevicePointer,
        to: &HostMemory,
        at: usize,
        bytes: usize,
    ) -> Result<(), CudaError> {
        let to = to.part(at, bytes);
        let _current = self.device.make_current()?;
        // SAFETY: the caller's promise; the host's memory has so many bytes.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from.0, bytes, self.raw) };
        self.device.check("cuMemcpyDtoH", result)
    }

    /// As [`Stream::copy_to_host`], the other way.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    ///
    /// # Panics
    ///
    /// When the host's memory has not so many bytes.
    ///
    /// # Safety
    ///
    /// As [`Stream::copy_to_host`].
    pub unsafe fn copy_from_host(
        &self,
        from: &HostMemory,
        at: usize,
        to: DevicePointer,
        bytes: usize,
    ) -> Result<(), CudaError> {
        let from = from.part(at, bytes);
        let _current = self.device.make_current()?;
        // SAFETY: the caller's promise; the host's memory has so many bytes.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, from, bytes, self.raw) };
        self.device.check("cuMemcpyHtoD", result)
    }

    /// Enqueues a call of a function of the host, by a thread of the driver's. It must not call CUDA. What it waits for delays
    /// the stream, and may delay other streams' functions. Not while the stream is being captured: it is called once.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`]; the function is not called then.
    pub fn call_host(&self, function: Box<dyn FnOnce() + Send>) -> Result<(), CudaError> {
        let context = Box::into_raw(Box::new(function));
        let _current = self.device.make_current()?;
        // SAFETY: the stream is alive; the driver gives the context to the function, once.
        let result = unsafe { sys::cuLaunchHostFunc(self.raw, Some(run_boxed), context.cast()) };
        self.device.check("cuLaunchHostFunc", result).inspect_err(|_| {
            // SAFETY: the driver did not take it.
            drop(unsafe { Box::from_raw(context) });
        })
    }

    /// Whether it is being captured into a graph.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn is_captured(&self) -> Result<bool, CudaError> {
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let _current = self.device.make_current()?;
        // SAFETY: the stream is alive; writes one number.
        let result = unsafe { sys::cuStreamIsCapturing(self.raw, &mut status) };
        self.device.check("cuStreamIsCapturing", result)?;
        Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// The driver's handle, also to tell streams apart.
    pub fn raw(&self) -> *mut std::ffi::c_void {
        self.raw.cast()
    }

    pub(super) fn handle(&self) -> CUstream {
        self.raw
    }
}

/// Calls what [`Stream::call_host`] was given.
unsafe extern "C" fn run_boxed(context: *mut std::ffi::c_void) {
    // SAFETY: `call_host` made it so, for this one call.
    let function = unsafe { Box::from_raw(context.cast::<Box<dyn FnOnce() + Send>>()) };
    // No panic goes through C.
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(function)).is_err() {
        log::error!("a function that a stream calls panicked");
    }
}

/// A stream that we made.
#[derive(Debug)]
struct Owned {
    device: Device,
    raw: CUstream,
}

// SAFETY: as for `Stream`.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: ours, and dropped once. The driver lets the work in it end.
        self.device.release("cuStreamDestroy", || unsafe { sys::cuStreamDestroy_v2(self.raw) });
    }
}
