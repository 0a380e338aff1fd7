//! Real libraries write into and read from our structs, each with a guarded area behind it.
//!
//! A library that writes past a struct changes the guard. One that reads past it finds the guard's bytes where it
//! expects sizes and pointers, and fails or crashes.
#![expect(unsafe_code, reason = "calls the bindings as they are")]

use std::ffi::{CStr, CString, c_void};
use std::mem::{offset_of, size_of};
use std::ptr;
use std::time::{Duration, Instant};

use libfabric_sys::call::*;
use libfabric_sys::*;

use crate::support::{Wanted, body_runs_on, run_on};

#[test]
fn installed_library_stays_within_our_structs() {
    run_on(Wanted::Installed, "installed_library_stays_within_our_structs", BODY);
}

#[test]
fn libfabric_2_stays_within_our_structs() {
    run_on(Wanted::Fetched2, "libfabric_2_stays_within_our_structs", BODY);
}

/// The body of the tests above; does nothing in a process that was not started by one of them.
#[test]
fn body() {
    let Some(wanted) = body_runs_on() else { return };
    let library = Library::open().unwrap();
    if wanted == Wanted::Fetched2 {
        assert_eq!(library.version().major, 2, "{}", library.path());
        assert_eq!(library.api_version(), Version { major: 1, minor: 20 }.number());
    }
    let providers: Vec<&str> = PROVIDERS.into_iter().filter(|provider| probe(&library, provider)).collect();
    assert!(!providers.is_empty(), "none of {PROVIDERS:?} in {} {}", library.path(), library.version());
    println!("{} {}: {providers:?}", library.path(), library.version());
}

/// Opens every object on one provider and has its library fill our structs; false when there is no such provider.
fn probe(library: &Library, provider: &str) -> bool {
    // SAFETY: each call gets objects that were opened before it and are closed at the end, in order, and buffers that
    // live until then.
    unsafe {
        let Some(info) = info_of(library, provider) else { return false };
        let mut fabric = ptr::null_mut();
        check((library.fi_fabric)((*info).fabric_attr, &raw mut fabric, ptr::null_mut()));
        let mut domain = ptr::null_mut();
        check(fi_domain(fabric, info, &raw mut domain, ptr::null_mut()));

        let mut eq_attr = Guarded::new(zeroed::<fi_eq_attr>());
        let mut eq = ptr::null_mut();
        check(fi_eq_open(fabric, &raw mut eq_attr.value, &raw mut eq, ptr::null_mut()));
        eq_attr.check("fi_eq_attr");

        let mut cq_attr = Guarded::new(fi_cq_attr {
            size: 64,
            format: FI_CQ_FORMAT_TAGGED,
            wait_obj: FI_WAIT_UNSPEC,
            ..zeroed()
        });
        let mut cq = ptr::null_mut();
        check(fi_cq_open(domain, &raw mut cq_attr.value, &raw mut cq, ptr::null_mut()));
        cq_attr.check("fi_cq_attr");

        let mut av_attr = Guarded::new(fi_av_attr { type_: FI_AV_TABLE, count: 4, ..zeroed() });
        let mut av = ptr::null_mut();
        check(fi_av_open(domain, &raw mut av_attr.value, &raw mut av, ptr::null_mut()));
        av_attr.check("fi_av_attr");

        let mut ep = ptr::null_mut();
        check(fi_endpoint(domain, info, &raw mut ep, ptr::null_mut()));
        check(fi_ep_bind(ep, cq.cast(), FI_TRANSMIT | FI_RECV));
        check(fi_ep_bind(ep, av.cast(), 0));
        check(fi_enable(ep));

        let mut name = Guarded::new([0_u8; 64]);
        let mut name_len = 64;
        check(fi_getname(ep, name.value.as_mut_ptr().cast(), &raw mut name_len));
        name.check("the buffer of fi_getname");
        let mut own_address = Guarded::new(FI_ADDR_UNSPEC);
        assert_eq!(
            fi_av_insert(av, name.value.as_ptr().cast(), 1, &raw mut own_address.value, 0, ptr::null_mut()),
            1
        );
        own_address.check("fi_addr_t");

        let mut memory = vec![0_u8; 4096];
        register(domain, &mut memory);
        let to_self = own_address.value;
        complete(ep, cq, to_self, &mut memory);
        truncate(ep, cq, to_self, &mut memory, (*fabric).api_version);
        cancel(ep, cq, &mut memory, (*fabric).api_version);

        for object in [ep.cast::<fid>(), av.cast(), cq.cast(), eq.cast(), domain.cast(), fabric.cast()] {
            check(fi_close(object));
        }
        (library.fi_freeinfo)(info);
        true
    }
}

