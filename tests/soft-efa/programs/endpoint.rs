//! An EFA endpoint with everything that it needs, as thin as a program can have it.
//!
//! # Safety
//!
//! Objects are open from `open` to the end of the process: these programs end with it, and so does the memory that
//! operations name, which is leaked. Contexts are leaked, too.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::time::Instant;

use libfabric_sys as sys;
use libfabric_sys::{call, fi_addr_t, zeroed};

use crate::error::Failure;
use crate::link::{Link, PATIENCE};

/// What an endpoint is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The fabric's name: `efa` or `efa-direct`.
    pub(crate) fabric: &'static str,
    /// What it must be able to do.
    pub(crate) caps: u64,
    /// How often the device retries for a receiver that is not ready; none is the provider's choice.
    pub(crate) rnr_retry: Option<usize>,
}

/// An endpoint and its peer.
pub(crate) struct Endpoint {
    library: sys::Library,
    domain: *mut sys::fid_domain,
    av: *mut sys::fid_av,
    cq: *mut sys::fid_cq,
    ep: *mut sys::fid_ep,
    /// The other process's endpoint.
    pub(crate) peer: fi_addr_t,
    has_rma: bool,
    done: Vec<Completion>,
}

/// Registered memory.
#[derive(Debug)]
pub(crate) struct Region {
    memory: *mut [u8],
    desc: *mut c_void,
    key: u64,
}

/// A piece of another process's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remote {
    pub(crate) address: u64,
    pub(crate) key: u64,
}

/// What every operation is posted with.
struct Posting {
    ep: *mut sys::fid_ep,
    peer: fi_addr_t,
    start: *mut c_void,
    len: usize,
    desc: *mut c_void,
    context: *mut c_void,
}

/// A completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// The number that the operation was given; of one that took no receive of ours, the receive's or none.
    pub(crate) number: u64,
    pub(crate) flags: u64,
    pub(crate) len: usize,
    pub(crate) buf: usize,
    pub(crate) data: u64,
    /// libfabric's code, where it failed.
    pub(crate) error: i32,
    pub(crate) provider_error: i32,
}

/// What the provider scribbles into while an operation runs, and its number.
#[repr(C)]
struct Context {
    scratch: sys::fi_context2,
    number: u64,
}

impl Endpoint {
    /// Opens an endpoint and makes it and the other process's known to each other.
    pub(crate) fn open(link: &mut Link, domain: Option<&str>, wanted: Wanted) -> Result<Endpoint, Failure> {
        let library = sys::Library::open()?;
        let info = find(&library, domain, wanted)?;
        let mut endpoint = Endpoint::build(library, info, wanted)?;
        let mut own = vec![0; ADDRESS_BYTES];
        let mut len = own.len();
        // SAFETY: the endpoint is open, the buffer as long as it says.
        let code = unsafe { call::fi_getname(endpoint.ep, own.as_mut_ptr().cast(), &raw mut len) };
        check("fi_getname", code.into())?;
        let theirs = link.exchange(&own, || Ok(()))?;
        endpoint.peer = endpoint.insert(&theirs)?;
        // Nobody may be sent to before it knows the sender.
        link.meet(|| Ok(()))?;
        Ok(endpoint)
    }

