//! The functions by which libpmix passes on what goes beyond one rank and its node: events, questions about the job, groups.
//! As those of [`super::calls`] they run on a thread of libpmix's own, copy what they are given and pass it on.

use std::ffi::{c_char, c_int, c_void};
use std::slice;

use super::abi::{self, Status};
use super::answers::Facts;
use super::calls::{Call, bytes_of, infos_of, participants, pass_on, rank_of, texts_of};
use super::infos::{copy_of, text_of};
use super::packing;
use crate::pmix::protocol::Event;

// In each of the following, whatever it is given is libpmix's for the time of the call, and as the interface has it.

/// A rank tells of an event; this node's ranks have been told by libpmix itself.
///
/// It is not called back: what it would do then, it does at once on the thread that calls, while its own may be telling the
/// same rank of another event.
pub(super) unsafe extern "C" fn notify_event(
    code: Status,
    source: *const abi::Proc,
    range: u8,
    infos: *mut abi::Info,
    info_count: usize,
    _done: Option<abi::OpDone>,
    _cookie: *mut c_void,
) -> Status {
    if range == abi::RANGE_RM {
        return abi::OPERATION_SUCCEEDED;
    }
    // SAFETY: as said above.
    let event = unsafe {
        rank_of(source).and_then(|source| {
            let infos = packing::packed(infos_of(infos, info_count))?;
            let info_count = u32::try_from(info_count).ok()?;
            let event = Event { code, source, range, info_count, infos };
            (!event.is_too_long()).then_some(event)
        })
    };
    // Not supported would be taken for done.
    let Some(event) = event else { return abi::ERROR };
    match pass_on(|| Some(Call::Notify { event })) {
        abi::SUCCESS => abi::OPERATION_SUCCEEDED,
        refused => refused,
    }
}

/// Who asks is libpmix itself, on behalf of a rank.
pub(super) unsafe extern "C" fn query(
    _proc: *const abi::Proc,
    queries: *const abi::Query,
    query_count: usize,
    done: Option<abi::InfoDone>,
    cookie: *mut c_void,
) -> Status {
    // SAFETY: as said above.
    pass_on(|| unsafe {
        let queries = if queries.is_null() { &[] } else { slice::from_raw_parts(queries, query_count) };
        let keys = queries.iter().flat_map(|query| texts_of(query.keys)).collect();
        Some(Call::Query { keys, answer: Facts::new(done, cookie)? })
    })
}

/// All of this node's members have come to make a group, or to undo it.
pub(super) unsafe extern "C" fn group(
    deed: c_int,
    name: *const c_char,
    procs: *const abi::Proc,
    proc_count: usize,
    infos: *const abi::Info,
    info_count: usize,
    done: Option<abi::InfoDone>,
    cookie: *mut c_void,
) -> Status {
    let is_over = match deed {
        abi::GROUP_CONSTRUCT => false,
        abi::GROUP_DESTRUCT => true,
        _ => return abi::NOT_SUPPORTED,
    };
    // SAFETY: as said above.
    let infos = unsafe { infos_of(infos, info_count) };
    // No other node has to do with it. Release 5.0.11 asks twice where the first answer is not given here, and would free its
    // own records at both answers.
    if is_over && infos.iter().any(is_local_only) {
        return abi::OPERATION_SUCCEEDED;
    }
    // SAFETY: as said above.
    pass_on(|| unsafe {
        let is_blob = |info: &&abi::Info| text_of(&info.key) == ENDPOINTS;
        let blob = infos.iter().find(is_blob).and_then(|info| bytes_of(&info.value));
        Some(Call::Group {
            name: copy_of(name),
            is_over,
            participants: participants(procs, proc_count)?,
            blob: blob.unwrap_or_default(),
            answer: Facts::new(done, cookie)?,
        })
    })
}

/// Whether it says that all members are of this node.
fn is_local_only(info: &abi::Info) -> bool {
    // SAFETY: any bytes are a number, and all of these are there in an info of any kind.
    let first_byte = unsafe { info.value.data.whole }[0].to_ne_bytes()[0];
    text_of(&info.key) == LOCAL_ONLY && info.value.kind == abi::BOOL && first_byte != 0
}

const LOCAL_ONLY: &[u8] = b"pmix.grp.lcl";
/// What a node's members tell about themselves, as libpmix has packed it.
const ENDPOINTS: &[u8] = b"pmix.grp.endpt";
