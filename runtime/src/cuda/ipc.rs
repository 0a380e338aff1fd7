//! Device memory of another process of this machine.
//!
//! The owner exports a handle, which is plain bytes; who imports it has the owner's memory at an address of its own. The
//! memory stays while anybody has it open. A process cannot import what it has exported itself: there, the owner's
//! address is used, after [`super::Device::enable_access_to`].
//!
//! # Safety
//!
//! An import is closed once, after the device is done with all work of this process.
#![allow(unsafe_code)]

use std::ffi::c_char;

use cudarc::driver::sys::{self, CUipcMem_flags, CUipcMemHandle};

use super::{CudaError, Device, DeviceMemory, DevicePointer};

/// What names memory of a device to other processes of the machine: 64 bytes of the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpcHandle(pub [u8; IpcHandle::BYTES]);

impl IpcHandle {
    /// Its length.
    pub const BYTES: usize = 64;

    /// Exports a whole allocation.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`], also for memory without any element.
    pub fn of<T: bytemuck::Pod>(memory: &DeviceMemory<T>) -> Result<IpcHandle, CudaError> {
        let mut handle = CUipcMemHandle { reserved: [0; IpcHandle::BYTES] };
        let device = memory.device();
        let _current = device.make_current()?;
        // SAFETY: the pointer is an allocation's; writes one handle.
        let result = unsafe { sys::cuIpcGetMemHandle(&mut handle, memory.pointer().0) };
        device.check("cuIpcGetMemHandle", result)?;
        Ok(IpcHandle(handle.reserved.map(c_char::cast_unsigned)))
    }
}

/// Another process's device memory. Dropping it waits until the device is done with everything that this process
/// enqueued.
#[derive(Debug)]
pub struct ImportedMemory {
    device: Device,
    pointer: DevicePointer,
}

impl ImportedMemory {
    /// Maps an allocation for use by this device.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`] when the owner is gone, is this process, or its device cannot be reached from this one.
    pub fn open(device: &Device, handle: IpcHandle) -> Result<ImportedMemory, CudaError> {
        let mut pointer = 0;
        let handle = CUipcMemHandle { reserved: handle.0.map(u8::cast_signed) };
        let flags = CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let _current = device.make_current()?;
        // SAFETY: the context is current. A handle of any bytes is looked up by the driver, not followed.
        let result = unsafe { sys::cuIpcOpenMemHandle_v2(&mut pointer, handle, flags) };
        device.check("cuIpcOpenMemHandle", result)?;
        Ok(ImportedMemory { device: device.clone(), pointer: DevicePointer(pointer) })
    }

    /// Where it begins, for kernels of the device that it was opened for.
    pub fn pointer(&self) -> DevicePointer {
        self.pointer
    }
}

impl Drop for ImportedMemory {
    fn drop(&mut self) {
        let _done = self.device.synchronize();
        // SAFETY: ours, closed once, and nothing of this process uses it any more.
        self.device.release("cuIpcCloseMemHandle", || unsafe { sys::cuIpcCloseMemHandle(self.pointer.0) });
    }
}
