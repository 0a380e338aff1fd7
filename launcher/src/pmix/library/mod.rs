//! libpmix, opened at run time: a PMIx server of the name space of one job.
//!
//! [`Library::open`] tries files until one has the functions; nothing of PMIx is needed to build, or to run programs that
//! do not ask for it. libpmix has one server in a process, threads of its own, and never lets go of what it has: so does
//! this. What it tells and asks comes as [`Call`]s, some of which hold an answer that is to be given once.
//!
//! # Safety
//!
//! The modules below and this one are all that touches libpmix. Layouts are those of [`abi`], which hold in releases 3 to 6
//! and are asserted there. Whatever libpmix is given either lives as long as the process or until it has called back, as is
//! said where it is given; whatever it gives is copied before its call returns. Panics end the process at the border, as
//! those of any `extern "C"` function do.
#![allow(unsafe_code)]

mod abi;
mod answers;
mod calls;
mod infos;
mod names;
mod packing;
mod reach;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use efarun_wire::Rank;
use efarun_wire::message::JobMap;

use self::abi::Status;
pub(super) use self::answers::{Cards, Facts, Finds, Operation, Spawns};
pub(super) use self::calls::{Call, TakeCall};
use self::infos::{Infos, copy_of, padded};
use self::packing::{Packing, Unpacked};
use super::description::{Info, Value};
use super::protocol::Event;
use crate::env::NameValue;

/// An opened libpmix.
pub(super) struct Library {
    server_init: abi::ServerInit,
    register_nspace: abi::RegisterNspace,
    register_client: abi::RegisterClient,
    deregister_nspace: abi::DeregisterNspace,
    deregister_client: abi::DeregisterClient,
    setup_fork: abi::SetupFork,
    request_modex: abi::RequestModex,
    generate_regex: abi::Generate,
    generate_ppn: abi::Generate,
    version: abi::Version,
    notify_event: abi::NotifyEvent,
}

/// A call of libpmix's that failed, as a lowercase fragment.
#[derive(Debug, thiserror::Error)]
pub(super) enum PmixError {
    /// It was refused.
    #[error("{call} failed with PMIx's status {status}")]
    Refused {
        /// The function.
        call: &'static str,
        /// libpmix's number.
        status: Status,
    },
    /// It was not heard of any more.
    #[error("{call} did not end in {} s", PATIENCE.as_secs())]
    NoAnswer {
        /// The function.
        call: &'static str,
    },
}

