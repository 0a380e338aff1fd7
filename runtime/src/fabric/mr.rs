//! Memory that the provider was told of.
//!
//! # Safety
//!
//! The object is open from `fi_mr_reg` until this type drops it. That the memory outlives it is the promise of whoever
//! calls [`MemoryRegion::register`].
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph says why it is sound")]

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use libfabric_sys as sys;

use super::domain::Domain;
use super::endpoint::Endpoint;
use super::error::FabricError;
use super::fabric::{log_close, no_object};

/// Who may do what with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This process sends from it and receives into it.
    Messages,
    /// This process writes from it to others' memory.
    WriteFrom,
    /// Others write into it.
    WrittenTo,
    /// This process writes from it to others' memory, and others write into it.
    BothWays,
    /// This process reads others' memory into it, and others read it.
    Reads,
}

/// Memory of a GPU, as a card is told of it.
#[derive(Clone, Copy, Debug)]
pub struct GpuMemory<'a> {
    /// Its first byte, at the GPU's address; nobody reads it by that.
    pub memory: *const [u8],
    /// The GPU's number in this process.
    pub ordinal: u32,
    /// The dma-buf that it is in, and how far in, where the driver gives any.
    pub dma_buf: Option<(BorrowedFd<'a>, u64)>,
}

impl Access {
    fn flags(self) -> u64 {
        match self {
            Access::Messages => sys::FI_SEND | sys::FI_RECV,
            Access::WriteFrom => sys::FI_WRITE | sys::FI_SEND,
            Access::WrittenTo => sys::FI_REMOTE_WRITE | sys::FI_RECV,
            Access::BothWays => Access::WriteFrom.flags() | Access::WrittenTo.flags(),
            Access::Reads => sys::FI_READ | sys::FI_REMOTE_READ,
        }
    }
}

/// A registered piece of memory.
#[derive(Debug)]
pub struct MemoryRegion {
    raw: NonNull<sys::fid_mr>,
    domain: Arc<Domain>,
}

// SAFETY: objects of a domain are opened with FI_THREAD_SAFE.
unsafe impl Send for MemoryRegion {}
// SAFETY: as above.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Registers memory for operations of `endpoint`.
    ///
    /// # Safety
    ///
    /// The memory stays mapped until the region is dropped.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_mr_regattr`, `fi_mr_bind` or `fi_mr_enable`.
    pub unsafe fn register(
        endpoint: &Endpoint,
        memory: *const [u8],
        access: Access,
    ) -> Result<Self, FabricError> {
        let part = sys::iovec { iov_base: memory.cast_mut().cast(), iov_len: memory.len() };
        let attr = sys::fi_mr_attr {
            memory: sys::fi_mr_memory { mr_iov: &raw const part },
            iov_count: 1,
            access: access.flags(),
            ..sys::zeroed()
        };
        // SAFETY: the attributes name one part; the memory is the caller's promise.
        unsafe { MemoryRegion::register_by(endpoint, &attr, 0) }
    }

    /// Registers memory of a GPU: as its dma-buf where there is one and the library takes it, else by its address, for which
    /// the kernel needs a module that knows GPUs (`efa_nv_peermem`, `nvidia_peermem`).
    ///
    /// # Safety
    ///
    /// The memory stays allocated until the region is dropped.
    ///
    /// # Errors
    ///
    /// As [`MemoryRegion::register`]; of the address where both ways fail.
    pub unsafe fn register_gpu(
        endpoint: &Endpoint,
        gpu: GpuMemory<'_>,
        access: Access,
    ) -> Result<Self, FabricError> {
        let device = sys::fi_mr_device { cuda: gpu.ordinal as c_int };
        let base = gpu.memory.cast_mut().cast::<c_void>();
        let takes_dma_bufs = endpoint.domain().info().library().api_version() >= DMA_BUFS_FROM;
        if let Some((fd, offset)) = gpu.dma_buf.filter(|_| takes_dma_bufs) {
            let dma_buf = sys::fi_mr_dmabuf {
                fd: fd.as_raw_fd(),
                offset,
                len: gpu.memory.len(),
                base_addr: base.wrapping_byte_sub(offset as usize),
            };
            let attr = sys::fi_mr_attr {
                memory: sys::fi_mr_memory { dmabuf: &raw const dma_buf },
                iov_count: 1,
                access: access.flags(),
                iface: sys::FI_HMEM_CUDA,
                device,
                ..sys::zeroed()
            };
            // SAFETY: the attributes name a dma-buf, as the flag says; the memory is the caller's promise.
            match unsafe { MemoryRegion::register_by(endpoint, &attr, sys::FI_MR_DMABUF) } {
                Ok(region) => return Ok(region),
                Err(error) => log::info!("GPU memory is not registered as a dma-buf: {error}"),
            }
        }
        let part = sys::iovec { iov_base: base, iov_len: gpu.memory.len() };
        let attr = sys::fi_mr_attr {
            memory: sys::fi_mr_memory { mr_iov: &raw const part },
            iov_count: 1,
            access: access.flags(),
            iface: sys::FI_HMEM_CUDA,
            device: sys::fi_mr_device { cuda: gpu.ordinal as c_int },
            ..sys::zeroed()
        };
        // SAFETY: as above, with one part.
        unsafe { MemoryRegion::register_by(endpoint, &attr, 0) }
    }

    /// # Safety
    ///
    /// The attributes name memory in the way that the flags say, which stays until the region is dropped.
    unsafe fn register_by(
        endpoint: &Endpoint,
        attr: &sys::fi_mr_attr,
        flags: u64,
    ) -> Result<Self, FabricError> {
        let domain = endpoint.domain();
        let library = domain.info().library();
        let mut raw = ptr::null_mut();
        // SAFETY: the domain is open, the attributes are of full size and read before the call returns; the memory
        // is the caller's promise.
        let code =
            unsafe { sys::call::fi_mr_regattr(domain.as_ptr(), ptr::from_ref(attr), flags, &raw mut raw) };
        library.check("fi_mr_regattr", code)?;
        let raw = NonNull::new(raw).ok_or_else(|| no_object(domain.info(), "fi_mr_regattr"))?;
        let region = MemoryRegion { raw, domain: domain.clone() };
        if domain.info().wants_bound_regions() {
            // SAFETY: region and endpoint are open.
            unsafe {
                library
                    .check("fi_mr_bind", sys::call::fi_mr_bind(raw.as_ptr(), endpoint.as_ptr().cast(), 0))?;
                library.check("fi_mr_enable", sys::call::fi_mr_enable(raw.as_ptr()))?;
            }
        }
        Ok(region)
    }

    /// What others name the region by.
    pub fn key(&self) -> u64 {
        // SAFETY: the region is open.
        unsafe { sys::call::fi_mr_key(self.raw.as_ptr()) }
    }

    /// What operations name the region by.
    pub(super) fn descriptor(&self) -> *mut c_void {
        // SAFETY: the region is open.
        unsafe { sys::call::fi_mr_desc(self.raw.as_ptr()) }
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: opened by `register`, closed only here.
        let code = unsafe { sys::call::fi_close(self.raw.as_ptr().cast()) };
        log_close(self.domain.info(), "memory region", code);
    }
}

/// The version of the interface with which `FI_MR_DMABUF` came, 1.20.
const DMA_BUFS_FROM: u32 = 1 << 16 | 20;
