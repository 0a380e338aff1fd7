//! Memory of the caller that a connection reads from or writes to after the call has returned.
//!
//! # Safety
//!
//! A [`Payload`] is made under the contract of [`crate::transport::Transport::try_send`]: its bytes stay allocated and
//! unchanged until the send's token came out of `poll`, or until `close` has returned. The transport drops a payload
//! before it gives the token out, and all of them in `close`; so its bytes are there as long as it is.
//!
//! A [`Landing`] is made under the contract of [`crate::transport::Transport::expect`]: nobody else touches its bytes
//! until `arrived` has shown the message that it is for, and nobody changes them until that is released. The transport
//! makes one per peer at a time, writes through it before it shows that message only, and drops it when the message is
//! released, and all of them in `close`.
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

/// Bytes of the caller of `expect`, for one message's payload.
#[derive(Debug)]
pub(super) struct Landing(*mut [u8]);

// SAFETY: it is a promise of memory that whoever has it may write from any thread.
unsafe impl Send for Landing {}

impl Landing {
    /// Takes the caller's memory.
    ///
    /// # Safety
    ///
    /// As long as this lives, the memory stays allocated, and nobody changes it. Until the message is shown nobody reads
    /// it; from then on nobody calls [`Landing::bytes_mut`].
    pub(super) unsafe fn new(bytes: *mut [u8]) -> Landing {
        Landing(bytes)
    }

    /// The bytes, when the message is shown.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated, initialised and not changed by anybody, as whoever made it promised.
        unsafe { &*self.0 }
    }

    /// The bytes, while the message arrives.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: allocated and initialised; nobody else has a reference before the message is shown.
        unsafe { &mut *self.0 }
    }
}