impl Library {
    /// Opens a library, for ever.
    ///
    /// # Errors
    ///
    /// Why it is none that serves, as a lowercase fragment.
    pub(super) fn open(path: &[u8]) -> Result<Library, String> {
        let path = CString::new(path).map_err(|_| "its path has a zero byte".to_owned())?;
        // SAFETY: runs the constructors of a library that the user's own program would load. Its plug-ins find its
        // functions in the global scope only.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if handle.is_null() {
            return Err(last_loader_error());
        }
        let find = |name: &str| symbol(handle, name);
        // SAFETY: each name is that of a function of the type that it gets here, in every release that has it.
        unsafe {
            let packing = Packing {
                pack: std::mem::transmute::<*mut c_void, abi::Pack>(find("Data_pack")?),
                unpack: std::mem::transmute::<*mut c_void, abi::Unpack>(find("Data_unpack")?),
                free: find("Info_destruct")
                    .ok()
                    .map(|function| std::mem::transmute::<*mut c_void, abi::FreeInfo>(function)),
            };
            let library = Library {
                server_init: std::mem::transmute::<*mut c_void, abi::ServerInit>(find("server_init")?),
                register_nspace: std::mem::transmute::<*mut c_void, abi::RegisterNspace>(find(
                    "server_register_nspace",
                )?),
                register_client: std::mem::transmute::<*mut c_void, abi::RegisterClient>(find(
                    "server_register_client",
                )?),
                deregister_nspace: std::mem::transmute::<*mut c_void, abi::DeregisterNspace>(find(
                    "server_deregister_nspace",
                )?),
                deregister_client: std::mem::transmute::<*mut c_void, abi::DeregisterClient>(find(
                    "server_deregister_client",
                )?),
                setup_fork: std::mem::transmute::<*mut c_void, abi::SetupFork>(find("server_setup_fork")?),
                request_modex: std::mem::transmute::<*mut c_void, abi::RequestModex>(find(
                    "server_dmodex_request",
                )?),
                generate_regex: std::mem::transmute::<*mut c_void, abi::Generate>(find("generate_regex")?),
                generate_ppn: std::mem::transmute::<*mut c_void, abi::Generate>(find("generate_ppn")?),
                version: std::mem::transmute::<*mut c_void, abi::Version>(find("Get_version")?),
                notify_event: std::mem::transmute::<*mut c_void, abi::NotifyEvent>(find("Notify_event")?),
            };
            packing::use_of(packing);
            Ok(library)
        }
    }

    /// What it calls itself.
    pub(super) fn version(&self) -> String {
        // SAFETY: gives a static text.
        let version = unsafe { copy_of((self.version)()) };
        String::from_utf8_lossy(&version).trim().to_owned()
    }

    /// Makes this process the job's server on the node. `take` gets what libpmix tells and asks from here on.
    ///
    /// # Errors
    ///
    /// When libpmix refuses.
    pub(super) fn serve(&self, infos: &[Info], take: TakeCall) -> Result<(), PmixError> {
        calls::send_to(take);
        // It keeps the table for ever.
        let module: &'static mut abi::ServerModule = Box::leak(Box::new(calls::module()));
        let mut infos = self.infos(infos);
        // SAFETY: it copies the infos before it returns.
        let status = unsafe { (self.server_init)(module, infos.as_mut_ptr(), infos.len()) };
        accepted("PMIx_server_init", status)
    }

    /// Tells it about a world.
    ///
    /// # Errors
    ///
    /// When libpmix refuses.
    pub(super) fn register_world(
        &self,
        nspace: &str,
        map: &JobMap,
        local_count: usize,
        infos: &[Info],
    ) -> Result<(), PmixError> {
        names::admit(nspace, map);
        let nspace = padded::<{ abi::NSPACE_BYTES }>(nspace.as_bytes());
        let local_count = c_int::try_from(local_count).unwrap_or(c_int::MAX);
        let mut infos = self.infos(infos);
        let registered = completed("PMIx_server_register_nspace", |done, cookie| {
            let (start, len) = (infos.as_mut_ptr(), infos.len());
            // SAFETY: the infos live until it has called back, which `completed` waits for, or for ever.
            unsafe { (self.register_nspace)(nspace.as_ptr(), local_count, start, len, Some(done), cookie) }
        });
        if matches!(registered, Err(PmixError::NoAnswer { .. })) {
            std::mem::forget(infos);
        }
        registered
    }

    /// Tells it to expect a rank, and gives what the rank needs in its environment.
    ///
    /// # Errors
    ///
    /// When libpmix refuses.
    pub(super) fn register_rank(&self, rank: Rank) -> Result<Vec<NameValue>, PmixError> {
        let proc = names::proc_of(rank);
        let (user, group) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        completed("PMIx_server_register_client", |done, cookie| {
            // SAFETY: it copies the process before it returns.
            unsafe { (self.register_client)(&proc, user, group, ptr::null_mut(), Some(done), cookie) }
        })?;
        // SAFETY: an empty list of malloc's, which libpmix lengthens by its functions; each entry is a text of malloc's.
        // All are freed here.
        unsafe {
            let mut list = libc::calloc(1, size_of::<*mut c_char>()).cast::<*mut c_char>();
            if list.is_null() {
                return Err(PmixError::Refused { call: "calloc", status: abi::ERROR });
            }
            let status = (self.setup_fork)(&proc, &mut list);
            let mut variables = Vec::new();
            for place in 0.. {
                let entry = *list.add(place);
                if entry.is_null() {
                    break;
                }
                variables.push(copy_of(entry));
                libc::free(entry.cast());
            }
            libc::free(list.cast());
            accepted("PMIx_server_setup_fork", status)?;
            let cut = |variable: Vec<u8>| {
                let at = variable.iter().position(|byte| *byte == b'=')?;
                Some((variable[..at].to_vec(), variable[at + 1..].to_vec()))
            };
            Ok(variables.into_iter().filter_map(cut).collect())
        }
    }

    /// Tells it that a world is over: it removes what ranks have left that wanted that.
    ///
    /// # Errors
    ///
    /// When libpmix does not come back.
    pub(super) fn forget_world(&self, nspace: &str) -> Result<(), PmixError> {
        let nspace = padded::<{ abi::NSPACE_BYTES }>(nspace.as_bytes());
        completed("PMIx_server_deregister_nspace", |done, cookie| {
            // SAFETY: it copies the name before it returns.
            unsafe { (self.deregister_nspace)(nspace.as_ptr(), Some(done), cookie) };
            abi::SUCCESS
        })
    }

    /// Finds out what a rank of this node tells about itself; `found` is called once, perhaps much later, when the rank
    /// has told it, on a thread of libpmix's.
    pub(super) fn find_card(&self, rank: Rank, found: CardFound) {
        let proc = names::proc_of(rank);
        let cookie = Box::into_raw(Box::new(found)).cast::<c_void>();
        // SAFETY: it copies the process before it returns. The box is `card_found`'s, or ours where it is refused.
        unsafe {
            if (self.request_modex)(&proc, card_found, cookie) != abi::SUCCESS {
                card_found(abi::ERROR, ptr::null_mut(), 0, cookie);
            }
        }
    }

    /// Asks for nothing: `reached` is called once, on a thread of libpmix's, when it has come so far.
    pub(super) fn reach(&self, reached: Reached) {
        let nobody = abi::Proc { nspace: padded(b"efarun-nobody"), rank: 0 };
        let cookie = Box::into_raw(Box::new(reached)).cast::<c_void>();
        // SAFETY: it copies the process, which it does not know, before it returns, and calls back in any case.
        unsafe { (self.deregister_client)(&nobody, Some(has_reached), cookie) };
    }

    /// Tells this node's ranks of an event of another node's, those that have asked for such. Says whether it can be read.
    pub(super) fn notify(&self, event: &Event) -> bool {
        let Some(infos) = Unpacked::read(&event.infos, event.info_count) else { return false };
        let mut infos = Box::new(infos);
        let source = names::proc_of(event.source);
        let (start, len) = (infos.as_mut_ptr(), infos.len());
        let own = Box::into_raw(infos).cast::<c_void>();
        // SAFETY: it copies the process before it returns; the infos live until it calls `notified`, or are freed here
        // where it refuses.
        unsafe {
            let status =
                (self.notify_event)(event.code, &source, event.range, start, len, Some(notified), own);
            if status != abi::SUCCESS {
                notified(status, own);
            }
            matches!(status, abi::SUCCESS | abi::OPERATION_SUCCEEDED)
        }
    }

    fn infos(&self, infos: &[Info]) -> Infos {
        Infos::new(infos, &mut |value| match value {
            Value::Nodes(names) => generated(self.generate_regex, names),
            Value::RanksOfNodes(ranks) => generated(self.generate_ppn, ranks),
            _ => None,
        })
    }
}

