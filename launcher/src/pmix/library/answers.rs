//! What libpmix waits for: each of its functions with its argument, which is called once.

use std::ffi::{CString, c_char, c_void};
use std::ptr;

use super::abi;
use super::infos::{Infos, padded};
use super::names;
use crate::pmix::description::Info;
use crate::pmix::protocol::Published;

/// An argument of libpmix's own, which only goes back to it.
#[derive(Debug)]
struct Cookie(*mut c_void);

// SAFETY: libpmix lets its functions be called on any thread: they pass what they are given on to its own.
unsafe impl Send for Cookie {}

/// Waits for the end of an operation.
#[derive(Debug)]
pub(in crate::pmix) struct Operation {
    call: abi::OpDone,
    cookie: Cookie,
}

impl Operation {
    /// None where libpmix wants no answer.
    pub(super) fn new(call: Option<abi::OpDone>, cookie: *mut c_void) -> Option<Operation> {
        Some(Operation { call: call?, cookie: Cookie(cookie) })
    }

    /// Tells whether it could be done.
    pub(in crate::pmix) fn done(self, is_done: bool) {
        let status = if is_done { abi::SUCCESS } else { abi::NOT_FOUND };
        // SAFETY: libpmix gave both for this, and `self` is used up.
        unsafe { (self.call)(status, self.cookie.0) };
    }
}

/// Waits for what ranks tell about themselves.
#[derive(Debug)]
pub(in crate::pmix) struct Cards {
    call: abi::ModexDone,
    cookie: Cookie,
}

impl Cards {
    /// None where libpmix wants no answer.
    pub(super) fn new(call: Option<abi::ModexDone>, cookie: *mut c_void) -> Option<Cards> {
        Some(Cards { call: call?, cookie: Cookie(cookie) })
    }

    /// Gives it, or says that there is none.
    pub(in crate::pmix) fn give(self, blob: Option<Vec<u8>>) {
        let (status, blob) = match blob {
            Some(blob) => (abi::SUCCESS, blob),
            None => (abi::ERROR, Vec::new()),
        };
        let len = blob.len();
        let blob = Box::new(blob);
        let start = if len == 0 { ptr::null() } else { blob.as_ptr().cast::<c_char>() };
        let own = Box::into_raw(blob).cast::<c_void>();
        // SAFETY: libpmix gave both for this, and `self` is used up. The bytes live until it calls `release`.
        unsafe { (self.call)(status, start, len, self.cookie.0, Some(release), own) };
    }
}

/// Gives the memory of a [`Cards::give`] back.
unsafe extern "C" fn release(own: *mut c_void) {
    // SAFETY: made by `into_raw` of such a box, and libpmix calls this once.
    drop(unsafe { Box::from_raw(own.cast::<Vec<u8>>()) });
}

/// Waits for what was published.
#[derive(Debug)]
pub(in crate::pmix) struct Finds {
    call: abi::LookupDone,
    cookie: Cookie,
}

impl Finds {
    /// None where libpmix wants no answer.
    pub(super) fn new(call: Option<abi::LookupDone>, cookie: *mut c_void) -> Option<Finds> {
        Some(Finds { call: call?, cookie: Cookie(cookie) })
    }

    /// Gives what was found.
    pub(in crate::pmix) fn give(self, found: &[Published]) {
        let texts: Vec<CString> =
            found.iter().map(|value| CString::new(value.bytes.clone()).unwrap_or_default()).collect();
        let mut values: Vec<abi::Published> = found
            .iter()
            .zip(&texts)
            .map(|(value, text)| abi::Published {
                proc: names::proc_of(value.rank),
                key: padded(&value.key),
                value: abi::Value { kind: value.kind, data: data_of(value, text) },
            })
            .collect();
        let status = if values.is_empty() { abi::NOT_FOUND } else { abi::SUCCESS };
        // SAFETY: libpmix gave both for this, and `self` is used up. It copies the values before it returns.
        unsafe { (self.call)(status, values.as_mut_ptr(), values.len(), self.cookie.0) };
    }
}

/// Waits for a world.
#[derive(Debug)]
pub(in crate::pmix) struct Spawns {
    call: abi::SpawnDone,
    cookie: Cookie,
}

impl Spawns {
    /// None where libpmix wants no answer.
    pub(super) fn new(call: Option<abi::SpawnDone>, cookie: *mut c_void) -> Option<Spawns> {
        Some(Spawns { call: call?, cookie: Cookie(cookie) })
    }

    /// Names the world's name space, or says that there is no world.
    pub(in crate::pmix) fn give(self, nspace: Option<&str>) {
        let status = if nspace.is_some() { abi::SUCCESS } else { abi::OUT_OF_RESOURCE };
        let name = padded::<{ abi::NSPACE_BYTES }>(nspace.unwrap_or_default().as_bytes());
        // SAFETY: libpmix gave both for this, and `self` is used up. It copies the name before it returns.
        unsafe { (self.call)(status, name.as_ptr(), self.cookie.0) };
    }
}

/// Waits for infos.
#[derive(Debug)]
pub(in crate::pmix) struct Facts {
    call: abi::InfoDone,
    cookie: Cookie,
}

impl Facts {
    /// None where libpmix wants no answer.
    pub(super) fn new(call: Option<abi::InfoDone>, cookie: *mut c_void) -> Option<Facts> {
        Some(Facts { call: call?, cookie: Cookie(cookie) })
    }

    /// Gives what was found of so many things that were asked for.
    pub(in crate::pmix) fn give(self, found: &[Info], asked: usize) {
        let status = match found.len() {
            0 if asked > 0 => abi::NOT_SUPPORTED,
            count if count < asked => abi::PARTIAL_SUCCESS,
            _ => abi::SUCCESS,
        };
        // Nothing in it is a list that libpmix would have to write.
        let mut infos = Box::new(Infos::new(found, &mut |_| None));
        let len = infos.len();
        let start = if len == 0 { ptr::null_mut() } else { infos.as_mut_ptr() };
        let own = Box::into_raw(infos).cast::<c_void>();
        // SAFETY: libpmix gave both for this, and `self` is used up. The infos live until it calls `release_infos`.
        unsafe { (self.call)(status, start, len, self.cookie.0, Some(release_infos), own) };
    }

    /// Says that it cannot be done.
    pub(in crate::pmix) fn refuse(self) {
        // SAFETY: libpmix gave both for this, and `self` is used up.
        unsafe { (self.call)(abi::ERROR, ptr::null_mut(), 0, self.cookie.0, None, ptr::null_mut()) };
    }
}

/// Gives the memory of a [`Facts::give`] back.
unsafe extern "C" fn release_infos(own: *mut c_void) {
    // SAFETY: made by `into_raw` of such a box, and libpmix calls this once.
    drop(unsafe { Box::from_raw(own.cast::<Infos>()) });
}

/// A value's data, which points into `text` or the value's own bytes where it points anywhere.
fn data_of(value: &Published, text: &CString) -> abi::Data {
    let mut data = abi::Data { whole: [0; 3] };
    match value.kind {
        abi::STRING => data.text = text.as_ptr().cast_mut(),
        abi::BYTE_OBJECT => {
            let start = value.bytes.as_ptr().cast::<c_char>().cast_mut();
            data.bytes = abi::Bytes { start, len: value.bytes.len() };
        }
        _ => data.word = value.bytes.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word)),
    }
    data
}
