//! How a function ends: NCCL's result, and a sentence for `ncclGetLastError`.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use efarun_rt::Error;
use efarun_rt::bootstrap::BootstrapError;
use efarun_rt::cuda::CudaError;

use crate::abi::Code;

/// `ncclResult_t`, as far as we answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Outcome {
    Success = 0,
    UnhandledCudaError = 1,
    SystemError = 2,
    InternalError = 3,
    InvalidArgument = 4,
    InvalidUsage = 5,
    RemoteError = 6,
}

impl Outcome {
    /// What `ncclGetErrorString` says of a code.
    pub(crate) fn text(code: Code) -> &'static CStr {
        match code {
            0 => c"no error",
            1 => c"a CUDA call failed: ncclGetLastError says which",
            2 => c"a system call failed: ncclGetLastError says which",
            3 => c"internal error of efarun's libnccl: ncclGetLastError says where",
            4 => c"an argument is invalid: ncclGetLastError says which",
            5 => c"invalid usage: ncclGetLastError says what",
            6 => c"a rank is lost, or did not come before the deadline: ncclGetLastError says which",
            7 => c"in progress",
            _ => c"no ncclResult_t",
        }
    }
}

/// Why a function did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn argument(reason: impl Into<String>) -> Failure {
        Failure { outcome: Outcome::InvalidArgument, reason: reason.into() }
    }

    pub(crate) fn usage(reason: impl Into<String>) -> Failure {
        Failure { outcome: Outcome::InvalidUsage, reason: reason.into() }
    }

    pub(crate) fn internal(reason: impl Into<String>) -> Failure {
        Failure { outcome: Outcome::InternalError, reason: reason.into() }
    }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl From<CudaError> for Failure {
    fn from(error: CudaError) -> Self {
        let outcome = match error {
            CudaError::NoSuchDevice { .. } => Outcome::InvalidArgument,
            _ => Outcome::UnhandledCudaError,
        };
        Failure { outcome, reason: error.to_string() }
    }
}

impl From<BootstrapError> for Failure {
    fn from(error: BootstrapError) -> Self {
        Failure { outcome: Outcome::SystemError, reason: told(&error) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let outcome = match &error {
            Error::Gpu { .. } => Outcome::UnhandledCudaError,
            Error::Setup { .. }
            | Error::PeerSetup { .. }
            | Error::Settings { .. }
            | Error::Mismatch { .. } => Outcome::InvalidUsage,
            Error::Root { .. } | Error::Lengths { .. } | Error::Blocks { .. } => Outcome::InvalidArgument,
            Error::Timeout { .. }
            | Error::PeerLost { .. }
            | Error::Aborted { .. }
            | Error::BootstrapLost { .. } => Outcome::RemoteError,
            Error::Broken { .. } => Outcome::InvalidUsage,
            _ => Outcome::SystemError,
        };
        Failure { outcome, reason: told(&error) }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the sentence for `ncclGetLastError` on this thread, and gives the code.
pub(crate) fn answer(result: Result<(), Failure>) -> Code {
    let Err(Failure { outcome, reason }) = result else { return Outcome::Success as Code };
    log::debug!("{outcome:?}: {reason}");
    LAST.with(|last| *last.borrow_mut() = CString::new(reason.replace('\0', " ")).unwrap_or_default());
    outcome as Code
}

/// The sentence of the last function that failed on this thread; empty before any has. It stays until the next one fails.
pub(crate) fn last_reason() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_failure_of_a_thread_is_told_and_success_does_not_clear_it() {
        assert_eq!(answer(Err(Failure::usage("a reason"))), 5);
        assert_eq!(answer(Ok(())), 0);
        LAST.with(|last| assert_eq!(last.borrow().to_str(), Ok("a reason")));
        let elsewhere = std::thread::spawn(|| LAST.with(|last| last.borrow().clone()));
        assert!(elsewhere.join().expect("it runs").is_empty());
    }
}