unsafe extern "C" fn notified(_status: Status, own: *mut c_void) {
    // SAFETY: the box that `notify` made, given back once.
    drop(unsafe { Box::from_raw(own.cast::<Unpacked>()) });
}

/// What [`Library::find_card`] calls.
pub(super) type CardFound = Box<dyn FnOnce(Option<Vec<u8>>) + Send>;

unsafe extern "C" fn card_found(status: Status, data: *mut c_char, len: usize, cookie: *mut c_void) {
    // SAFETY: the box that `find_card` made, given back once; the bytes are libpmix's for the time of this call.
    let (found, blob) = unsafe {
        let found = Box::from_raw(cookie.cast::<CardFound>());
        let blob = match (status, data.is_null()) {
            (abi::SUCCESS, true) => Some(Vec::new()),
            (abi::SUCCESS, false) => Some(std::slice::from_raw_parts(data.cast::<u8>(), len).to_vec()),
            _ => None,
        };
        (found, blob)
    };
    found(blob);
}

/// What [`Library::reach`] calls.
pub(super) type Reached = Box<dyn FnOnce() + Send>;

unsafe extern "C" fn has_reached(_status: Status, cookie: *mut c_void) {
    // SAFETY: the box that `reach` made, given back once.
    let reached = unsafe { Box::from_raw(cookie.cast::<Reached>()) };
    reached();
}

