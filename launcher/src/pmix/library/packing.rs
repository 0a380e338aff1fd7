//! Infos of any kind as bytes, by libpmix's own functions: what a rank tells all others is read on their nodes.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::OnceLock;

use super::abi;

/// libpmix's functions for it. They may be called on any thread.
pub(super) struct Packing {
    pub(super) pack: abi::Pack,
    pub(super) unpack: abi::Unpack,
    /// Gives back what an info points to. Release 3 has no such function: there it stays for as long as the server.
    pub(super) free: Option<abi::FreeInfo>,
}

/// Its functions that call the server have no argument of ours, and there is one server in a process.
static PACKING: OnceLock<Packing> = OnceLock::new();

/// Says which functions to use; once in a process.
pub(super) fn use_of(packing: Packing) {
    assert!(PACKING.set(packing).is_ok(), "a helper is one server");
}

/// Makes bytes of infos. None where the library cannot.
pub(super) fn packed(infos: &[abi::Info]) -> Option<Vec<u8>> {
    let packing = PACKING.get()?;
    let count = i32::try_from(infos.len()).ok()?;
    if infos.is_empty() {
        return Some(Vec::new());
    }
    let mut buffer = abi::DataBuffer::EMPTY;
    // SAFETY: the library reads so many infos, and lengthens the buffer by malloc's memory, which is freed here.
    unsafe {
        let start = infos.as_ptr().cast_mut().cast::<c_void>();
        let status = (packing.pack)(ptr::null(), &mut buffer, start, count, abi::INFO);
        let bytes = (status == abi::SUCCESS && !buffer.base.is_null())
            .then(|| std::slice::from_raw_parts(buffer.base.cast::<u8>(), buffer.used).to_vec());
        libc::free(buffer.base.cast());
        bytes
    }
}

/// Infos that were bytes, with what they point to.
pub(super) struct Unpacked {
    infos: Vec<abi::Info>,
}

// SAFETY: whatever the infos point to is theirs alone, and malloc's.
unsafe impl Send for Unpacked {}

impl Unpacked {
    /// Reads so many infos. None where these bytes are something else, or from a library that writes otherwise.
    pub(super) fn read(bytes: &[u8], count: u32) -> Option<Unpacked> {
        let packing = PACKING.get()?;
        // An info has a key at least, so that no more are made than there can be.
        if count as usize > bytes.len() {
            return None;
        }
        let nothing = abi::Value { kind: 0, data: abi::Data { whole: [0; 3] } };
        let empty = abi::Info { key: [0; abi::KEY_BYTES], flags: 0, value: nothing };
        let mut read = Unpacked { infos: vec![empty; count as usize] };
        if count == 0 {
            return Some(read);
        }
        // SAFETY: a copy by malloc, as the library may give it back or move it. It writes so many infos at most, and what
        // they point to is ours from then on.
        unsafe {
            let base = libc::malloc(bytes.len()).cast::<c_char>();
            if base.is_null() {
                return None;
            }
            ptr::copy_nonoverlapping(bytes.as_ptr().cast(), base, bytes.len());
            let end = base.add(bytes.len());
            let (allocated, used) = (bytes.len(), bytes.len());
            let mut buffer = abi::DataBuffer { base, pack: end, unpack: base, allocated, used };
            let mut found = i32::try_from(count).ok()?;
            let start = read.infos.as_mut_ptr().cast::<c_void>();
            let status = (packing.unpack)(ptr::null(), &mut buffer, start, &mut found, abi::INFO);
            libc::free(buffer.base.cast());
            (status == abi::SUCCESS && u32::try_from(found) == Ok(count)).then_some(read)
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut abi::Info {
        if self.infos.is_empty() { ptr::null_mut() } else { self.infos.as_mut_ptr() }
    }

    pub(super) fn len(&self) -> usize {
        self.infos.len()
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let Some(free) = PACKING.get().and_then(|packing| packing.free) else { return };
        for info in &mut self.infos {
            // SAFETY: each is an info that the library has written or that is empty, and is given back once.
            unsafe { free(info) };
        }
    }
}
