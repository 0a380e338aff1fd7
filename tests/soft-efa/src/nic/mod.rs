//! A device as one process sees it: queue pairs, completion queues, regions, address handles, and what is in flight.
//!
//! Given: what the consumer posts, frames that links deliver, and the time. Answers: frames for links ([`Nic::pull`]),
//! completions ([`Nic::poll`]), and what the shell is to do ([`Action`]). It promises EFA's semantics under whatever
//! [`Manners`] are on, and makes every choice from one seed. It opens nothing, waits for nothing and copies memory
//! only through [`Memory`]; a link is a number to it.
//!
//! An operation is one [`Request`] from being posted to its completion. A message goes in one frame, an RDMA
//! operation in pieces of one MTU; the other end answers once per operation. Reliability of the medium is the link's
//! business; what the device adds is the refusal (no receive, bad key, no such queue pair), the retry after
//! "receiver not ready", and the deadline after which a peer that is not heard is given up.

mod arrive;
pub mod counters;
pub mod frame;
mod handle;
mod memory;
mod order;
mod pair;
mod queue;
mod region;
#[cfg(test)]
mod tests;
mod time;
mod transmit;
mod work;

use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

pub use counters::{Counter, Counters};
#[cfg(test)]
pub use frame::Kind as FrameKind;
pub use frame::{Frame, HEADER_BYTES};
pub use handle::Handles;
pub use memory::{Gone, Memory};
pub use pair::{PairKind, PairSettings, PairState};
pub use queue::{CompletionQueue, QueueId};
pub use region::{Access, Kind as RegionKind, Region, Regions};
pub use transmit::Outlet;
pub use work::{Completed, Completion, Operation, Payload, Piece, Pieces, Receive, Work};

use crate::address::{Endpoint, Gid, Qpn};
use crate::fault::Faults;
use crate::manners::{Choices, Manners};
use crate::profile::{Capabilities, Limits};
use crate::status::Status;
use arrive::Assembly;
use pair::Pair;
use time::Deferred;
use transmit::Transmission;

/// A link to another device's process, or to our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What makes a device behave as it does.
#[derive(Debug)]
pub struct Character {
    /// Its address.
    pub gid: Gid,
    /// What it can do.
    pub capabilities: Capabilities,
    /// How much of it.
    pub limits: Limits,
    /// The network's manners.
    pub manners: Manners,
    /// What breaks.
    pub faults: Faults,
    /// Where choices come from.
    pub choices: Choices,
    /// How long a peer may be silent before its operations are given up.
    pub timeout: Duration,
}

/// What the shell is to do for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open this link to where a queue pair is.
    Connect(LinkId, Endpoint),
    /// Close a link, once everything for it was pulled.
    Close(LinkId),
    /// Raise an event on a completion queue's channel.
    Event(QueueId),
}

/// How a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nobody was there.
    Refused,
    /// It was there, and broke.
    Broken,
}

/// A device.
#[derive(Debug)]
pub struct Nic {
    character: Character,
    counters: &'static Counters,
    regions: Regions,
    handles: Handles,
    domains: u32,
    queues: HashMap<QueueId, CompletionQueue>,
    next_queue: u32,
    pairs: HashMap<Qpn, Pair>,
    requests: HashMap<u64, Request>,
    next_operation: u64,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    routes: HashMap<Endpoint, LinkId>,
    responsive: HashSet<Endpoint>,
    deferred: BinaryHeap<Deferred>,
    next_deferred: u64,
    next_look: Option<Instant>,
    /// For how long it did not get to look, though it was to.
    missed: Duration,
    posted: u64,
    actions: Vec<Action>,
}

/// An operation of ours that is not complete.
#[derive(Debug)]
struct Request {
    work: Work,
    pair: Qpn,
    target: Endpoint,
    link: LinkId,
    total_bytes: u32,
    /// How often the receiver was not ready.
    refusals: u32,
    /// By [`Nic::lived`].
    since: Instant,
    /// Of a read: what has landed.
    assembly: Assembly,
}

/// What the device knows of a link.
#[derive(Debug)]
struct Link {
    /// The device at the other end.
    gid: Gid,
    /// The queue pair that it was opened for; none when the other end opened it.
    route: Option<Endpoint>,
    /// Frames without a payload that are to go out.
    control: VecDeque<Frame>,
    /// Operations, and answers to reads, that are going out.
    transmissions: VecDeque<Transmission>,
    /// Writes that are coming in.
    assemblies: HashMap<u64, Assembly>,
    /// By [`Nic::lived`].
    last_heard: Instant,
}

