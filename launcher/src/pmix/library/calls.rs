//! The functions by which libpmix calls its server. They run on a thread of libpmix's own and must not wait there: each
//! copies what it is given and passes it on.

use std::collections::BTreeSet;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::slice;
use std::sync::{Once, OnceLock};

use efarun_wire::Rank;
use efarun_wire::message::{Participants, SpawnProgram};

use super::abi::{self, Status};
use super::answers::{Cards, Facts, Finds, Operation, Spawns};
use super::infos::{copy_of, text_of};
use super::{names, reach};
use crate::pmix::protocol::{Event, Published, Purpose};

/// What libpmix tells and asks.
#[derive(Debug)]
pub(in crate::pmix) enum Call {
    /// A rank has called something that is not served, and is told so.
    NotServed(&'static str),
    Connected(Rank),
    Finalized(Rank),
    Aborted {
        rank: Rank,
        code: i32,
        reason: String,
    },
    /// Ranks have come to a fence. Those of another name space are refused before this.
    Fence {
        participants: Participants,
        blob: Vec<u8>,
        answer: Cards,
    },
    /// Ranks connect or disconnect.
    Meeting {
        purpose: Purpose,
        participants: Participants,
        answer: Operation,
    },
    WantCard {
        rank: Rank,
        answer: Cards,
    },
    Publish {
        values: Vec<Published>,
        answer: Operation,
    },
    Lookup {
        keys: Vec<Vec<u8>>,
        waits: bool,
        answer: Finds,
    },
    Spawn {
        rank: Rank,
        programs: Vec<SpawnProgram>,
        answer: Spawns,
    },
    Unpublish {
        rank: Rank,
        keys: Vec<Vec<u8>>,
        answer: Operation,
    },
    /// Needs no answer.
    Notify {
        event: Event,
    },
    Query {
        keys: Vec<Vec<u8>>,
        answer: Facts,
    },
    Group {
        name: Vec<u8>,
        is_over: bool,
        participants: Participants,
        blob: Vec<u8>,
        answer: Facts,
    },
}

/// Takes a call, at once and in order; says whether anybody is there for it.
pub(in crate::pmix) type TakeCall = Box<dyn Fn(Call) -> bool + Send + Sync>;

/// Where calls go. libpmix's functions have no argument of ours, and there is one server in a process.
static RECEIVER: OnceLock<TakeCall> = OnceLock::new();

/// Says where calls go; once in a process.
pub(super) fn send_to(take: TakeCall) {
    assert!(RECEIVER.set(take).is_ok(), "a helper is one server");
}

/// The table of these functions.
pub(super) fn module() -> abi::ServerModule {
    abi::ServerModule {
        client_connected: client_connected as *const c_void,
        client_finalized: client_finalized as *const c_void,
        abort: abort as *const c_void,
        fence: fence as *const c_void,
        direct_modex: direct_modex as *const c_void,
        publish: publish as *const c_void,
        lookup: lookup as *const c_void,
        unpublish: unpublish as *const c_void,
        spawn: spawn as *const c_void,
        connect: connect as *const c_void,
        disconnect: disconnect as *const c_void,
        register_events: register_events as *const c_void,
        deregister_events: register_events as *const c_void,
        listener: ptr::null(),
        notify_event: reach::notify_event as *const c_void,
        query: reach::query as *const c_void,
        unserved: [ptr::null(); 2],
        allocate: allocate as *const c_void,
        job_control: job_control as *const c_void,
        monitor: monitor as *const c_void,
        get_credential: get_credential as *const c_void,
        validate_credential: validate_credential as *const c_void,
        more_unserved: [ptr::null(); 2],
        group: reach::group as *const c_void,
        fabric: fabric as *const c_void,
        client_connected_2: client_connected_2 as *const c_void,
        later: [ptr::null(); 36],
    }
}

/// The frame of every function: what libpmix gave becomes a [`Call`], which is passed on. Not supported is what makes none:
/// processes of other name spaces, values of types that nobody sends, a question without a way to answer it.
pub(super) fn pass_on(call: impl FnOnce() -> Option<Call>) -> Status {
    let (Some(take), Some(call)) = (RECEIVER.get(), call()) else { return abi::NOT_SUPPORTED };
    // Fails only when the process is ending.
    if take(call) { abi::SUCCESS } else { abi::ERROR }
}

/// As [`pass_on`], for what needs no answer of the agent's: it is answered here.
fn pass_on_and_answer(
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
    call: impl FnOnce() -> Option<Call>,
) -> Status {
    let status = pass_on(call);
    if status == abi::SUCCESS
        && let Some(operation) = Operation::new(done, cookie)
    {
        operation.done(true);
    }
    status
}

/// The rank of a process of the job.
///
/// # Safety
///
/// The pointer is null or leads to a process that is libpmix's for the time of the call.
pub(super) unsafe fn rank_of(proc: *const abi::Proc) -> Option<Rank> {
    // SAFETY: as the caller promises.
    names::rank_of(unsafe { proc.as_ref() }?)
}

/// The ranks of an array of processes; none where some are not of the job.
///
/// # Safety
///
/// As [`rank_of`], for so many in a row.
pub(super) unsafe fn participants(procs: *const abi::Proc, count: usize) -> Option<Participants> {
    if procs.is_null() || count == 0 {
        return None;
    }
    // SAFETY: as the caller promises.
    let procs = unsafe { slice::from_raw_parts(procs, count) };
    if let [proc] = procs
        && names::is_first_world(proc)
    {
        return Some(Participants::World);
    }
    let ranges = procs.iter().map(names::ranks_of).collect::<Option<Vec<_>>>()?;
    let ranks = ranges.into_iter().flat_map(|(first, count)| (first.0..first.0 + count).map(Rank));
    let ranks: BTreeSet<Rank> = ranks.collect();
    Some(Participants::Ranks(ranks.into_iter().collect()))
}

/// The texts of a list that ends with null.
///
/// # Safety
///
/// The pointer is null or leads to such a list of texts.
pub(super) unsafe fn texts_of(mut texts: *const *const c_char) -> Vec<Vec<u8>> {
    let mut copied = Vec::new();
    // SAFETY: every entry up to the null is a text, as the caller promises.
    unsafe {
        while let Some(text) = texts.as_ref().filter(|text| !text.is_null()) {
            copied.push(copy_of(*text));
            texts = texts.add(1);
        }
    }
    copied
}

/// A copy of bytes that C keeps; empty where there are none.
///
/// # Safety
///
/// The pointer is null or leads to so many bytes.
unsafe fn bytes_at(start: *const c_char, len: usize) -> Vec<u8> {
    if start.is_null() {
        return Vec::new();
    }
    // SAFETY: as the caller promises.
    unsafe { slice::from_raw_parts(start.cast::<u8>(), len) }.to_vec()
}

/// # Safety
///
/// The pointer is null or leads to so many infos.
pub(super) unsafe fn infos_of<'a>(infos: *const abi::Info, count: usize) -> &'a [abi::Info] {
    // SAFETY: as the caller promises.
    if infos.is_null() { &[] } else { unsafe { slice::from_raw_parts(infos, count) } }
}

// In each of the following, whatever it is given is libpmix's for the time of the call, and as the interface has it.

unsafe extern "C" fn client_connected(
    proc: *const abi::Proc,
    _object: *mut c_void,
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    pass_on_and_answer(done, cookie, || unsafe { Some(Call::Connected(rank_of(proc)?)) })
}

unsafe extern "C" fn client_connected_2(
    proc: *const abi::Proc,
    object: *mut c_void,
    _infos: *mut abi::Info,
    _info_count: usize,
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: the same arguments, of which this form has two more.
    unsafe { client_connected(proc, object, done, cookie) }
}

unsafe extern "C" fn client_finalized(
    proc: *const abi::Proc,
    _object: *mut c_void,
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    pass_on_and_answer(done, cookie, || unsafe { Some(Call::Finalized(rank_of(proc)?)) })
}

/// Whichever ranks are to be aborted, the job is.
unsafe extern "C" fn abort(
    proc: *const abi::Proc,
    _object: *mut c_void,
    code: c_int,
    message: *const c_char,
    _procs: *mut abi::Proc,
    _proc_count: usize,
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    pass_on_and_answer(done, cookie, || unsafe {
        let reason = String::from_utf8_lossy(&copy_of(message)).into_owned();
        Some(Call::Aborted { rank: rank_of(proc)?, code, reason })
    })
}

unsafe extern "C" fn fence(
    procs: *const abi::Proc,
    proc_count: usize,
    _infos: *const abi::Info,
    _info_count: usize,
    data: *mut c_char,
    len: usize,
    done: Option<abi::ModexDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above. The bytes become ours, and are malloc's to free.
    let blob = unsafe {
        let blob = bytes_at(data, len);
        libc::free(data.cast());
        blob
    };
    // SAFETY: as said above.
    pass_on(|| unsafe {
        let participants = participants(procs, proc_count)?;
        Some(Call::Fence { participants, blob, answer: Cards::new(done, cookie)? })
    })
}

unsafe extern "C" fn direct_modex(
    proc: *const abi::Proc,
    _infos: *const abi::Info,
    _info_count: usize,
    done: Option<abi::ModexDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    pass_on(|| unsafe { Some(Call::WantCard { rank: rank_of(proc)?, answer: Cards::new(done, cookie)? }) })
}

unsafe extern "C" fn publish(
    proc: *const abi::Proc,
    infos: *const abi::Info,
    info_count: usize,
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    pass_on(|| unsafe {
        let rank = rank_of(proc)?;
        let is_value = |info: &&abi::Info| !text_of(&info.key).starts_with(DIRECTIVE);
        let value = |info: &abi::Info| {
            let bytes = bytes_of(&info.value)?;
            Some(Published { rank, key: text_of(&info.key), kind: info.value.kind, bytes })
        };
        let values = infos_of(infos, info_count).iter().filter(is_value).map(value).collect::<Option<_>>()?;
        Some(Call::Publish { values, answer: Operation::new(done, cookie)? })
    })
}

/// A value's bytes; none for types that nobody publishes.
///
/// # Safety
///
/// The value is as its kind says.
pub(super) unsafe fn bytes_of(value: &abi::Value) -> Option<Vec<u8>> {
    // SAFETY: the kind says which of the union's fields is there.
    unsafe {
        match value.kind {
            abi::STRING => Some(copy_of(value.data.text)),
            abi::BYTE_OBJECT => Some(bytes_at(value.data.bytes.start, value.data.bytes.len)),
            abi::BOOL | abi::STATUS | abi::PROC_RANK => Some(value.data.word.to_ne_bytes().to_vec()),
            kind if abi::PLAIN.contains(&kind) => Some(value.data.word.to_ne_bytes().to_vec()),
            _ => None,
        }
    }
}

unsafe extern "C" fn lookup(
    proc: *const abi::Proc,
    keys: *const *const c_char,
    infos: *const abi::Info,
    info_count: usize,
    done: Option<abi::LookupDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    pass_on(|| unsafe {
        rank_of(proc)?;
        let waits = infos_of(infos, info_count).iter().any(|info| text_of(&info.key) == WAIT);
        Some(Call::Lookup { keys: texts_of(keys), waits, answer: Finds::new(done, cookie)? })
    })
}

unsafe extern "C" fn unpublish(
    proc: *const abi::Proc,
    keys: *const *const c_char,
    _infos: *const abi::Info,
    _info_count: usize,
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    pass_on(|| unsafe {
        let (rank, keys) = (rank_of(proc)?, texts_of(keys));
        Some(Call::Unpublish { rank, keys, answer: Operation::new(done, cookie)? })
    })
}

unsafe extern "C" fn spawn(
    proc: *const abi::Proc,
    _infos: *const abi::Info,
    _info_count: usize,
    apps: *const abi::App,
    app_count: usize,
    done: Option<abi::SpawnDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    pass_on(|| unsafe {
        let apps = if apps.is_null() { &[] } else { slice::from_raw_parts(apps, app_count) };
        let programs = apps.iter().map(|app| program(app)).collect();
        Some(Call::Spawn { rank: rank_of(proc)?, programs, answer: Spawns::new(done, cookie)? })
    })
}

/// # Safety
///
/// All that the app points to is there, as the interface has it.
unsafe fn program(app: &abi::App) -> SpawnProgram {
    let cut = |variable: Vec<u8>| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        Some((variable[..at].to_vec(), variable[at + 1..].to_vec()))
    };
    // SAFETY: as the caller promises.
    let mut program = unsafe {
        SpawnProgram {
            program: copy_of(app.command),
            args: texts_of(app.args).into_iter().skip(1).collect(),
            count: u32::try_from(app.count).unwrap_or_default(),
            env: texts_of(app.env).into_iter().filter_map(cut).collect(),
            wdir: copy_of(app.wdir),
            ..SpawnProgram::default()
        }
    };
    // SAFETY: as the caller promises.
    for info in unsafe { infos_of(app.infos, app.info_count) } {
        let (key, is_text) = (text_of(&info.key), info.value.kind == abi::STRING);
        // SAFETY: the kind says that it is a text.
        let text = if is_text { unsafe { copy_of(info.value.data.text) } } else { Vec::new() };
        match &key[..] {
            b"pmix.host" => {
                let hosts = String::from_utf8_lossy(&text);
                program.hosts = hosts.split(',').map(|host| host.trim().to_owned()).collect();
            }
            b"pmix.wdir" => program.wdir = text,
            key if PLACING.contains(&key) => program.unknown.push(String::from_utf8_lossy(key).into_owned()),
            // The library's own.
            _ => {}
        }
    }
    program
}

