//! The libfabric of this process.
//!
//! # Safety
//!
//! Only text is taken from the library here: C strings that it keeps for ever or for the calling thread, copied at
//! once.
#![expect(unsafe_code, reason = "calls into C; the module's Safety paragraph says why it is sound")]

use std::ffi::{CStr, c_int};
use std::ops::Deref;
use std::sync::Arc;

use libfabric_sys as sys;

use super::error::FabricError;

/// An opened libfabric. Cloning it is cheap; the library itself stays for the life of the process.
#[derive(Clone, Debug)]
pub struct Library(Arc<sys::Library>);

impl Library {
    /// Opens the `libfabric.so.1` that LD_LIBRARY_PATH or the system gives, else AWS's.
    ///
    /// # Errors
    ///
    /// [`FabricError::Library`].
    pub fn open() -> Result<Self, FabricError> {
        Ok(Library(Arc::new(sys::Library::open()?)))
    }

    /// The text for a code, positive as in [`FabricError::Call`].
    pub fn text(&self, code: i32) -> String {
        // SAFETY: any number may be asked; the string is the library's.
        let text = unsafe { (self.fi_strerror)(code) };
        if text.is_null() {
            return format!("code {code}");
        }
        // SAFETY: not null, hence a C string that stays until this thread's next call.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// The error for what a call returned, as it returned it: negative.
    pub(super) fn error(&self, call: &'static str, returned: isize) -> FabricError {
        let code = returned.unsigned_abs().try_into().unwrap_or(sys::FI_EOTHER);
        FabricError::Call { call, code, text: self.text(code) }
    }

    pub(super) fn check(&self, call: &'static str, returned: c_int) -> Result<(), FabricError> {
        if returned < 0 { Err(self.error(call, returned as isize)) } else { Ok(()) }
    }

    /// For calls that may find a queue full: `Ok(false)`. The EFA provider of 1.22 passes on the card's word for that, which
    /// is that there is no memory, and not negated.
    pub(super) fn check_post(&self, call: &'static str, returned: isize) -> Result<bool, FabricError> {
        match returned {
            0 => Ok(true),
            code if [sys::FI_EAGAIN, sys::FI_ENOMEM].contains(&code.abs().try_into().unwrap_or(0)) => {
                Ok(false)
            }
            code => Err(self.error(call, code)),
        }
    }
}

impl Deref for Library {
    type Target = sys::Library;

    fn deref(&self) -> &sys::Library {
        &self.0
    }
}