/// An endpoint of the provider on loopback.
unsafe fn info_of(library: &Library, provider: &str) -> Option<*mut fi_info> {
    // SAFETY: hints come from the library, their string from malloc as it asks; the node is a C string.
    unsafe {
        let hints = (library.fi_dupinfo)(ptr::null());
        (*hints).caps = FI_MSG | FI_TAGGED;
        (*(*hints).ep_attr).type_ = FI_EP_RDM;
        (*(*hints).domain_attr).mr_mode =
            FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_ENDPOINT;
        let name = CString::new(provider).unwrap();
        (*(*hints).fabric_attr).prov_name = libc::strdup(name.as_ptr());
        let mut info = ptr::null_mut();
        let code = (library.fi_getinfo)(
            library.api_version(),
            c"127.0.0.1".as_ptr(),
            ptr::null(),
            FI_SOURCE | FI_NUMERICHOST,
            hints,
            &raw mut info,
        );
        (library.fi_freeinfo)(hints);
        if code == -FI_ENODATA {
            return None;
        }
        check(code);
        let found = CStr::from_ptr((*(*info).fabric_attr).prov_name).to_str().unwrap();
        if found == provider {
            Some(info)
        } else {
            (library.fi_freeinfo)(info);
            None
        }
    }
}

unsafe fn register(domain: *mut fid_domain, memory: &mut [u8]) {
    let part = Guarded::new(iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() });
    let attr = Guarded::new(fi_mr_attr {
        memory: fi_mr_memory { mr_iov: &raw const part.value },
        iov_count: 1,
        access: FI_SEND | FI_RECV,
        ..zeroed()
    });
    let mut region = ptr::null_mut();
    // SAFETY: the domain is open, the memory outlives the region.
    unsafe {
        check(fi_mr_regattr(domain, &raw const attr.value, 0, &raw mut region));
        let _ = (fi_mr_desc(region), fi_mr_key(region));
        check(fi_close(region.cast()));
    }
    attr.check("fi_mr_attr");
    part.check("iovec");
}

/// A message to ourselves: two completions, read into two entries.
unsafe fn complete(ep: *mut fid_ep, cq: *mut fid_cq, to: fi_addr_t, memory: &mut [u8]) {
    let mut contexts = Guarded::new([zeroed::<fi_context2>(); 2]);
    let mut entries = Guarded::new([zeroed::<fi_cq_tagged_entry>(); 2]);
    // SAFETY: both operations are over when two completions were read.
    unsafe {
        post_receive(ep, &mut memory[..64], 1, &mut contexts.value[0]);
        post_send(ep, cq, &memory[64..128], to, 1, &mut contexts.value[1]);
        let mut count = 0;
        within_deadline("two completions", || {
            let room = entries.value[count..].as_mut_ptr().cast::<c_void>();
            match fi_cq_read(cq, room, 2 - count) {
                read if read > 0 => count += read as usize,
                code => assert_eq!(code, -(FI_EAGAIN as isize)),
            }
            count == 2
        });
    }
    entries.check("fi_cq_tagged_entry");
    contexts.check("fi_context2");
}

/// A message that is longer than its buffer.
unsafe fn truncate(ep: *mut fid_ep, cq: *mut fid_cq, to: fi_addr_t, memory: &mut [u8], api_version: u32) {
    let mut contexts = [zeroed::<fi_context2>(); 2];
    // SAFETY: both operations are over when the completion and the error were read.
    unsafe {
        post_receive(ep, &mut memory[..8], 2, &mut contexts[0]);
        post_send(ep, cq, &memory[64..128], to, 2, &mut contexts[1]);
        let (mut sent, mut failed) = (false, false);
        within_deadline("a completion and an error", || {
            let mut entry = zeroed::<fi_cq_tagged_entry>();
            match fi_cq_read(cq, (&raw mut entry).cast(), 1) {
                1 => sent = true,
                code if code == -(FI_EAVAIL as isize) => {
                    let error = read_error(cq, api_version);
                    assert_eq!(error.err, FI_ETRUNC);
                    assert_eq!(error.op_context, (&raw mut contexts[0]).cast());
                    failed = true;
                }
                code => assert_eq!(code, -(FI_EAGAIN as isize)),
            }
            sent && failed
        });
    }
}

