//! Memory of a device, and memory of the host that a device reaches.
//!
//! # Safety
//!
//! An allocation is freed once, after the device is done with all work of this process, so that nothing enqueued touches
//! it afterwards. Copies take lengths from the types on both sides and wait until they are done, so that a host slice
//! is borrowed for as long as the device uses it.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use bytemuck::Pod;
use cudarc::driver::sys;

use super::{CudaError, Device, Stream};

/// An address in a device's memory, as kernels take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct DevicePointer(pub u64);

impl DevicePointer {
    /// So many bytes further.
    ///
    /// # Panics
    ///
    /// When that is beyond all addresses.
    pub fn offset(self, bytes: usize) -> DevicePointer {
        DevicePointer(self.0.checked_add(bytes as u64).expect("an address in memory"))
    }
}

/// `len` elements in a device's memory.
///
/// Its memory is freed when it is dropped and no World has it registered any more; freeing waits until the device is done
/// with everything that this process enqueued.
#[derive(Debug)]
pub struct DeviceMemory<T> {
    allocation: Arc<Allocation>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> DeviceMemory<T> {
    /// Allocates without writing anything: what is in it is undefined bytes, of which every pattern is a `T`.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`] when the device has no such memory left.
    pub fn new(device: &Device, len: usize) -> Result<DeviceMemory<T>, CudaError> {
        let mut pointer = 0;
        if len > 0 {
            let bytes = len.saturating_mul(size_of::<T>());
            let _current = device.make_current()?;
            // SAFETY: the context is current; writes one address.
            let result = unsafe { sys::cuMemAlloc_v2(&mut pointer, bytes) };
            device.check("cuMemAlloc", result)?;
        }
        let pointer = DevicePointer(pointer);
        let allocation =
            Allocation { device: device.clone(), pointer, bytes: len * size_of::<T>(), is_ours: true };
        Ok(DeviceMemory { allocation: Arc::new(allocation), len, element: PhantomData })
    }

    /// Allocates and sets every byte to zero.
    ///
    /// # Errors
    ///
    /// As [`DeviceMemory::new`].
    pub fn zeroed(device: &Device, len: usize) -> Result<DeviceMemory<T>, CudaError> {
        let mut memory = DeviceMemory::new(device, len)?;
        memory.fill_bytes(0)?;
        Ok(memory)
    }

    /// Allocates and copies.
    ///
    /// # Errors
    ///
    /// As [`DeviceMemory::new`].
    pub fn from_host(device: &Device, elements: &[T]) -> Result<DeviceMemory<T>, CudaError> {
        let mut memory = DeviceMemory::new(device, elements.len())?;
        memory.copy_from_host(0, elements)?;
        Ok(memory)
    }

    /// The whole allocation of somebody else's in which an address lies: PyTorch's, or a C caller's.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`] when the address is in no allocation.
    ///
    /// # Safety
    ///
    /// It is memory of this device, and is not freed before the result is dropped, nor while a World has it registered.
    pub unsafe fn borrow_raw(device: &Device, address: DevicePointer) -> Result<DeviceMemory<T>, CudaError> {
        let (mut base, mut bytes) = (0, 0);
        let _current = device.make_current()?;
        // SAFETY: the context is current; writes an address and a length.
        let result = unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut bytes, address.0) };
        device.check("cuMemGetAddressRange", result)?;
        let pointer = DevicePointer(base);
        let allocation = Allocation { device: device.clone(), pointer, bytes, is_ours: false };
        Ok(DeviceMemory {
            allocation: Arc::new(allocation),
            len: bytes / size_of::<T>(),
            element: PhantomData,
        })
    }

    /// Whose memory it is.
    pub fn device(&self) -> &Device {
        &self.allocation.device
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it begins.
    pub fn pointer(&self) -> DevicePointer {
        self.allocation.pointer
    }

    /// A part of it, to be read.
    ///
    /// # Panics
    ///
    /// When the range goes beyond the end.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> DeviceSlice<'_, T> {
        let (pointer, len) = self.part(range);
        DeviceSlice { pointer, len, memory: PhantomData }
    }

    /// A part of it, to be written.
    ///
    /// # Panics
    ///
    /// When the range goes beyond the end.
    pub fn slice_mut(&mut self, range: impl RangeBounds<usize>) -> DeviceSliceMut<'_, T> {
        let (pointer, len) = self.part(range);
        DeviceSliceMut { pointer, len, memory: PhantomData }
    }

    /// Copies from the host to the elements from `start` on. Waits until it is done, and for nothing that other streams do.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    ///
    /// # Panics
    ///
    /// When there are not as many elements.
    pub fn copy_from_host(&mut self, start: usize, elements: &[T]) -> Result<(), CudaError> {
        let (to, _) = self.part(start..start + elements.len());
        let bytes = size_of_val(elements);
        // SAFETY: `part` has checked the device's side; the host's is a slice, borrowed until the copy is done.
        self.blocking("cuMemcpyHtoD", bytes, |stream| unsafe {
            sys::cuMemcpyHtoDAsync_v2(to.0, elements.as_ptr().cast(), bytes, stream)
        })
    }

    /// Copies the elements from `start` on to the host. Waits until it is done, and for nothing that other streams do.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    ///
    /// # Panics
    ///
    /// When there are not as many elements.
    pub fn copy_to_host(&self, start: usize, elements: &mut [T]) -> Result<(), CudaError> {
        let (from, _) = self.part(start..start + elements.len());
        let bytes = size_of_val(elements);
        // SAFETY: as above; every pattern of bytes is a `T`.
        self.blocking("cuMemcpyDtoH", bytes, |stream| unsafe {
            sys::cuMemcpyDtoHAsync_v2(elements.as_mut_ptr().cast(), from.0, bytes, stream)
        })
    }

    /// All elements, on the host.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn to_vec(&self) -> Result<Vec<T>, CudaError> {
        let mut elements = vec![T::zeroed(); self.len];
        self.copy_to_host(0, &mut elements)?;
        Ok(elements)
    }

    /// Sets every byte. Waits until it is done.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn fill_bytes(&mut self, byte: u8) -> Result<(), CudaError> {
        let (to, bytes) = (self.allocation.pointer, self.allocation.bytes);
        // SAFETY: the allocation has so many bytes.
        self.blocking("cuMemsetD8", bytes, |stream| unsafe {
            sys::cuMemsetD8Async(to.0, byte, bytes, stream)
        })
    }

    /// The dma-buf that the memory is, by which other devices' drivers are told of it; none where this driver gives none.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`] when the driver cannot be asked.
    pub fn dma_buf(&self) -> Result<Option<OwnedFd>, CudaError> {
        let device = self.device();
        if !device.gives_dma_bufs()? {
            return Ok(None);
        }
        let mut fd: c_int = -1;
        let kind = sys::CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD;
        let Allocation { pointer, bytes, .. } = *self.allocation;
        let _current = device.make_current()?;
        // SAFETY: an allocation of ours; the handle of this kind is a descriptor, and one is written.
        let result =
            unsafe { sys::cuMemGetHandleForAddressRange((&raw mut fd).cast(), pointer.0, bytes, kind, 0) };
        if let Err(error) = device.check("cuMemGetHandleForAddressRange", result) {
            // It takes whole pages only, and the attribute says nothing of the kernel's part.
            log::info!("GPU memory is no dma-buf: {error}");
            return Ok(None);
        }
        // SAFETY: the call made it, and nobody else has it.
        Ok((fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Has the driver end each of its own copies from or to this memory before it says so, which it need not do else; another
    /// device, which reads the memory past the driver, relies on it (`CU_POINTER_ATTRIBUTE_SYNC_MEMOPS`).
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn end_copies_before_saying_so(&self) -> Result<(), CudaError> {
        let device = self.device();
        let is_set: c_int = 1;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS;
        let _current = device.make_current()?;
        // SAFETY: an allocation of ours; the attribute is an `int`, which is read before the call returns.
        let result =
            unsafe { sys::cuPointerSetAttribute((&raw const is_set).cast(), attribute, self.pointer().0) };
        device.check("cuPointerSetAttribute", result)
    }

    /// What keeps the memory from being freed.
    pub(crate) fn allocation(&self) -> &Arc<Allocation> {
        &self.allocation
    }

    fn part(&self, range: impl RangeBounds<usize>) -> (DevicePointer, usize) {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        assert!(start <= end && end <= self.len, "elements {start}..{end} of {}", self.len);
        (self.allocation.pointer.offset(start * size_of::<T>()), end - start)
    }

    /// Enqueues something on a stream of its own, and waits for it.
    fn blocking(
        &self,
        call: &'static str,
        bytes: usize,
        enqueue: impl FnOnce(sys::CUstream) -> sys::CUresult,
    ) -> Result<(), CudaError> {
        if bytes == 0 {
            return Ok(());
        }
        let device = &self.allocation.device;
        let stream = Stream::new(device)?;
        let current = device.make_current()?;
        device.check(call, enqueue(stream.handle()))?;
        drop(current);
        stream.synchronize()
    }
}

/// Elements in a device's memory that are borrowed to be read.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSlice<'a, T> {
    pointer: DevicePointer,
    len: usize,
    memory: PhantomData<&'a T>,
}

/// Elements in a device's memory that are borrowed to be written.
#[derive(Debug)]
pub struct DeviceSliceMut<'a, T> {
    pointer: DevicePointer,
    len: usize,
    memory: PhantomData<&'a mut T>,
}

