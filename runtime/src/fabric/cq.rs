//! What operations end in.
//!
//! # Safety
//!
//! The object is open from `fi_cq_open` until this type drops it, which is after the endpoints bound to it, since
//! they hold it. Entries and error entries are zeroed and of the largest size that a library writes.
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph says why it is sound")]

use std::ffi::{CStr, c_int};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use libfabric_sys as sys;

use super::domain::Domain;
use super::error::FabricError;
use super::fabric::{log_close, no_object};
use super::info::Service;

/// A completion queue.
#[derive(Debug)]
pub struct CompletionQueue {
    raw: NonNull<sys::fid_cq>,
    domain: Arc<Domain>,
    can_wait: bool,
    /// Bytes from one entry to the next.
    entry_bytes: usize,
}

// SAFETY: objects of a domain are opened with FI_THREAD_SAFE.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

/// An operation that is over and went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The address of the operation's context.
    pub context: usize,
    /// Bytes received; meaningless for a send.
    pub len_bytes: usize,
    /// The data that came with it, where some did.
    pub data: Option<u32>,
    /// The tag of what was received, where messages have tags.
    pub tag: u64,
}

/// An operation that is over and failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The address of the operation's context; 0 where the provider names no operation.
    pub context: usize,
    /// libfabric's code, positive.
    pub code: i32,
    /// The provider's own code.
    pub provider_code: i32,
    /// What it says about it, the provider's own word included.
    pub text: String,
}

impl CompletionQueue {
    /// Opens a queue for `size` operations at once; one that can be waited for where the provider has such. EFA's is
    /// not: it moves messages in our calls only.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_cq_open`.
    pub fn open(domain: &Arc<Domain>, size: usize) -> Result<Arc<Self>, FabricError> {
        let library = domain.info().library();
        let (format, entry_bytes) = match domain.info().service() {
            Service::Tagged => (sys::FI_CQ_FORMAT_TAGGED, size_of::<sys::fi_cq_tagged_entry>()),
            Service::Writes | Service::Reads => (sys::FI_CQ_FORMAT_DATA, size_of::<sys::fi_cq_data_entry>()),
        };
        let open = |wait_obj| {
            let mut attr = sys::fi_cq_attr { size, format, wait_obj, ..sys::zeroed() };
            let mut raw = ptr::null_mut();
            // SAFETY: the domain is open; the attributes are of full size and only read.
            let code = unsafe {
                sys::call::fi_cq_open(domain.as_ptr(), &raw mut attr, &raw mut raw, ptr::null_mut())
            };
            library.check("fi_cq_open", code).map(|()| raw)
        };
        let may_wait = !domain.info().is_efa();
        let (raw, can_wait) = match if may_wait { open(sys::FI_WAIT_UNSPEC) } else { open(sys::FI_WAIT_NONE) }
        {
            Ok(raw) => (raw, may_wait),
            Err(error) => {
                log::debug!("{} has no completion queue to wait for: {error}", domain.info().provider());
                (open(sys::FI_WAIT_NONE)?, false)
            }
        };
        let raw = NonNull::new(raw).ok_or_else(|| no_object(domain.info(), "fi_cq_open"))?;
        Ok(Arc::new(CompletionQueue { raw, domain: domain.clone(), can_wait, entry_bytes }))
    }

    /// Makes progress and appends what is over, some of it at least when there is any. Never sleeps.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] when the queue itself cannot be read.
    pub fn read(
        &self,
        completions: &mut Vec<Completion>,
        failures: &mut Vec<Failure>,
    ) -> Result<(), FabricError> {
        for _ in 0..MAX_BATCHES {
            let mut entries = [sys::zeroed::<sys::fi_cq_tagged_entry>(); BATCH];
            // SAFETY: the queue is open; the library writes at most BATCH entries, of this size or a smaller one.
            let read =
                unsafe { sys::call::fi_cq_read(self.raw.as_ptr(), entries.as_mut_ptr().cast(), BATCH) };
            let count = self.take("fi_cq_read", read, &entries, completions, failures)?;
            if count < BATCH {
                return Ok(());
            }
        }
        Ok(())
    }