    fn build(library: sys::Library, info: *mut sys::fi_info, wanted: Wanted) -> Result<Endpoint, Failure> {
        let (mut fabric, mut domain) = (ptr::null_mut(), ptr::null_mut());
        let (mut eq, mut av) = (ptr::null_mut(), ptr::null_mut());
        let (mut cq, mut ep) = (ptr::null_mut(), ptr::null_mut());
        let mut eq_attr = sys::fi_eq_attr { wait_obj: sys::FI_WAIT_NONE, ..zeroed() };
        let mut av_attr = sys::fi_av_attr { type_: sys::FI_AV_TABLE, ..zeroed() };
        let mut cq_attr = sys::fi_cq_attr {
            format: sys::FI_CQ_FORMAT_DATA,
            wait_obj: sys::FI_WAIT_NONE,
            size: 4096,
            ..zeroed()
        };
        let none = ptr::null_mut();
        // SAFETY: each object is opened from one that is open, with attributes of full size, and bound to one of
        // the same domain.
        unsafe {
            check("fi_fabric", (library.fi_fabric)((*info).fabric_attr, &raw mut fabric, none).into())?;
            check("fi_eq_open", call::fi_eq_open(fabric, &raw mut eq_attr, &raw mut eq, none).into())?;
            check("fi_domain", call::fi_domain(fabric, info, &raw mut domain, none).into())?;
            check("fi_av_open", call::fi_av_open(domain, &raw mut av_attr, &raw mut av, none).into())?;
            check("fi_cq_open", call::fi_cq_open(domain, &raw mut cq_attr, &raw mut cq, none).into())?;
            check("fi_endpoint", call::fi_endpoint(domain, info, &raw mut ep, none).into())?;
            check("fi_ep_bind", call::fi_ep_bind(ep, eq.cast(), 0).into())?;
            check("fi_ep_bind", call::fi_ep_bind(ep, av.cast(), 0).into())?;
            check("fi_ep_bind", call::fi_ep_bind(ep, cq.cast(), sys::FI_TRANSMIT | sys::FI_RECV).into())?;
            if let Some(retries) = wanted.rnr_retry {
                let value = (&raw const retries).cast();
                let (level, option) = (sys::FI_OPT_ENDPOINT, sys::FI_OPT_EFA_RNR_RETRY);
                check("fi_setopt", call::fi_setopt(ep, level, option, value, size_of::<usize>()).into())?;
            }
            check("fi_enable", call::fi_enable(ep).into())?;
        }
        Ok(Endpoint {
            library,
            domain,
            av,
            cq,
            ep,
            peer: sys::FI_ADDR_UNSPEC,
            has_rma: wanted.caps & sys::FI_RMA != 0,
            done: Vec::new(),
        })
    }

    fn insert(&self, address: &[u8]) -> Result<fi_addr_t, Failure> {
        let mut peer = sys::FI_ADDR_UNSPEC;
        // SAFETY: the vector is open, and the address as long as any.
        let count = unsafe {
            call::fi_av_insert(self.av, address.as_ptr().cast(), 1, &raw mut peer, 0, ptr::null_mut())
        };
        if count == 1 { Ok(peer) } else { Err(Failure::Call { call: "fi_av_insert", code: count.into() }) }
    }

    /// Zeroed memory for any operation.
    pub(crate) fn region(&self, len: usize) -> Result<Region, Failure> {
        let memory: *mut [u8] = Box::leak(vec![0_u8; len.max(1)].into_boxed_slice());
        let mut access = sys::FI_SEND | sys::FI_RECV;
        if self.has_rma {
            // Not otherwise: a device that does not write takes no memory to be written to.
            access |= sys::FI_READ | sys::FI_WRITE | sys::FI_REMOTE_READ | sys::FI_REMOTE_WRITE;
        }
        let mut mr = ptr::null_mut();
        // SAFETY: the domain is open, and the memory stays for ever.
        unsafe {
            let code = call::fi_mr_reg(
                self.domain,
                memory.cast(),
                memory.len(),
                access,
                0,
                0,
                0,
                &raw mut mr,
                ptr::null_mut(),
            );
            check("fi_mr_reg", code.into())?;
            Ok(Region { memory, desc: call::fi_mr_desc(mr), key: call::fi_mr_key(mr) })
        }
    }

    pub(crate) fn tsend(
        &mut self,
        region: &Region,
        at: usize,
        len: usize,
        tag: u64,
        number: u64,
    ) -> Result<(), Failure> {
        self.post_piece("fi_tsend", region, at, len, number, |p| {
            // SAFETY: a piece of leaked memory, see the module; so below.
            unsafe { call::fi_tsend(p.ep, p.start, p.len, p.desc, p.peer, tag, p.context) }
        })
        .map(drop)
    }