/// Calls something that calls back, and waits for that.
fn completed(
    call: &'static str,
    start: impl FnOnce(abi::OpDone, *mut c_void) -> Status,
) -> Result<(), PmixError> {
    let (done, is_done) = mpsc::channel::<Status>();
    let cookie = Box::into_raw(Box::new(done)).cast::<c_void>();
    let status = start(op_done, cookie);
    if status != abi::SUCCESS {
        // SAFETY: without success it does not call back, so that the box is still ours.
        drop(unsafe { Box::from_raw(cookie.cast::<Sender<Status>>()) });
        return accepted(call, status);
    }
    let status = is_done.recv_timeout(PATIENCE).map_err(|_| PmixError::NoAnswer { call })?;
    accepted(call, status)
}

unsafe extern "C" fn op_done(status: Status, cookie: *mut c_void) {
    // SAFETY: the box that `completed` made, given back once.
    let done = unsafe { Box::from_raw(cookie.cast::<Sender<Status>>()) };
    // Whoever waited may have given up.
    let _ = done.send(status);
}

fn accepted(call: &'static str, status: Status) -> Result<(), PmixError> {
    match status {
        abi::SUCCESS | abi::OPERATION_SUCCEEDED => Ok(()),
        status => Err(PmixError::Refused { call, status }),
    }
}

/// A list as libpmix writes it. Where it would compress it to what is no text, the list itself under a mark that all
/// releases which compress can read.
fn generated(generate: abi::Generate, list: &str) -> Option<CString> {
    let plain = CString::new(list).ok()?;
    let mut made: *mut c_char = ptr::null_mut();
    // SAFETY: gives a text of malloc's, or nothing.
    unsafe {
        if generate(plain.as_ptr(), &mut made) != abi::SUCCESS || made.is_null() {
            return None;
        }
        let text = CStr::from_ptr(made).to_owned();
        libc::free(made.cast());
        if text.to_bytes().starts_with(b"blob") {
            CString::new(format!("raw:{list}")).ok()
        } else {
            Some(text)
        }
    }
}

/// Finds a function by its name, or by the one that it has inside Open MPI 4 where PMIx is built into it.
fn symbol(handle: *mut c_void, name: &str) -> Result<*mut c_void, String> {
    for prefix in ["PMIx_", "OPAL_MCA_PMIX3X_PMIx_"] {
        let Ok(symbol) = CString::new(format!("{prefix}{name}")) else { continue };
        // SAFETY: the handle is never closed.
        let found = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
        if !found.is_null() {
            return Ok(found);
        }
    }
    Err(format!("it has no function PMIx_{name}"))
}

fn last_loader_error() -> String {
    // SAFETY: gives a text that lives until the next call of the loader on this thread, or null.
    let error = unsafe { copy_of(libc::dlerror()) };
    String::from_utf8_lossy(&error).into_owned()
}

/// How long libpmix may take over what it does in a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);