macro_rules! slice {
    ($($slice:ident),*) => {$(
        impl<T> $slice<'_, T> {
            /// Elements that somebody else allocated: PyTorch, or a C caller.
            ///
            /// # Safety
            ///
            /// `pointer` is the address of `len` elements that the device reaches, aligned to an element, until
            /// everything that was enqueued with the slice is done.
            pub unsafe fn from_raw(pointer: DevicePointer, len: usize) -> Self {
                $slice { pointer, len, memory: PhantomData }
            }

            /// Where it begins.
            pub fn pointer(&self) -> DevicePointer {
                self.pointer
            }

            /// How many elements it has.
            pub fn len(&self) -> usize {
                self.len
            }

            /// Whether it has none.
            pub fn is_empty(&self) -> bool {
                self.len == 0
            }
        }
    )*};
}

slice!(DeviceSlice, DeviceSliceMut);

/// What `cuMemAlloc` gave.
#[derive(Debug)]
pub(crate) struct Allocation {
    device: Device,
    pointer: DevicePointer,
    bytes: usize,
    /// Whether it is to be freed.
    is_ours: bool,
}

impl Allocation {
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn pointer(&self) -> DevicePointer {
        self.pointer
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.pointer.0 == 0 || !self.is_ours {
            return;
        }
        // An error of that work is told to whoever waits for it; the memory is free to go in any case.
        let _done = self.device.synchronize();
        // SAFETY: ours, freed once, and nothing of this process uses it any more.
        self.device.release("cuMemFree", || unsafe { sys::cuMemFree_v2(self.pointer.0) });
    }
}