    /// A tagged message with data.
    pub(crate) fn tsend_data(
        &mut self,
        region: &Region,
        len: usize,
        tag: u64,
        data: u64,
    ) -> Result<(), Failure> {
        let iov = sys::iovec { iov_base: region.piece(0, len), iov_len: len };
        let mut desc = region.desc;
        let msg = sys::fi_msg_tagged {
            msg_iov: &raw const iov,
            desc: &raw mut desc,
            iov_count: 1,
            addr: self.peer,
            tag,
            ignore: 0,
            context: context(tag),
            data,
        };
        let (ep, flags) = (self.ep, sys::FI_REMOTE_CQ_DATA | sys::FI_COMPLETION);
        // SAFETY: a piece of leaked memory, see the module.
        self.post("fi_tsendmsg", || unsafe { call::fi_tsendmsg(ep, &raw const msg, flags) })
    }

    pub(crate) fn trecv(
        &mut self,
        region: &Region,
        at: usize,
        len: usize,
        tag: u64,
        number: u64,
    ) -> Result<(), Failure> {
        self.trecv_cancellable(region, at, len, tag, number).map(drop)
    }

    /// A receive, and what names it for [`Endpoint::cancel`].
    pub(crate) fn trecv_cancellable(
        &mut self,
        region: &Region,
        at: usize,
        len: usize,
        tag: u64,
        number: u64,
    ) -> Result<usize, Failure> {
        self.post_piece("fi_trecv", region, at, len, number, |p| {
            // SAFETY: as above.
            unsafe { call::fi_trecv(p.ep, p.start, p.len, p.desc, p.peer, tag, 0, p.context) }
        })
    }

    pub(crate) fn cancel(&self, receive: usize) -> Result<(), Failure> {
        // SAFETY: a context of ours.
        check("fi_cancel", unsafe { call::fi_cancel(self.ep.cast(), receive as *mut c_void) } as i64)
    }

    pub(crate) fn send(
        &mut self,
        region: &Region,
        at: usize,
        len: usize,
        number: u64,
    ) -> Result<(), Failure> {
        self.post_piece("fi_send", region, at, len, number, |p| {
            // SAFETY: as above.
            unsafe { call::fi_send(p.ep, p.start, p.len, p.desc, p.peer, p.context) }
        })
        .map(drop)
    }

    pub(crate) fn recv(
        &mut self,
        region: &Region,
        at: usize,
        len: usize,
        number: u64,
    ) -> Result<(), Failure> {
        self.post_piece("fi_recv", region, at, len, number, |p| {
            // SAFETY: as above.
            unsafe { call::fi_recv(p.ep, p.start, p.len, p.desc, sys::FI_ADDR_UNSPEC, p.context) }
        })
        .map(drop)
    }

    /// One receive for as many messages as fit.
    pub(crate) fn recv_many(&mut self, region: &Region, number: u64) -> Result<(), Failure> {
        let iov = sys::iovec { iov_base: region.memory.cast(), iov_len: region.memory.len() };
        let mut desc = region.desc;
        let msg = sys::fi_msg {
            msg_iov: &raw const iov,
            desc: &raw mut desc,
            iov_count: 1,
            addr: sys::FI_ADDR_UNSPEC,
            context: context(number),
            data: 0,
        };
        let ep = self.ep;
        // SAFETY: leaked memory, see the module.
        self.post("fi_recvmsg", || unsafe { call::fi_recvmsg(ep, &raw const msg, sys::FI_MULTI_RECV) })
    }

    pub(crate) fn write(
        &mut self,
        region: &Region,
        len: usize,
        remote: Remote,
        number: u64,
    ) -> Result<(), Failure> {
        self.post_piece("fi_write", region, 0, len, number, |p| {
            // SAFETY: as above.
            unsafe {
                call::fi_write(p.ep, p.start, p.len, p.desc, p.peer, remote.address, remote.key, p.context)
            }
        })
        .map(drop)
    }

    pub(crate) fn write_data(
        &mut self,
        region: &Region,
        len: usize,
        remote: Remote,
        data: u64,
        number: u64,
    ) -> Result<(), Failure> {
        self.post_piece("fi_writedata", region, 0, len, number, |p| {
            let Remote { address, key } = remote;
            // SAFETY: as above.
            unsafe { call::fi_writedata(p.ep, p.start, p.len, p.desc, data, p.peer, address, key, p.context) }
        })
        .map(drop)
    }

