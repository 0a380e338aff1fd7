//! C arrays of keys and values, made from [`description`](crate::pmix::description), and texts going in and out of C.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use super::{abi, names};
use crate::pmix::description::{Info, Value};

/// An array of infos with all that it points to.
pub(super) struct Infos {
    infos: Vec<abi::Info>,
    // The infos have pointers into the heap blocks of these, which never move: there is room for all arrays from the start.
    texts: Vec<CString>,
    arrays: Vec<abi::Array>,
    lists: Vec<Infos>,
    procs: Vec<Vec<abi::Proc>>,
}

// SAFETY: all that its pointers lead to is its own.
unsafe impl Send for Infos {}

impl Infos {
    /// Makes an array. `text` writes lists of nodes and of their ranks as the library wants them.
    pub(super) fn new(infos: &[Info], written: &mut impl FnMut(&Value) -> Option<CString>) -> Infos {
        let list_count =
            infos.iter().filter(|info| matches!(info.value, Value::List(_) | Value::Ranks(_))).count();
        let arrays = Vec::with_capacity(list_count);
        let mut made =
            Infos { infos: Vec::new(), texts: Vec::new(), arrays, lists: Vec::new(), procs: Vec::new() };
        for info in infos {
            let (kind, data) = made.data(&info.value, written);
            made.infos.push(abi::Info {
                key: padded(info.key.as_bytes()),
                flags: 0,
                value: abi::Value { kind, data },
            });
        }
        made
    }

    fn data(
        &mut self,
        value: &Value,
        written: &mut impl FnMut(&Value) -> Option<CString>,
    ) -> (u16, abi::Data) {
        let mut data = abi::Data { whole: [0; 3] };
        let kind = match value {
            Value::Text(text) => {
                data.text = self.keep(CString::new(text.as_str()).unwrap_or_default());
                abi::STRING
            }
            Value::Nodes(_) | Value::RanksOfNodes(_) => {
                data.text = self.keep(written(value).unwrap_or_default());
                abi::STRING
            }
            Value::Number(number) => {
                data.number = *number;
                abi::UINT32
            }
            Value::Short(number) => {
                data.short = *number;
                abi::UINT16
            }
            Value::Rank(rank) => {
                data.number = *rank;
                abi::PROC_RANK
            }
            Value::Size(size) => {
                data.word = *size;
                abi::SIZE
            }
            Value::Bytes(bytes) => {
                // SAFETY: so many bytes of malloc's, if it has them.
                let start = unsafe {
                    let start = libc::malloc(bytes.len()).cast::<c_char>();
                    if !start.is_null() {
                        ptr::copy_nonoverlapping(bytes.as_ptr().cast(), start, bytes.len());
                    }
                    start
                };
                let len = if start.is_null() { 0 } else { bytes.len() };
                data.bytes = abi::Bytes { start, len };
                abi::BYTE_OBJECT
            }
            Value::Ranks(ranks) => {
                let mut procs: Vec<abi::Proc> = ranks.iter().copied().map(names::proc_of).collect();
                let start = procs.as_mut_ptr().cast::<c_void>();
                self.arrays.push(abi::Array { kind: abi::PROC, len: procs.len(), start });
                data.array = self.arrays.last_mut().map_or(ptr::null_mut(), ptr::from_mut);
                self.procs.push(procs);
                abi::DATA_ARRAY
            }
            Value::List(list) => {
                let mut list = Infos::new(list, written);
                let start = list.infos.as_mut_ptr().cast::<c_void>();
                self.arrays.push(abi::Array { kind: abi::INFO, len: list.infos.len(), start });
                data.array = self.arrays.last_mut().map_or(ptr::null_mut(), ptr::from_mut);
                self.lists.push(list);
                abi::DATA_ARRAY
            }
        };
        (kind, data)
    }

    fn keep(&mut self, text: CString) -> *mut c_char {
        // The library reads it only.
        let start = text.as_ptr().cast_mut();
        self.texts.push(text);
        start
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut abi::Info {
        self.infos.as_mut_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.infos.len()
    }
}

impl Drop for Infos {
    fn drop(&mut self) {
        for info in self.infos.iter().filter(|info| info.value.kind == abi::BYTE_OBJECT) {
            // SAFETY: malloc's. libpmix takes some over (a group's endpoints), and leaves null where it does.
            unsafe { libc::free(info.value.data.bytes.start.cast()) };
        }
    }
}

/// Bytes as a text of a fixed size, cut so that it has an end.
pub(super) fn padded<const SIZE: usize>(bytes: &[u8]) -> [c_char; SIZE] {
    let mut padded = [0; SIZE];
    for (place, byte) in padded.iter_mut().zip(bytes).take(SIZE - 1) {
        *place = byte.cast_signed();
    }
    padded
}

/// A text of a fixed size, up to its end.
pub(super) fn text_of(padded: &[c_char]) -> Vec<u8> {
    padded.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned()).collect()
}

/// A text that C keeps; empty where there is none.
///
/// # Safety
///
/// The pointer is null or leads to a text with an end.
pub(super) unsafe fn copy_of(text: *const c_char) -> Vec<u8> {
    if text.is_null() {
        return Vec::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_bytes().to_vec()
}