/// Words of the host's memory that the device reads and writes at an address of its own, zero at first.
///
/// Both sides use it at once, so that it is made of atomics.
#[derive(Debug)]
pub struct HostMemory {
    device: Device,
    base: *mut c_void,
    pointer: DevicePointer,
    bytes: usize,
}

// SAFETY: the memory is reached through atomics only.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Allocates so many 64-bit words, at least one.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn new(device: &Device, words: usize) -> Result<HostMemory, CudaError> {
        let bytes = words.max(1) * size_of::<u64>();
        let (mut base, mut pointer) = (ptr::null_mut(), 0);
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        let _current = device.make_current()?;
        // SAFETY: the context is current; writes one address.
        let result = unsafe { sys::cuMemHostAlloc(&mut base, bytes, flags) };
        device.check("cuMemHostAlloc", result)?;
        // SAFETY: `base` has so many bytes, aligned to a page.
        unsafe { ptr::write_bytes(base.cast::<u8>(), 0, bytes) };
        let mut memory = HostMemory { device: device.clone(), base, pointer: DevicePointer(0), bytes };
        // SAFETY: the allocation was made to be mapped; writes one address.
        let result = unsafe { sys::cuMemHostGetDevicePointer_v2(&mut pointer, base, 0) };
        device.check("cuMemHostGetDevicePointer", result)?;
        memory.pointer = DevicePointer(pointer);
        Ok(memory)
    }

    /// Where the device finds it.
    pub fn pointer(&self) -> DevicePointer {
        self.pointer
    }

    /// Where so many bytes are, for copies of the device's.
    ///
    /// # Panics
    ///
    /// When it has fewer.
    pub(super) fn part(&self, at: usize, bytes: usize) -> *mut c_void {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes), "{bytes} bytes at {at}");
        self.base.wrapping_byte_add(at)
    }

    /// So many bytes of it.
    ///
    /// # Panics
    ///
    /// When it has fewer.
    ///
    /// # Safety
    ///
    /// Neither the device nor anybody else uses them while the result lives.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that nobody else has them")]
    pub unsafe fn bytes_mut(&self, at: usize, bytes: usize) -> &mut [u8] {
        // SAFETY: within the allocation, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.part(at, bytes).cast(), bytes) }
    }

    /// So many bytes of it, as a pointer.
    ///
    /// # Panics
    ///
    /// When it has fewer.
    pub(crate) fn raw(&self, at: usize, bytes: usize) -> *mut [u8] {
        std::ptr::slice_from_raw_parts_mut(self.part(at, bytes).cast(), bytes)
    }

    /// So many bytes of it, to be read.
    ///
    /// # Panics
    ///
    /// When it has fewer.
    ///
    /// # Safety
    ///
    /// Neither the device nor anybody else writes to them while the result lives.
    pub(crate) unsafe fn bytes(&self, at: usize, bytes: usize) -> &[u8] {
        // SAFETY: within the allocation, and the caller's promise.
        unsafe { std::slice::from_raw_parts(self.part(at, bytes).cast(), bytes) }
    }

    /// Some of its 64-bit words.
    ///
    /// # Panics
    ///
    /// When they are beyond the end.
    pub(crate) fn words(&self, range: std::ops::Range<usize>) -> &[AtomicU64] {
        // SAFETY: the whole allocation, aligned, of which these are only ever used as atomics.
        let all = unsafe { std::slice::from_raw_parts(self.base.cast(), self.bytes / size_of::<u64>()) };
        &all[range]
    }

    /// A 64-bit word.
    ///
    /// # Panics
    ///
    /// When the index is beyond the end.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.bytes / size_of::<u64>(), "word {index}");
        // SAFETY: within the allocation, aligned, and only ever used as an atomic.
        unsafe { &*self.base.cast::<AtomicU64>().add(index) }
    }

    /// A 32-bit word: two lie in each 64-bit one.
    ///
    /// # Panics
    ///
    /// When the index is beyond the end.
    pub fn word32(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.bytes / size_of::<u32>(), "word {index}");
        // SAFETY: within the allocation, aligned, and only ever used as an atomic.
        unsafe { &*self.base.cast::<AtomicU32>().add(index) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let _done = self.device.synchronize();
        // SAFETY: ours, freed once, and nothing of this process uses it any more.
        self.device.release("cuMemFreeHost", || unsafe { sys::cuMemFreeHost(self.base) });
    }
}
