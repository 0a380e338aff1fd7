//! Sending and receiving.
//!
//! # Safety
//!
//! The object is open from `fi_endpoint` until this type closes it, before the objects bound to it, which it holds.
//! Memory of operations is the promise of whoever posts them.
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph says why it is sound")]

use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use libfabric_sys as sys;

use super::av::{AddressVector, FabricAddress};
use super::cq::CompletionQueue;
use super::domain::Domain;
use super::eq::EventQueue;
use super::error::FabricError;
use super::fabric::{log_close, no_object};
use super::mr::MemoryRegion;

/// A reliable-datagram endpoint, ready for use.
#[derive(Debug)]
pub struct Endpoint {
    raw: NonNull<sys::fid_ep>,
    av: Arc<AddressVector>,
    cq: Arc<CompletionQueue>,
    eq: Arc<EventQueue>,
    domain: Arc<Domain>,
}

// SAFETY: objects of a domain are opened with FI_THREAD_SAFE.
unsafe impl Send for Endpoint {}
// SAFETY: as above.
unsafe impl Sync for Endpoint {}

/// A piece of the memory of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The bytes.
    pub memory: *const [u8],
    /// The region that covers them, where the provider wants local registration.
    pub region: Option<&'a MemoryRegion>,
}

/// A place in a peer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address there.
    pub address: u64,
    /// The region's key.
    pub key: u64,
}

impl Endpoint {
    /// Opens an endpoint, binds it and enables it.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_endpoint`, `fi_ep_bind` or `fi_enable`.
    pub fn open(
        domain: &Arc<Domain>,
        av: &Arc<AddressVector>,
        cq: &Arc<CompletionQueue>,
        eq: &Arc<EventQueue>,
    ) -> Result<Self, FabricError> {
        let info = domain.info();
        let library = info.library();
        let mut raw = ptr::null_mut();
        // SAFETY: domain and info are alive, and the info is of this domain.
        let code =
            unsafe { sys::call::fi_endpoint(domain.as_ptr(), info.as_ptr(), &raw mut raw, ptr::null_mut()) };
        library.check("fi_endpoint", code)?;
        let raw = NonNull::new(raw).ok_or_else(|| no_object(info, "fi_endpoint"))?;
        let endpoint =
            Endpoint { raw, av: av.clone(), cq: cq.clone(), eq: eq.clone(), domain: domain.clone() };
        let bind = |object: *mut sys::fid, flags| {
            // SAFETY: both objects are open, and the endpoint holds what is bound to it.
            library.check("fi_ep_bind", unsafe { sys::call::fi_ep_bind(raw.as_ptr(), object, flags) })
        };
        endpoint.forbid_shared_memory()?;
        if info.reaches_gpu_memory() {
            endpoint.forbid_cuda_calls()?;
        }
        bind(eq.as_ptr().cast(), 0)?;
        bind(av.as_ptr().cast(), 0)?;
        bind(cq.as_ptr().cast(), sys::FI_TRANSMIT | sys::FI_RECV)?;
        // SAFETY: the endpoint is open and has all it needs.
        library.check("fi_enable", unsafe { sys::call::fi_enable(raw.as_ptr()) })?;
        Ok(endpoint)
    }

    /// The EFA provider would take a way of its own between processes of a machine, past the card; what shares memory
    /// with us is reached without libfabric.
    fn forbid_shared_memory(&self) -> Result<(), FabricError> {
        if !self.domain.info().is_efa() {
            return Ok(());
        }
        let code = self.forbid(sys::FI_OPT_SHARED_MEMORY_PERMITTED);
        match -code {
            // Older providers do not know the option, or have no such way on this fabric.
            sys::FI_ENOPROTOOPT | sys::FI_EOPNOTSUPP | sys::FI_ENOSYS => Ok(()),
            _ => self.domain.info().library().check("fi_setopt", code),
        }
    }

    /// Without calls of CUDA the EFA provider can only move GPU memory by the card itself, so that it refuses where it cannot:
    /// the proof that it can. And a call of CUDA in our progress might wait for a kernel that waits for us.
    fn forbid_cuda_calls(&self) -> Result<(), FabricError> {
        let code = self.forbid(sys::FI_OPT_CUDA_API_PERMITTED);
        self.domain.info().library().check(FORBID_CUDA_CALLS, code)
    }