impl Nic {
    /// A device with nothing on it.
    pub fn new(character: Character, counters: &'static Counters) -> Nic {
        Nic {
            regions: Regions::new(character.limits.regions),
            handles: Handles::new(character.limits.address_handles),
            character,
            counters,
            domains: 0,
            queues: HashMap::new(),
            next_queue: 0,
            pairs: HashMap::new(),
            requests: HashMap::new(),
            next_operation: 0,
            links: BTreeMap::new(),
            next_link: 0,
            routes: HashMap::new(),
            responsive: HashSet::new(),
            deferred: BinaryHeap::new(),
            next_deferred: 0,
            next_look: None,
            missed: Duration::ZERO,
            posted: 0,
            actions: Vec::new(),
        }
    }

    /// Its address.
    pub fn gid(&self) -> Gid {
        self.character.gid
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.character.limits
    }

    /// What it can do.
    pub fn capabilities(&self) -> Capabilities {
        self.character.capabilities
    }

    /// What breaks.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.character.faults
    }

    /// Whether anything may break.
    pub fn has_faults(&self) -> bool {
        !self.character.faults.is_empty()
    }

    /// Where a link of ours leads.
    pub fn route_of(&self, id: LinkId) -> Option<Endpoint> {
        self.links.get(&id)?.route
    }

    /// How many operations were posted so far.
    pub fn posted(&self) -> u64 {
        self.posted
    }

    /// Its regions.
    pub fn regions(&mut self) -> &mut Regions {
        &mut self.regions
    }

    /// Registers memory.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what no device would take, `ENOMEM` when this one has no more, `EFAULT` for CUDA's memory without
    /// GPUDirect: the kernel then finds no memory at the address.
    pub fn register(&mut self, region: Region) -> Result<u32, nix::errno::Errno> {
        if region.kind == RegionKind::Cuda && self.character.faults.refuses_cuda() {
            return Err(nix::errno::Errno::EFAULT);
        }
        let limits = &self.character.limits;
        let pages = region.len_bytes.div_ceil(PAGE_BYTES);
        let is_writable = region.access.0 & Access::REMOTE_WRITE.0 != 0;
        if region.len_bytes == 0 || region.len_bytes > limits.region_bytes {
            return Err(nix::errno::Errno::EINVAL);
        }
        // Who may be read or written must be able to.
        let (reads, writes) = (self.character.capabilities.rdma_read, self.character.capabilities.rdma_write);
        let asks_reads = region.access.0 & Access::REMOTE_READ.0 != 0;
        if (is_writable && !writes) || (asks_reads && !reads) {
            return Err(nix::errno::Errno::EOPNOTSUPP);
        }
        if is_writable && pages > limits.writable_region_pages {
            return Err(nix::errno::Errno::ENOMEM);
        }
        self.regions.add(region).ok_or(nix::errno::Errno::ENOMEM)
    }

    /// Makes a protection domain; false when the device has no more.
    pub fn add_domain(&mut self) -> bool {
        let has_room = self.domains < self.character.limits.protection_domains;
        self.domains += u32::from(has_room);
        has_room
    }

    /// Gives one back.
    pub fn remove_domain(&mut self) {
        self.domains = self.domains.saturating_sub(1);
    }

    /// Its address handles.
    pub fn handles(&mut self) -> &mut Handles {
        &mut self.handles
    }

    /// The number by which a completion names who caused it; none when its queue pair's domain has no handle for that.
    pub fn source_number(&self, completion: &Completion) -> Option<u16> {
        let domain = self.pairs.get(&completion.pair)?.domain;
        self.handles.number(domain, completion.source?.gid)
    }

    /// Makes a completion queue; none when the device has no more, or not such large ones.
    pub fn create_queue(&mut self, entries: u32, has_channel: bool) -> Option<QueueId> {
        let limits = &self.character.limits;
        if self.queues.len() >= limits.completion_queues as usize || entries > limits.completion_queue_entries
        {
            return None;
        }
        let id = QueueId(self.next_queue);
        self.next_queue += 1;
        self.queues.insert(id, CompletionQueue::new(entries.max(1), has_channel));
        Some(id)
    }

    /// Takes a completion queue away, unless queue pairs use it.
    pub fn destroy_queue(&mut self, id: QueueId) -> bool {
        let is_used = self.pairs.values().any(|pair| pair.send_queue == id || pair.receive_queue == id);
        if !is_used {
            self.queues.remove(&id);
        }
        !is_used
    }

    /// The next completion of a queue.
    pub fn poll(&mut self, id: QueueId) -> Option<Completion> {
        let completion = self.queues.get_mut(&id)?.pop()?;
        if completion.what.is_ours()
            && let Some(pair) = self.pairs.get_mut(&completion.pair)
        {
            pair.outstanding = pair.outstanding.saturating_sub(1);
        }
        Some(completion)
    }

    /// Asks for an event at the queue's next completion, and says whether it is due now.
    pub fn arm(&mut self, id: QueueId) -> bool {
        self.queues.get_mut(&id).is_some_and(CompletionQueue::arm)
    }

    /// How many completions a full queue has lost.
    pub fn lost_completions(&self, id: QueueId) -> u64 {
        self.queues.get(&id).map_or(0, CompletionQueue::lost)
    }

    /// What the shell is to do, once.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Knows a link that another device opened.
    pub fn accept_link(&mut self, now: Instant, gid: Gid) -> LinkId {
        self.add_link(now, gid, None)
    }

    /// A link is no more. What it was to carry ends with an error.
    pub fn lose_link(&mut self, now: Instant, id: LinkId, loss: Loss, memory: &dyn Memory) {
        // What arrived before the end counts, however late the manners wanted to look at it.
        self.hurry_link(now, id, memory);
        if self.links.remove(&id).is_none() {
            return;
        }
        self.routes.retain(|_, link| *link != id);
        let mut lost: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, request)| request.link == id)
            .map(|(number, _)| *number)
            .collect();
        lost.sort_unstable();
        for number in lost {
            let Some(request) = self.requests.get(&number) else { continue };
            let status = match loss {
                _ if self.is_datagram(request.pair) => Status::Ok,
                _ if self.responsive.contains(&request.target) => Status::Unresponsive,
                Loss::Refused => Status::RemoteBadQueuePair,
                Loss::Broken => Status::Unreachable,
            };
            self.complete_request(now, number, status);
        }
    }

    fn add_link(&mut self, now: Instant, gid: Gid, route: Option<Endpoint>) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        let link = Link {
            gid,
            route,
            control: VecDeque::new(),
            transmissions: VecDeque::new(),
            assemblies: HashMap::new(),
            last_heard: self.lived(now),
        };
        self.links.insert(id, link);
        id
    }

    /// The link to a queue pair, which is opened when there is none.
    fn link_to(&mut self, now: Instant, target: Endpoint) -> LinkId {
        if let Some(id) = self.routes.get(&target) {
            return *id;
        }
        let id = self.add_link(now, target.gid, Some(target));
        self.routes.insert(target, id);
        self.actions.push(Action::Connect(id, target));
        id
    }

    /// Gives a link up that its peer does not answer on, so that a later operation tries afresh.
    fn abandon_link(&mut self, id: LinkId) {
        if self.links.remove(&id).is_some() {
            self.routes.retain(|_, link| *link != id);
            self.actions.push(Action::Close(id));
        }
    }

    fn is_datagram(&self, pair: Qpn) -> bool {
        self.pairs.get(&pair).is_some_and(|pair| pair.kind == PairKind::Datagram)
    }

    /// Ends an operation of ours.
    fn complete_request(&mut self, now: Instant, number: u64, status: Status) {
        let Some(request) = self.requests.remove(&number) else { return };
        let (what, errors) = match request.work.operation {
            Operation::Send => (Completed::Send, None),
            Operation::Read { .. } => (Completed::Read, Some(Counter::RdmaReadWrErr)),
            Operation::Write { .. } => (Completed::Write, Some(Counter::RdmaWriteWrErr)),
        };
        let len_bytes = request.total_bytes;
        match (status, what) {
            (Status::Ok, Completed::Read) => self.counters.add(Counter::RdmaReadBytes, len_bytes.into()),
            (Status::Ok, Completed::Write) => self.counters.add(Counter::RdmaWriteBytes, len_bytes.into()),
            (Status::Ok, _) => self.counters.add(Counter::SendBytes, len_bytes.into()),
            _ => errors.into_iter().for_each(|counter| self.counters.add(counter, 1)),
        }
        let Some(pair) = self.pairs.get(&request.pair) else { return };
        let completion = Completion {
            id: request.work.id,
            status,
            what,
            len_bytes,
            immediate: None,
            pair: request.pair,
            source: None,
            is_unsolicited: false,
        };
        self.complete(now, pair.send_queue, completion);
    }

    /// Shows a completion, at once or as late as the manners want.
    fn complete(&mut self, now: Instant, queue: QueueId, completion: Completion) {
        match self.character.choices.delay_up_to(self.character.manners.completions) {
            Some(delay) => {
                self.counters.add(Counter::MannerCompletions, 1);
                self.defer(now + delay, time::What::Completion(queue, completion));
            }
            None => self.show(queue, completion),
        }
    }

    fn show(&mut self, queue: QueueId, completion: Completion) {
        let Some(entries) = self.queues.get_mut(&queue) else { return };
        if entries.push(completion) {
            self.actions.push(Action::Event(queue));
        }
    }
}

/// What limits of regions count in.
const PAGE_BYTES: u64 = 4096;