/// A receive that is taken back.
unsafe fn cancel(ep: *mut fid_ep, cq: *mut fid_cq, memory: &mut [u8], api_version: u32) {
    let mut context = zeroed::<fi_context2>();
    // SAFETY: the operation is over when its cancellation was read.
    unsafe {
        post_receive(ep, &mut memory[..64], 3, &mut context);
        assert_eq!(fi_cancel(ep, (&raw mut context).cast()), 0);
        within_deadline("the cancellation", || {
            let mut entry = zeroed::<fi_cq_tagged_entry>();
            match fi_cq_read(cq, (&raw mut entry).cast(), 1) {
                code if code == -(FI_EAVAIL as isize) => {
                    assert_eq!(read_error(cq, api_version).err, FI_ECANCELED);
                    true
                }
                code => {
                    assert_eq!(code, -(FI_EAGAIN as isize));
                    false
                }
            }
        });
    }
}

/// Reads an error into an entry of known bytes, and checks which of them the library wrote.
unsafe fn read_error(cq: *mut fid_cq, api_version: u32) -> fi_cq_err_entry {
    let mut entry = Guarded::new(fi_cq_err_entry { src_addr: UNWRITTEN, ..zeroed() });
    // SAFETY: the CQ is open and the entry ours.
    unsafe { assert_eq!(fi_cq_readerr(cq, &raw mut entry.value, 0), 1) };
    entry.check("fi_cq_err_entry");
    assert_eq!(
        entry.value.src_addr == UNWRITTEN,
        api_version < Version { major: 1, minor: 20 }.number(),
        "src_addr, at byte {} of {}, is written from API version 1.20 on",
        offset_of!(fi_cq_err_entry, src_addr),
        size_of::<fi_cq_err_entry>()
    );
    entry.value
}

unsafe fn post_receive(ep: *mut fid_ep, buffer: &mut [u8], tag: u64, context: &mut fi_context2) {
    // SAFETY: the caller reads the completion before buffer and context end.
    let code = unsafe {
        fi_trecv(
            ep,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            ptr::null_mut(),
            FI_ADDR_UNSPEC,
            tag,
            0,
            ptr::from_mut(context).cast(),
        )
    };
    assert_eq!(code, 0);
}

unsafe fn post_send(
    ep: *mut fid_ep,
    cq: *mut fid_cq,
    buffer: &[u8],
    to: fi_addr_t,
    tag: u64,
    context: &mut fi_context2,
) {
    let part = Guarded::new(iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() });
    let message = Guarded::new(fi_msg_tagged {
        msg_iov: &raw const part.value,
        iov_count: 1,
        addr: to,
        tag,
        context: ptr::from_mut(context).cast(),
        ..zeroed()
    });
    within_deadline("room for a send", || {
        // SAFETY: the caller reads the completion before buffer and context end.
        match unsafe { fi_tsendmsg(ep, &raw const message.value, 0) } {
            0 => true,
            code => {
                assert_eq!(code, -(FI_EAGAIN as isize));
                // SAFETY: the CQ is open; with room for no entry the call only makes progress.
                unsafe { fi_cq_read(cq, ptr::null_mut(), 0) };
                false
            }
        }
    });
    message.check("fi_msg_tagged");
    part.check("iovec");
}

/// A struct with bytes behind it that nobody may write.
#[repr(C)]
struct Guarded<T> {
    value: T,
    guard: [u8; 256],
}

impl<T> Guarded<T> {
    fn new(value: T) -> Box<Self> {
        Box::new(Guarded { value, guard: [GUARD; 256] })
    }

    fn check(&self, name: &str) {
        let guard = std::hint::black_box(&self.guard);
        let written = guard.iter().position(|byte| *byte != GUARD);
        assert_eq!(written, None, "bytes were written behind {name}, which has {} here", size_of::<T>());
    }
}

fn within_deadline(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "no {what} in 20 s");
        std::thread::yield_now();
    }
}

fn check(code: i32) {
    assert_eq!(code, 0);
}

const BODY: &str = "canary::body";
const PROVIDERS: [&str; 3] = ["tcp", "net", "tcp;ofi_rxm"];
const GUARD: u8 = 0xA5;
const UNWRITTEN: u64 = 0xA5A5_A5A5_A5A5_A5A5;
