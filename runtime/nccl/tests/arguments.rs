//! Arguments that cannot be meant are refused by code and sentence, by every function, in any order, with and without a group:
//! nothing is written to, and nobody waits.
//!
//! # Safety
//!
//! Functions have the types of NCCL's header; pointers are null, of this test, or handles that nobody looks behind.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;

type Handle = *mut c_void;
type Reduce = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
type Rooted =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, c_int, Handle, Handle) -> c_int;
type Move = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Handle, Handle) -> c_int;
type RootedMove =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
type Message = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
type OfComm = unsafe extern "C" fn(Handle) -> c_int;
type AskComm = unsafe extern "C" fn(Handle, *mut c_int) -> c_int;
type Plain = unsafe extern "C" fn() -> c_int;

const INVALID_ARGUMENT: c_int = 4;
const INVALID_USAGE: c_int = 5;

/// The library, as programs load it.
struct Library(*mut c_void);

impl Library {
    fn open() -> Library {
        let test = std::env::current_exe().expect("a test has a path");
        let folder = test.parent().expect("a folder");
        let path = CString::new(folder.join("libnccl.so").into_os_string().into_encoded_bytes());
        // SAFETY: a library of ours, whose loading runs nothing.
        let library =
            unsafe { libc::dlopen(path.expect("a path").as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null(), "libnccl.so is beside the tests");
        Library(library)
    }

    /// # Safety
    ///
    /// The function has this type.
    unsafe fn function<F: Copy>(&self, name: &str) -> F {
        let c_name = CString::new(name).expect("a name");
        // SAFETY: the library stays loaded; the name is a C string.
        let symbol = unsafe { libc::dlsym(self.0, c_name.as_ptr()) };
        assert!(!symbol.is_null(), "{name}");
        assert_eq!(size_of::<F>(), size_of_val(&symbol));
        // SAFETY: a pointer to a function of this type, by the caller's word.
        unsafe { std::mem::transmute_copy(&symbol) }
    }

    /// The sentence behind the last code.
    fn reason(&self) -> String {
        // SAFETY: as NCCL's header has it; the text lives until the next failure of this thread.
        unsafe {
            let last: unsafe extern "C" fn(Handle) -> *const c_char = self.function("ncclGetLastError");
            CStr::from_ptr(last(null_mut())).to_string_lossy().into_owned()
        }
    }
}

/// Numbers from a seed, with those that break things among them.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn int(&mut self) -> c_int {
        let odd = [0, 1, -1, 4, 11, 12, 64, c_int::MAX, c_int::MIN];
        if self.next().is_multiple_of(3) {
            self.next() as c_int
        } else {
            odd[self.next() as usize % odd.len()]
        }
    }

    fn count(&mut self) -> usize {
        let odd = [0, 1, usize::MAX, usize::MAX / 8, 1 << 62];
        odd[self.next() as usize % odd.len()]
    }

    /// What was never a communicator.
    fn handle(&mut self) -> Handle {
        let odd = [0, 1, 8, 0xdead_beef, usize::MAX, 0x7fff_ffff_ff00];
        std::ptr::without_provenance_mut(odd[self.next() as usize % odd.len()])
    }
}