    /// Says no to what an option permits; libfabric's code.
    fn forbid(&self, option: c_int) -> c_int {
        let value = false;
        // SAFETY: the endpoint is open; the option is a `bool`, which is read before the call returns.
        unsafe {
            sys::call::fi_setopt(
                self.raw.as_ptr(),
                sys::FI_OPT_ENDPOINT,
                option,
                (&raw const value).cast(),
                size_of::<bool>(),
            )
        }
    }

    /// Whether reads are the device's own; else the provider makes them of messages, which the peer must answer in its
    /// calls.
    pub fn reads_by_device(&self) -> bool {
        let mut is_emulated = true;
        let mut len = size_of::<bool>();
        // SAFETY: the endpoint is open; the option is a `bool`.
        let code = unsafe {
            sys::call::fi_getopt(
                self.raw.as_ptr(),
                sys::FI_OPT_ENDPOINT,
                sys::FI_OPT_EFA_EMULATED_READ,
                (&raw mut is_emulated).cast(),
                &raw mut len,
            )
        };
        code == 0 && !is_emulated
    }

    /// The domain that it is in.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// Its address, for the peers' address vectors.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_getname`.
    pub fn address(&self) -> Result<Vec<u8>, FabricError> {
        let mut address = vec![0; 256];
        let mut len = address.len();
        // SAFETY: the endpoint is open; at most `len` bytes are written, and `len` then says how many.
        let code =
            unsafe { sys::call::fi_getname(self.raw.as_ptr(), address.as_mut_ptr().cast(), &raw mut len) };
        self.domain.info().library().check("fi_getname", code)?;
        address.truncate(len);
        Ok(address)
    }

    /// Posts a receive for a message with this tag, but for the bits in `ignored`, from anybody. `Ok(false)`: the queue is
    /// full.
    ///
    /// # Safety
    ///
    /// `memory` and the 64 bytes at `context` belong to the provider until the completion was read or the endpoint
    /// closed: nobody reads, writes or frees them.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_trecv`.
    pub unsafe fn post_receive(
        &self,
        tag: u64,
        ignored: u64,
        memory: *mut [u8],
        region: Option<&MemoryRegion>,
        context: *mut c_void,
    ) -> Result<bool, FabricError> {
        // SAFETY: the endpoint is open; the memory is the caller's promise.
        let returned = unsafe {
            sys::call::fi_trecv(
                self.raw.as_ptr(),
                memory.cast(),
                memory.len(),
                region.map_or(ptr::null_mut(), MemoryRegion::descriptor),
                sys::FI_ADDR_UNSPEC,
                tag,
                ignored,
                context,
            )
        };
        self.domain.info().library().check_post("fi_trecv", returned)
    }

