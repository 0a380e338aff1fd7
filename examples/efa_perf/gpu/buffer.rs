//! Memory of a GPU with guards, and a copy of it on the host to fill and to look at.

use efarun_rt::cuda::{CudaError, Device, DeviceMemory, DeviceSlice, DeviceSliceMut};

use crate::data::guarded::GUARD_LEN;
use crate::data::{GuardedBuffer, Sample};

/// Elements on both sides. What the host has reaches the GPU by [`Buffer::upload`], and comes back by
/// [`Buffer::download`].
#[derive(Debug)]
pub(super) struct Buffer<T> {
    /// What the host has of it; shorter, where only short calls are checked.
    pub(super) host: GuardedBuffer<T>,
    pub(super) device: DeviceMemory<T>,
}

impl<T: Sample + bytemuck::Pod> Buffer<T> {
    /// Room for `len` elements.
    pub(super) fn new(device: &Device, len: usize) -> Result<Self, CudaError> {
        let device = DeviceMemory::zeroed(device, len + 2 * GUARD_LEN)?;
        Ok(Buffer { host: GuardedBuffer::new(len), device })
    }

    /// Gives the GPU the first `len` elements and the guards around them.
    pub(super) fn upload(&mut self, len: usize) -> Result<(), CudaError> {
        self.device.copy_from_host(0, self.host.around(len))
    }

    /// Takes the first `len` elements and the guards around them from the GPU.
    pub(super) fn download(&mut self, len: usize) -> Result<(), CudaError> {
        self.device.copy_to_host(0, self.host.around_mut(len))
    }

    /// `len` elements of the GPU's from the `start`-th on.
    pub(super) fn window(&self, start: usize, len: usize) -> DeviceSlice<'_, T> {
        self.device.slice(GUARD_LEN + start..GUARD_LEN + start + len)
    }

    /// See [`Buffer::window`].
    pub(super) fn window_mut(&mut self, start: usize, len: usize) -> DeviceSliceMut<'_, T> {
        self.device.slice_mut(GUARD_LEN + start..GUARD_LEN + start + len)
    }
}