#[test]
fn what_is_no_communicator_is_refused_by_every_function_whatever_else_it_is_told() {
    let library = Library::open();
    let mut chance = Chance(7);
    let mut room = [0xa5u8; 64];
    let memory: *mut c_void = room.as_mut_ptr().cast();
    // SAFETY: the functions have these types, and none gets as far as to look at memory.
    unsafe {
        let (start, end): (Plain, Plain) =
            (library.function("ncclGroupStart"), library.function("ncclGroupEnd"));
        for round in 0..3000 {
            let is_grouped = round % 5 == 0;
            if is_grouped {
                assert_eq!(start(), 0);
            }
            let check = |name: &str, code: c_int| {
                assert!([INVALID_ARGUMENT, INVALID_USAGE].contains(&code), "{name}: {code} in round {round}");
                assert!(!library.reason().is_empty(), "{name}");
            };
            let data = if chance.next().is_multiple_of(2) { memory } else { null_mut() };
            for name in ["ncclAllReduce", "ncclReduceScatter"] {
                let call: Reduce = library.function(name);
                check(
                    name,
                    call(data, data, chance.count(), chance.int(), chance.int(), chance.handle(), null_mut()),
                );
            }
            let call: Rooted = library.function("ncclReduce");
            let (op, root) = (chance.int(), chance.int());
            check(
                "ncclReduce",
                call(data, data, chance.count(), chance.int(), op, root, chance.handle(), null_mut()),
            );
            for name in ["ncclAllGather", "ncclAlltoAll"] {
                let call: Move = library.function(name);
                check(name, call(data, data, chance.count(), chance.int(), chance.handle(), null_mut()));
            }
            for name in ["ncclBroadcast", "ncclGather", "ncclScatter"] {
                let call: RootedMove = library.function(name);
                check(
                    name,
                    call(data, data, chance.count(), chance.int(), chance.int(), chance.handle(), null_mut()),
                );
            }
            for name in ["ncclSend", "ncclRecv", "ncclBcast"] {
                let call: Message = library.function(name);
                check(
                    name,
                    call(data, chance.count(), chance.int(), chance.int(), chance.handle(), null_mut()),
                );
            }
            for name in ["ncclCommFinalize", "ncclCommDestroy", "ncclCommAbort"] {
                let call: OfComm = library.function(name);
                let handle = chance.handle();
                // Nothing is ended in peace.
                if !handle.is_null() || name == "ncclCommFinalize" {
                    check(name, call(handle));
                }
            }
            for name in ["ncclCommCount", "ncclCommCuDevice", "ncclCommUserRank", "ncclCommGetAsyncError"] {
                let call: AskComm = library.function(name);
                let mut answer = 77;
                check(name, call(chance.handle(), &raw mut answer));
                assert_eq!(answer, 77, "{name} wrote to it");
            }
            if is_grouped {
                assert_eq!(end(), INVALID_ARGUMENT, "what was called in the group cannot be done");
            }
        }
        assert_eq!(end(), INVALID_USAGE, "there is no group");
    }
    assert!(room.iter().all(|&byte| byte == 0xa5), "memory was written to");
}

#[test]
fn places_that_are_null_are_refused_before_anything_is_done() {
    let library = Library::open();
    // SAFETY: the functions have these types, and take null.
    unsafe {
        for name in ["ncclGetVersion", "ncclGetUniqueId"] {
            let call: OfComm = library.function(name);
            assert_eq!(call(null_mut()), INVALID_ARGUMENT, "{name}");
        }
        let all: unsafe extern "C" fn(*mut Handle, c_int, *const c_int) -> c_int =
            library.function("ncclCommInitAll");
        let mut comms = [null_mut(); 2];
        for count in [0, -1, c_int::MIN] {
            assert_eq!(all(comms.as_mut_ptr(), count, null_mut()), INVALID_ARGUMENT, "{count}");
        }
        assert_eq!(all(null_mut(), 2, null_mut()), INVALID_ARGUMENT);
        assert!(comms.iter().all(|comm| comm.is_null()));
        let free: OfComm = library.function("ncclMemFree");
        assert_eq!(free(null_mut()), 0, "as free does");
        assert_eq!(free(std::ptr::without_provenance_mut(0x1000)), INVALID_ARGUMENT);
        let text: unsafe extern "C" fn(c_int) -> *const c_char = library.function("ncclGetErrorString");
        for code in [-1, 0, 7, 8, c_int::MAX, c_int::MIN] {
            assert!(!CStr::from_ptr(text(code)).is_empty(), "{code}");
        }
    }
}
