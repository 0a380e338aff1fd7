//! A payload that is not sent to its end yet.
//!
//! # Safety
//!
//! A [`Payload`] is made under the contract of [`crate::transport::Transport::try_send`]: its bytes stay allocated and
//! unchanged until the send's token came out of `poll`, or until `close` has returned. The transport drops a payload
//! before it gives the token out, and all of them in `close`; so its bytes are there as long as it is.
#![allow(unsafe_code)]

/// Bytes of the caller of `try_send`.
#[derive(Debug)]
pub(super) struct Payload(*const [u8]);

// SAFETY: it is a promise to keep memory that any thread may read.
unsafe impl Send for Payload {}

impl Payload {
    /// Takes the caller's memory.
    ///
    /// # Safety
    ///
    /// The memory stays allocated and unchanged as long as this lives.
    pub(super) unsafe fn new(bytes: *const [u8]) -> Payload {
        Payload(bytes)
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and unchanged, as whoever made it promised.
        unsafe { &*self.0 }
    }
}