unsafe extern "C" fn connect(
    procs: *const abi::Proc,
    proc_count: usize,
    _infos: *const abi::Info,
    _info_count: usize,
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    unsafe { meet(Purpose::Connect, procs, proc_count, done, cookie) }
}

unsafe extern "C" fn disconnect(
    procs: *const abi::Proc,
    proc_count: usize,
    _infos: *const abi::Info,
    _info_count: usize,
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    unsafe { meet(Purpose::Disconnect, procs, proc_count, done, cookie) }
}

/// # Safety
///
/// All are libpmix's for this call.
unsafe fn meet(
    purpose: Purpose,
    procs: *const abi::Proc,
    proc_count: usize,
    done: Option<abi::OpDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as the caller promises.
    pass_on(|| unsafe {
        let participants = participants(procs, proc_count)?;
        Some(Call::Meeting { purpose, participants, answer: Operation::new(done, cookie)? })
    })
}

/// Events of ranks come by themselves, from wherever they are; it asks for more here, of which there is none.
unsafe extern "C" fn register_events() -> Status {
    abi::OPERATION_SUCCEEDED
}

/// Defines functions that say what was called, once, and that it is not served. They look at none of their arguments.
macro_rules! not_served {
    ($($function:ident: $name:literal),*) => {$(
        unsafe extern "C" fn $function() -> Status {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                // Whether or not anybody is there for it.
                let _ = pass_on(|| Some(Call::NotServed($name)));
            });
            abi::NOT_SUPPORTED
        }
    )*};
}

not_served! {
    allocate: "PMIx_Allocation_request",
    monitor: "PMIx_Process_monitor",
    get_credential: "PMIx_Get_credential",
    validate_credential: "PMIx_Validate_credential",
    fabric: "PMIx_Fabric_register"
}

/// What files a rank wants removed after it is libpmix's own to note, and asks nothing here; but it does so only where there
/// is such a function.
unsafe extern "C" fn job_control() -> Status {
    abi::NOT_SUPPORTED
}

/// What a user may ask for about places, by PMIx's names, and is not acted on.
const PLACING: [&[u8]; 6] =
    [b"pmix.mapby", b"pmix.rankby", b"pmix.bindto", b"pmix.ppr", b"pmix.hostfile", b"pmix.addhost"];
/// What the keys of directives begin with, among those that are published.
const DIRECTIVE: &[u8] = b"pmix.";
const WAIT: &[u8] = b"pmix.wait";
