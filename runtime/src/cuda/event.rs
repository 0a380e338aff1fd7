//! A mark in a stream.
//!
//! # Safety
//!
//! An event is destroyed once, by its drop; the driver keeps what still waits for it.
#![allow(unsafe_code)]

use std::ptr;

use cudarc::driver::sys::{self, CUevent, CUevent_flags};

use super::{CudaError, Device, Stream};

/// A mark in a stream, for other streams to wait for, or to take the time by.
#[derive(Debug)]
pub struct Event {
    device: Device,
    raw: CUevent,
}

// SAFETY: an event may be used from any thread; the driver locks for itself.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Makes an event that others can wait for.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn new(device: &Device) -> Result<Event, CudaError> {
        Event::with_flags(device, CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// Makes an event that also takes the time.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn with_time(device: &Device) -> Result<Event, CudaError> {
        Event::with_flags(device, CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// Marks what is enqueued on the stream so far.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        let _current = self.device.make_current()?;
        // SAFETY: event and stream are alive.
        let result = unsafe { sys::cuEventRecord(self.raw, stream.handle()) };
        self.device.check("cuEventRecord", result)
    }

    /// Waits until what was marked is done.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`], also for what went wrong in that work.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let _current = self.device.make_current()?;
        // SAFETY: the event is alive.
        self.device.check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.raw) })
    }

    /// Seconds on the device from this mark to a later one; both are done and take the time.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn seconds_to(&self, later: &Event) -> Result<f64, CudaError> {
        let mut milliseconds = 0.0;
        let _current = self.device.make_current()?;
        // SAFETY: both events are alive; writes one number.
        let result = unsafe { sys::cuEventElapsedTime(&mut milliseconds, self.raw, later.raw) };
        self.device.check("cuEventElapsedTime", result)?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn with_flags(device: &Device, flags: CUevent_flags) -> Result<Event, CudaError> {
        let mut raw = ptr::null_mut();
        let _current = device.make_current()?;
        // SAFETY: the context is current; writes one handle.
        let result = unsafe { sys::cuEventCreate(&mut raw, flags as u32) };
        device.check("cuEventCreate", result)?;
        Ok(Event { device: device.clone(), raw })
    }

    pub(super) fn raw(&self) -> CUevent {
        self.raw
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours, and dropped once.
        self.device.release("cuEventDestroy", || unsafe { sys::cuEventDestroy_v2(self.raw) });
    }
}