    /// Posts a send of one message made of `parts`, two at most. `Ok(false)`: the queue is full, or the connection is
    /// being made; progress, then try again.
    ///
    /// # Safety
    ///
    /// The parts stay allocated and unchanged, and the 64 bytes at `context` belong to the provider, until the
    /// completion was read or the endpoint closed.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_tsendmsg`.
    ///
    /// # Panics
    ///
    /// With more than two parts.
    pub unsafe fn post_send(
        &self,
        to: FabricAddress,
        tag: u64,
        parts: &[Part<'_>],
        context: *mut c_void,
    ) -> Result<bool, FabricError> {
        assert!(parts.len() <= MAX_PARTS, "a message has two parts at most");
        let mut iov = [sys::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MAX_PARTS];
        let mut desc = [ptr::null_mut(); MAX_PARTS];
        for (index, part) in parts.iter().enumerate() {
            iov[index] = sys::iovec { iov_base: part.memory.cast_mut().cast(), iov_len: part.memory.len() };
            desc[index] = part.region.map_or(ptr::null_mut(), MemoryRegion::descriptor);
        }
        let message = sys::fi_msg_tagged {
            msg_iov: iov.as_ptr(),
            desc: desc.as_mut_ptr(),
            iov_count: parts.len(),
            addr: to.0,
            tag,
            context,
            ..sys::zeroed()
        };
        // SAFETY: the endpoint is open; `message` and its tables are read before the call returns, the memory they
        // name is the caller's promise.
        let returned =
            unsafe { sys::call::fi_tsendmsg(self.raw.as_ptr(), &raw const message, sys::FI_COMPLETION) };
        self.domain.info().library().check_post("fi_tsendmsg", returned)
    }

    /// Posts a write into a peer's memory, which tells the peer `data` when it is there. `Ok(false)`: the queue is full.
    ///
    /// # Safety
    ///
    /// As [`Endpoint::post_send`]; and the peer has opened the memory to us for such writes.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_writedata`.
    pub unsafe fn post_write(
        &self,
        to: FabricAddress,
        part: Part<'_>,
        target: Target,
        data: u32,
        context: *mut c_void,
    ) -> Result<bool, FabricError> {
        // SAFETY: the endpoint is open; the memory is the caller's promise.
        let returned = unsafe {
            sys::call::fi_writedata(
                self.raw.as_ptr(),
                part.memory.cast(),
                part.memory.len(),
                part.region.map_or(ptr::null_mut(), MemoryRegion::descriptor),
                data.into(),
                to.0,
                target.address,
                target.key,
                context,
            )
        };
        self.domain.info().library().check_post("fi_writedata", returned)
    }

    /// Posts a read from a peer's memory into a part of ours. `Ok(false)`: the queue is full.
    ///
    /// # Safety
    ///
    /// `memory` and the 64 bytes at `context` belong to the provider until the completion was read or the endpoint closed; and
    /// the peer has opened its memory to us for such reads.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_read`.
    pub unsafe fn post_read(
        &self,
        from: FabricAddress,
        memory: *mut [u8],
        region: &MemoryRegion,
        source: Target,
        context: *mut c_void,
    ) -> Result<bool, FabricError> {
        // SAFETY: the endpoint is open; the memory is the caller's promise.
        let returned = unsafe {
            sys::call::fi_read(
                self.raw.as_ptr(),
                memory.cast(),
                memory.len(),
                region.descriptor(),
                from.0,
                source.address,
                source.key,
                context,
            )
        };
        self.domain.info().library().check_post("fi_read", returned)
    }

    /// Posts a receive without a tag, from anybody, as data that a write brings takes one. `Ok(false)`: the queue is full.
    ///
    /// # Safety
    ///
    /// As [`Endpoint::post_receive`].
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_recv`.
    pub unsafe fn post_receive_for_data(
        &self,
        memory: *mut [u8],
        region: &MemoryRegion,
        context: *mut c_void,
    ) -> Result<bool, FabricError> {
        // SAFETY: the endpoint is open; memory and context are the caller's promise.
        let returned = unsafe {
            sys::call::fi_recv(
                self.raw.as_ptr(),
                memory.cast(),
                memory.len(),
                region.descriptor(),
                sys::FI_ADDR_UNSPEC,
                context,
            )
        };
        self.domain.info().library().check_post("fi_recv", returned)
    }

    /// Closes it. When it returns `Ok`, the provider touches no memory of its operations any more.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_close`: the endpoint is left open, and memory that it was given must be left
    /// allocated.
    pub fn close(self) -> Result<(), FabricError> {
        let endpoint = ManuallyDrop::new(self);
        // SAFETY: `endpoint` is never dropped, so that each field is taken out once.
        let bound = unsafe {
            (
                ptr::read(&raw const endpoint.av),
                ptr::read(&raw const endpoint.cq),
                ptr::read(&raw const endpoint.eq),
                ptr::read(&raw const endpoint.domain),
            )
        };
        // SAFETY: opened by `open`, and closed only here, since `drop` does not run.
        let code = unsafe { sys::call::fi_close(endpoint.raw.as_ptr().cast()) };
        let result = bound.3.info().library().check("fi_close", code);
        if result.is_err() {
            // An open endpoint goes on using what is bound to it.
            std::mem::forget(bound);
        }
        result
    }

    pub(super) fn as_ptr(&self) -> *mut sys::fid_ep {
        self.raw.as_ptr()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed only here or in `close`.
        let code = unsafe { sys::call::fi_close(self.raw.as_ptr().cast()) };
        log_close(self.domain.info(), "endpoint", code);
    }
}

const MAX_PARTS: usize = 2;
/// The call that fails where the provider cannot move GPU memory by the card.
pub const FORBID_CUDA_CALLS: &str = "fi_setopt(FI_OPT_CUDA_API_PERMITTED)";