    /// As [`CompletionQueue::read`], but sleeps until there is something, or for about `timeout`; where the provider cannot
    /// be waited for, for `nap` at most. May return early with nothing.
    ///
    /// # Errors
    ///
    /// As [`CompletionQueue::read`].
    pub fn wait(
        &self,
        timeout: Duration,
        nap: Duration,
        completions: &mut Vec<Completion>,
        failures: &mut Vec<Failure>,
    ) -> Result<(), FabricError> {
        if !self.can_wait {
            std::thread::sleep(timeout.min(nap));
            return self.read(completions, failures);
        }
        let timeout_ms = c_int::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX);
        let mut entries = [sys::zeroed::<sys::fi_cq_tagged_entry>(); BATCH];
        // SAFETY: the queue is open and was opened for waiting; the library writes at most BATCH entries.
        let read = unsafe {
            sys::call::fi_cq_sread(
                self.raw.as_ptr(),
                entries.as_mut_ptr().cast(),
                BATCH,
                ptr::null(),
                timeout_ms,
            )
        };
        self.take("fi_cq_sread", read, &entries, completions, failures)?;
        Ok(())
    }

    pub(super) fn as_ptr(&self) -> *mut sys::fid_cq {
        self.raw.as_ptr()
    }

    /// How many entries a read took, errors counted as a full batch: there may be more behind them.
    fn take(
        &self,
        call: &'static str,
        read: isize,
        entries: &[sys::fi_cq_tagged_entry],
        completions: &mut Vec<Completion>,
        failures: &mut Vec<Failure>,
    ) -> Result<usize, FabricError> {
        if let Ok(count) = usize::try_from(read) {
            completions.extend((0..count.min(entries.len())).map(|index| self.completion(entries, index)));
            return Ok(count);
        }
        match i32::try_from(-read).unwrap_or(sys::FI_EOTHER) {
            sys::FI_EAGAIN | sys::FI_EINTR | libc::ETIMEDOUT => Ok(0),
            sys::FI_EAVAIL => {
                failures.extend(self.read_failure()?);
                Ok(BATCH)
            }
            _ => Err(self.domain.info().library().error(call, read)),
        }
    }

    fn completion(&self, entries: &[sys::fi_cq_tagged_entry], index: usize) -> Completion {
        // SAFETY: `index` is below what the library wrote, which lies in `entries` at distances of `entry_bytes`; an
        // entry of either format begins with these fields, and is aligned as the other, as all of it are words.
        let entry = unsafe {
            entries.as_ptr().byte_add(index * self.entry_bytes).cast::<sys::fi_cq_data_entry>().read()
        };
        let data = (entry.flags & sys::FI_REMOTE_CQ_DATA != 0).then_some(entry.data as u32);
        let has_tags = self.entry_bytes == size_of::<sys::fi_cq_tagged_entry>();
        let tag = if has_tags { entries[index].tag } else { 0 };
        Completion { context: entry.op_context as usize, len_bytes: entry.len, data, tag }
    }

    fn read_failure(&self) -> Result<Option<Failure>, FabricError> {
        let library = self.domain.info().library();
        let mut entry = sys::zeroed::<sys::fi_cq_err_entry>();
        // SAFETY: the queue is open, the entry of full size, with no buffer for error data.
        let read = unsafe { sys::call::fi_cq_readerr(self.raw.as_ptr(), &raw mut entry, 0) };
        match read {
            0 => return Ok(None),
            code if code == -(sys::FI_EAGAIN as isize) => return Ok(None),
            code if code < 0 => return Err(library.error("fi_cq_readerr", code)),
            _ => {}
        }
        let general = library.text(entry.err);
        let own = self.provider_text(&entry);
        let text = if own.is_empty() || own == general { general } else { format!("{general} ({own})") };
        let (context, provider_code) = (entry.op_context as usize, entry.prov_errno);
        Ok(Some(Failure { context, code: entry.err, provider_code, text }))
    }

    fn provider_text(&self, entry: &sys::fi_cq_err_entry) -> String {
        // The utility providers hand this number to fi_strerror as it is, though they store it negated.
        let number = match self.domain.info().provider() {
            "efa" => entry.prov_errno,
            _ => entry.prov_errno.abs(),
        };
        let mut buffer = [0; 256];
        // SAFETY: the queue is open, and its error data is valid until it is read again.
        let text = unsafe {
            sys::call::fi_cq_strerror(
                self.raw.as_ptr(),
                number,
                entry.err_data,
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: not null: a C string in `buffer` or in the library.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed only here, and no endpoint is bound any more.
        let code = unsafe { sys::call::fi_close(self.raw.as_ptr().cast()) };
        log_close(self.domain.info(), "completion queue", code);
    }
}

/// Entries that one call reads.
const BATCH: usize = 16;
/// So that a busy queue cannot hold its reader for ever.
const MAX_BATCHES: usize = 16;
