//! A queue of work for one device.
//!
//! # Safety
//!
//! A stream of ours is destroyed once, by its drop. One that is somebody else's is never destroyed, and its owner has
//! promised ([`Stream::borrow_raw`]) that it outlives us.
#![allow(unsafe_code)]

use std::ptr;

use cudarc::driver::sys::{self, CUresult, CUstream, CUstream_flags, CUstreamCaptureStatus};

use super::{CudaError, Device, Event};

/// A queue of work for one device. What is enqueued runs in order, after the call that enqueued it has returned.
#[derive(Debug)]
pub struct Stream {
    device: Device,
    raw: CUstream,
    is_owned: bool,
}

// SAFETY: a stream may be used from any thread; the driver locks for itself.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

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
        Ok(Stream { device: device.clone(), raw, is_owned: true })
    }

    /// A stream that somebody else made: PyTorch's, or a C caller's. Null is the device's default stream.
    ///
    /// # Safety
    ///
    /// `raw` is a stream of this device's primary context, and is not destroyed before the result is dropped.
    pub unsafe fn borrow_raw(device: &Device, raw: *mut std::ffi::c_void) -> Stream {
        Stream { device: device.clone(), raw: raw.cast(), is_owned: false }
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

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_owned {
            // SAFETY: ours, and dropped once. Work in it is done first by the driver.
            self.device.release("cuStreamDestroy", || unsafe { sys::cuStreamDestroy_v2(self.raw) });
        }
    }
}
