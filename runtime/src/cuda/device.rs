//! A GPU, and its primary context.
//!
//! # Safety
//!
//! A [`Device`] exists only after the driver was initialised, and holds the primary context until the last clone is
//! dropped; handles in this file are therefore valid whenever they are used.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUresult};

use super::CudaError;
use super::driver::{check, check_drop, ready};

/// A GPU of this process. Cloning is cheap; all clones share the device's primary context with whoever else uses CUDA
/// in this process.
#[derive(Clone)]
pub struct Device(Arc<Primary>);

struct Primary {
    ordinal: u32,
    handle: CUdevice,
    context: CUcontext,
}

// SAFETY: contexts and device handles may be used from any thread.
unsafe impl Send for Primary {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Primary {}

impl Device {
    /// How many devices this process sees.
    ///
    /// # Errors
    ///
    /// As [`Device::open`].
    pub fn count() -> Result<u32, CudaError> {
        ready()?;
        let mut count = 0;
        // SAFETY: the driver is initialised; writes one number.
        let result = unsafe { sys::cuDeviceGetCount(&mut count) };
        check("cuDeviceGetCount", None, result)?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// The device whose context is current on this thread, if one is.
    ///
    /// # Errors
    ///
    /// As [`Device::open`].
    pub fn current() -> Result<Option<Device>, CudaError> {
        let count = Device::count()?;
        let (mut context, mut current) = (ptr::null_mut(), 0);
        // SAFETY: the driver is initialised; each call writes one handle.
        unsafe {
            check("cuCtxGetCurrent", None, sys::cuCtxGetCurrent(&mut context))?;
            if context.is_null() {
                return Ok(None);
            }
            check("cuCtxGetDevice", None, sys::cuCtxGetDevice(&mut current))?;
        }
        for ordinal in 0..count {
            let mut handle = 0;
            // SAFETY: there is such a device; writes one handle.
            let result = unsafe { sys::cuDeviceGet(&mut handle, ordinal.cast_signed()) };
            check("cuDeviceGet", Some(ordinal), result)?;
            if handle == current {
                return Device::open(ordinal).map(Some);
            }
        }
        Ok(None)
    }

    /// Opens a device by its number.
    ///
    /// # Errors
    ///
    /// [`CudaError`] without a driver that will do, or without such a device.
    pub fn open(ordinal: u32) -> Result<Device, CudaError> {
        let count = Device::count()?;
        if ordinal >= count {
            return Err(CudaError::NoSuchDevice { ordinal, count });
        }
        let (mut handle, mut context) = (0, ptr::null_mut());
        // SAFETY: the driver is initialised and has this device; each call writes one handle.
        unsafe {
            let on = Some(ordinal);
            check("cuDeviceGet", on, sys::cuDeviceGet(&mut handle, ordinal.cast_signed()))?;
            let retained = sys::cuDevicePrimaryCtxRetain(&mut context, handle);
            check("cuDevicePrimaryCtxRetain", on, retained)?;
        }
        Ok(Device(Arc::new(Primary { ordinal, handle, context })))
    }

    /// Its number in this process.
    pub fn ordinal(&self) -> u32 {
        self.0.ordinal
    }

    /// What its maker calls it.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn name(&self) -> Result<String, CudaError> {
        let mut name = [0 as c_char; TEXT_BYTES];
        // SAFETY: writes a C string of at most the length given.
        let result = unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), TEXT_BYTES as c_int, self.0.handle) };
        self.check("cuDeviceGetName", result)?;
        Ok(text(&name))
    }

    /// Where it is plugged in: `0000:1b:00.0`. The same device has the same in every process of a machine.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn pci_bus_id(&self) -> Result<String, CudaError> {
        let mut id = [0 as c_char; TEXT_BYTES];
        // SAFETY: writes a C string of at most the length given.
        let result = unsafe { sys::cuDeviceGetPCIBusId(id.as_mut_ptr(), TEXT_BYTES as c_int, self.0.handle) };
        self.check("cuDeviceGetPCIBusId", result)?;
        Ok(text(&id))
    }

    /// Major and minor: (9, 0) is Hopper.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn compute_capability(&self) -> Result<(u32, u32), CudaError> {
        let major = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
        let minor = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
        Ok((self.attribute(major)?, self.attribute(minor)?))
    }

    /// Whether other devices may read and write its memory.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn is_reached_by_devices(&self) -> Result<bool, CudaError> {
        Ok(self.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED)? != 0)
    }

    /// Whether the driver gives its memory as dma-bufs.
    pub(super) fn gives_dma_bufs(&self) -> Result<bool, CudaError> {
        Ok(self.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED)? != 0)
    }

    /// How many blocks run side by side at least.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn multiprocessors(&self) -> Result<u32, CudaError> {
        self.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
    }

    /// Free memory in bytes.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn free_bytes(&self) -> Result<u64, CudaError> {
        let (mut free, mut total) = (0, 0);
        let _current = self.make_current()?;
        // SAFETY: the context is current; writes two numbers.
        let result = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
        self.check("cuMemGetInfo", result)?;
        Ok(free as u64)
    }

    /// Lets kernels on this device use memory of another one of this process. Doing it again does nothing.
    ///
    /// # Errors
    ///
    /// [`CudaError::NoPeerAccess`] where the two cannot.
    pub fn enable_access_to(&self, peer: &Device) -> Result<(), CudaError> {
        if self.ordinal() == peer.ordinal() {
            return Ok(());
        }
        let mut can_access = 0;
        // SAFETY: both devices are open; writes one number.
        let result = unsafe { sys::cuDeviceCanAccessPeer(&mut can_access, self.0.handle, peer.0.handle) };
        self.check("cuDeviceCanAccessPeer", result)?;
        if can_access == 0 {
            return Err(CudaError::NoPeerAccess { device: self.ordinal(), peer: peer.ordinal() });
        }
        let _current = self.make_current()?;
        // SAFETY: the peer's context is alive, and stays so for as long as its memory is used.
        match unsafe { sys::cuCtxEnablePeerAccess(peer.0.context, 0) } {
            CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(()),
            result => self.check("cuCtxEnablePeerAccess", result),
        }
    }

    /// Waits until the device is done with everything that this process gave it.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`], also for what went wrong in work that was enqueued before.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let _current = self.make_current()?;
        // SAFETY: the context is current.
        self.check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })
    }

    /// Makes the device's context current on this thread until the guard is dropped.
    pub(super) fn make_current(&self) -> Result<Current<'_>, CudaError> {
        let mut current = ptr::null_mut();
        // SAFETY: writes one handle.
        let asked = unsafe { sys::cuCtxGetCurrent(&mut current) };
        self.check("cuCtxGetCurrent", asked)?;
        let is_pushed = current != self.0.context;
        if is_pushed {
            // SAFETY: the context is retained by `self`, which the guard borrows.
            self.check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(self.0.context) })?;
        }
        Ok(Current { device: self, is_pushed })
    }

    pub(super) fn check(&self, call: &'static str, result: CUresult) -> Result<(), CudaError> {
        check(call, Some(self.0.ordinal), result)
    }

    /// What was freed, and what the driver said: for `drop`.
    pub(super) fn check_drop(&self, call: &'static str, result: CUresult) {
        check_drop(call, self.0.ordinal, result);
    }

    /// For what one drop does to the driver. Where the context cannot be made current it is gone, and with it what was
    /// to be freed.
    pub(super) fn release(&self, call: &'static str, free: impl FnOnce() -> CUresult) {
        if let Ok(_current) = self.make_current() {
            self.check_drop(call, free());
        }
    }

    fn attribute(&self, attribute: CUdevice_attribute) -> Result<u32, CudaError> {
        let mut value = 0;
        // SAFETY: writes one number.
        let result = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, self.0.handle) };
        self.check("cuDeviceGetAttribute", result)?;
        Ok(u32::try_from(value).unwrap_or(0))
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {}", self.0.ordinal)
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        // SAFETY: retained once, by `Device::open`.
        let result = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.handle) };
        check_drop("cuDevicePrimaryCtxRelease", self.ordinal, result);
    }
}

/// A context is current on this thread.
#[must_use = "the context is current for as long as this lives"]
pub(super) struct Current<'a> {
    device: &'a Device,
    is_pushed: bool,
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        if self.is_pushed {
            let mut popped = ptr::null_mut();
            // SAFETY: pops what `make_current` pushed on this thread: the guard holds a reference to a device, and
            // is never sent elsewhere.
            let result = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
            self.device.check_drop("cuCtxPopCurrent", result);
        }
    }
}

fn text(bytes: &[c_char]) -> String {
    // SAFETY: the driver ends what it writes by a zero, and the buffer began as zeros.
    unsafe { CStr::from_ptr(bytes.as_ptr()) }.to_string_lossy().into_owned()
}

const TEXT_BYTES: usize = 256;