    pub(crate) fn read(
        &mut self,
        region: &Region,
        len: usize,
        remote: Remote,
        number: u64,
    ) -> Result<(), Failure> {
        self.post_piece("fi_read", region, 0, len, number, |p| {
            // SAFETY: as above.
            unsafe {
                call::fi_read(p.ep, p.start, p.len, p.desc, p.peer, remote.address, remote.key, p.context)
            }
        })
        .map(drop)
    }

    /// Posts what concerns a piece of a region, under a number; what names it to the provider.
    fn post_piece(
        &mut self,
        call: &'static str,
        region: &Region,
        at: usize,
        len: usize,
        number: u64,
        mut post: impl FnMut(&Posting) -> isize,
    ) -> Result<usize, Failure> {
        let context = context(number);
        let posting = Posting {
            ep: self.ep,
            peer: self.peer,
            start: region.piece(at, len),
            len,
            desc: region.desc,
            context,
        };
        self.post(call, || post(&posting))?;
        Ok(context as usize)
    }

    /// Posts, reading completions while the queue is full.
    fn post(&mut self, call: &'static str, mut post: impl FnMut() -> isize) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match post() {
                code if code == -(sys::FI_EAGAIN as isize) => self.progress()?,
                code => return check(call, code as i64),
            }
            if Instant::now() > deadline {
                return Err(Failure::Deadline("room in a queue"));
            }
        }
    }

    /// Reads what completions there are.
    pub(crate) fn progress(&mut self) -> Result<(), Failure> {
        loop {
            let mut entries = [zeroed::<sys::fi_cq_data_entry>(); 16];
            // SAFETY: the queue is open, and there is room for 16.
            let read = unsafe { call::fi_cq_read(self.cq, entries.as_mut_ptr().cast(), entries.len()) };
            if read == -(sys::FI_EAGAIN as isize) {
                return Ok(());
            }
            if read == -(sys::FI_EAVAIL as isize) {
                let failed = self.read_failure()?;
                self.done.push(failed);
                continue;
            }
            check("fi_cq_read", read.min(0) as i64)?;
            for entry in &entries[..read as usize] {
                self.done.push(Completion {
                    number: number(entry.op_context),
                    flags: entry.flags,
                    len: entry.len,
                    buf: entry.buf as usize,
                    data: entry.data,
                    error: 0,
                    provider_error: 0,
                });
            }
        }
    }

    fn read_failure(&self) -> Result<Completion, Failure> {
        let mut entry = zeroed::<sys::fi_cq_err_entry>();
        // SAFETY: the queue is open, the entry of full size.
        let read = unsafe { call::fi_cq_readerr(self.cq, &raw mut entry, 0) };
        check("fi_cq_readerr", read.min(0) as i64)?;
        Ok(Completion {
            number: number(entry.op_context),
            flags: entry.flags,
            len: entry.len,
            buf: entry.buf as usize,
            data: entry.data,
            error: entry.err,
            provider_error: entry.prov_errno,
        })
    }

    /// The next completion, failed or not.
    pub(crate) fn any(&mut self) -> Result<Completion, Failure> {
        let deadline = Instant::now() + PATIENCE;
        while self.done.is_empty() {
            self.progress()?;
            if Instant::now() > deadline {
                return Err(Failure::Deadline("a completion"));
            }
        }
        Ok(self.done.remove(0))
    }

    /// The next completion, which must not have failed.
    pub(crate) fn next(&mut self) -> Result<Completion, Failure> {
        let completion = self.any()?;
        if completion.error == 0 {
            return Ok(completion);
        }
        Err(Failure::Operation {
            error: completion.error,
            provider_error: completion.provider_error,
            text: self.text(completion.error),
        })
    }

    /// Waits for the completion of the operation with this number, keeping others for later.
    pub(crate) fn finish(&mut self, number: u64) -> Result<Completion, Failure> {
        let mut others = Vec::new();
        loop {
            let completion = self.next()?;
            if completion.number == number {
                self.done.splice(0..0, others);
                return Ok(completion);
            }
            others.push(completion);
        }
    }

    fn text(&self, code: i32) -> String {
        // SAFETY: any code may be asked; the text is the library's.
        unsafe { CStr::from_ptr((self.library.fi_strerror)(code)) }.to_string_lossy().into_owned()
    }
}

impl Region {
    /// Where another process finds it.
    pub(crate) fn remote(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(self.memory.cast::<u8>() as u64).to_le_bytes());
        bytes[8..].copy_from_slice(&self.key.to_le_bytes());
        bytes
    }

    /// Its address here.
    pub(crate) fn address(&self) -> usize {
        self.memory.cast::<u8>() as usize
    }

    /// A copy of what is in it now. Operations may be writing to it: bytes are read one by one, as a device writes.
    pub(crate) fn get(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.memory.len());
        // SAFETY: inside the memory.
        (at..at + len).map(|place| unsafe { self.memory.cast::<u8>().add(place).read_volatile() }).collect()
    }

    pub(crate) fn fill(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.memory.len());
        for (place, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the memory.
            unsafe { self.memory.cast::<u8>().add(at + place).write_volatile(*byte) };
        }
    }

    fn piece(&self, at: usize, len: usize) -> *mut c_void {
        assert!(at + len <= self.memory.len());
        // SAFETY: inside the memory.
        unsafe { self.memory.cast::<u8>().add(at).cast() }
    }
}

impl Remote {
    pub(crate) fn parse(bytes: &[u8]) -> Remote {
        let word = |start: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[start..start + 8]);
            u64::from_le_bytes(word)
        };
        Remote { address: word(0), key: word(8) }
    }
}

fn find(library: &sys::Library, domain: Option<&str>, wanted: Wanted) -> Result<*mut sys::fi_info, Failure> {
    let mut found = ptr::null_mut();
    // SAFETY: an empty info with all its attributes, whose strings come from malloc, as fi_freeinfo frees them.
    let code = unsafe {
        let hints = (library.fi_dupinfo)(ptr::null());
        (*hints).caps = wanted.caps;
        (*hints).mode = sys::FI_CONTEXT | sys::FI_CONTEXT2 | sys::FI_RX_CQ_DATA;
        (*(*hints).ep_attr).type_ = sys::FI_EP_RDM;
        (*(*hints).domain_attr).mr_mode =
            sys::FI_MR_LOCAL | sys::FI_MR_VIRT_ADDR | sys::FI_MR_ALLOCATED | sys::FI_MR_PROV_KEY;
        (*(*hints).domain_attr).name = domain.map_or(ptr::null_mut(), malloced);
        (*(*hints).fabric_attr).prov_name = malloced("efa");
        (*(*hints).fabric_attr).name = malloced(wanted.fabric);
        let code =
            (library.fi_getinfo)(library.api_version(), ptr::null(), ptr::null(), 0, hints, &raw mut found);
        (library.fi_freeinfo)(hints);
        code
    };
    match code {
        0 if !found.is_null() => Ok(found),
        code if code == -sys::FI_ENODATA => Err(Failure::NoEndpoint(wanted.fabric)),
        code => Err(Failure::Call { call: "fi_getinfo", code: (-code).into() }),
    }
}

fn malloced(text: &str) -> *mut std::ffi::c_char {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: a C string.
    unsafe { libc::strdup(text.as_ptr()) }
}

fn context(number: u64) -> *mut c_void {
    let context = Context { scratch: zeroed(), number };
    ptr::from_mut(Box::leak(Box::new(context))).cast()
}

fn number(context: *mut c_void) -> u64 {
    // SAFETY: none, or a context of ours, which are never freed.
    unsafe { context.cast::<Context>().as_ref() }.map_or(u64::MAX, |context| context.number)
}

fn check(call: &'static str, code: i64) -> Result<(), Failure> {
    if code < 0 { Err(Failure::Call { call, code: -code }) } else { Ok(()) }
}

const ADDRESS_BYTES: usize = 32;
