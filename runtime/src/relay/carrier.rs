//! The host's part: threads that do with other hosts what slices ask for.
//!
//! Each thread has a World and the channels of its number. It waits for what they post, in the order in which the kernels take
//! them: the slices of a transfer in turn, then those of the next from its first channel on ([`lanes`](super::lanes)). Ranks that exchange
//! something post it in the same order, so that both ends of a connection go through the same messages. Between transfers it
//! serves launches of messages ([`far`](super::far)), as many as come before the next transfer, until they are done.
//!
//! # Safety
//!
//! A channel's parts of outbox and inbox are the thread's from the post to the answer. Cells are words that are written at once.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::cells::Round;
use super::direct;
use super::far::lane::{self, Plan as MessagePlan};
use super::far::parameters::{BOX_BYTES as FAR_BOX_BYTES, DOORS};
use super::far::session::{Carrier, Places, Session, Surroundings};
use super::lanes::Lane;
use super::parameters::{ANSWERED, CHANNELS, LANE_CELL_WORDS, SLOT_BYTES, WORDS};
use super::shorts::{Shorts, clear_got, clear_put};
use super::staging::{BOX_BYTES, INBOX, OUTBOX, Staging};
use super::transfer::{Caller, Transfer, is_short, part_len};
use crate::cuda::HostMemory;
use crate::error::Error;
use crate::nvlink::status;
use crate::transport::fabric::reads::Reader;
use crate::warning;
use crate::world::World;

/// What the relay's threads and the one that enqueues share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) staging: Staging,
    pub(super) cells: HostMemory,
    pub(super) words: HostMemory,
    /// The same for messages.
    pub(super) far_cells: HostMemory,
    pub(super) far_words: HostMemory,
    /// What kernels tell the host, and the host kernels.
    pub(super) status: HostMemory,
    plans: Mutex<Plans<Plan>>,
    far_plans: Mutex<Plans<FarPlan>>,
    failure: Mutex<Option<Error>>,
    is_over: AtomicBool,
}

#[derive(Debug)]
struct Plans<P> {
    last: u32,
    by_number: HashMap<u32, Arc<P>>,
}

/// What lanes do for a launch of messages, and how many are to learn of it before it is forgotten; never where a graph can run it again.
#[derive(Debug)]
struct FarPlan {
    plan: Arc<MessagePlan>,
    left: Option<AtomicUsize>,
}

/// What the hosts do with a call's slices.
#[derive(Debug)]
pub(super) struct Plan {
    caller: Caller,
    slices: usize,
    pub(super) slice_bytes: usize,
    /// With whom, which part of a channel's box, and of a stretch of how many bytes.
    pub(super) sends: Vec<(Rank, usize, usize)>,
    pub(super) receives: Vec<(Rank, usize, usize)>,
    pub(super) passes_on: Vec<Rank>,
    /// How many slices are to be done before it is forgotten; never where a graph can run it again.
    left: Option<AtomicUsize>,
}

impl Shared {
    /// Of each kind of memory that of transfers and that of messages.
    pub(super) fn new(
        staging: Staging,
        [cells, far_cells]: [HostMemory; 2],
        [words, far_words]: [HostMemory; 2],
        status: HostMemory,
    ) -> Shared {
        Shared {
            staging,
            cells,
            words,
            far_cells,
            far_words,
            status,
            plans: Mutex::default(),
            far_plans: Mutex::default(),
            failure: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Takes a plan in, and gives its number.
    pub(super) fn add(&self, transfer: &Transfer, caller: Caller, is_captured: bool) -> u32 {
        add(&self.plans, Plan::of(transfer, caller, is_captured))
    }

    /// The same of messages, in which so many lanes have a part.
    pub(super) fn add_messages(&self, plan: MessagePlan, lanes: usize, is_captured: bool) -> u32 {
        let left = (!is_captured).then(|| AtomicUsize::new(lanes));
        add(&self.far_plans, FarPlan { plan: Arc::new(plan), left })
    }

    /// A plan of messages, of which each lane learns once each time a kernel asks for it.
    fn far_plan(&self, number: u32) -> Option<Arc<MessagePlan>> {
        let mut plans = self.far_plans.lock().unwrap_or_else(PoisonError::into_inner);
        let FarPlan { plan, left } = &**plans.by_number.get(&number)?;
        let plan = Arc::clone(plan);
        if left.as_ref().is_some_and(|left| left.fetch_sub(1, Ordering::AcqRel) == 1) {
            plans.by_number.remove(&number);
        }
        Some(plan)
    }

    /// Why a thread ended before its time.
    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: Error, caller: Option<Caller>) {
        let error = match caller {
            Some(Caller { operation, sequence }) => error.within(operation, sequence),
            None => error,
        };
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn far_words(&self) -> &[AtomicU64] {
        self.far_words.words(0..DOORS * WORDS)
    }

    /// Ends what waits on the GPU, and every call from now on.
    pub(super) fn stop(&self) {
        self.status.word32(status::STOP).store(1, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Lets the threads end.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    fn plan(&self, number: u32) -> Option<Arc<Plan>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).by_number.get(&number).cloned()
    }

    fn done(&self, number: u32, plan: &Plan) {
        if plan.left.as_ref().is_some_and(|left| left.fetch_sub(1, Ordering::AcqRel) == 1) {
            self.plans.lock().unwrap_or_else(PoisonError::into_inner).by_number.remove(&number);
        }
    }
}

/// Takes a plan in, and gives its number.
fn add<P>(plans: &Mutex<Plans<P>>, plan: P) -> u32 {
    let mut plans = plans.lock().unwrap_or_else(PoisonError::into_inner);
    // Those that are captured are never forgotten.
    let number = plans.next();
    plans.by_number.insert(number, Arc::new(plan));
    number
}

impl<P> Default for Plans<P> {
    fn default() -> Plans<P> {
        Plans { last: 0, by_number: HashMap::new() }
    }
}

impl<P> Plans<P> {
    /// A number that none of them has.
    fn next(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.by_number.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

impl Plan {
    /// Of a transfer's slices; one that is captured is never forgotten.
    pub(super) fn of(transfer: &Transfer, caller: Caller, is_captured: bool) -> Plan {
        let slices = transfer.slices();
        let with_bytes = |list: &[(Rank, usize)], of: &[super::Stretch]| {
            list.iter().map(|&(rank, index)| (rank, index, of[index].bytes)).collect()
        };
        Plan {
            caller,
            slices,
            slice_bytes: transfer.slice_bytes,
            sends: with_bytes(&transfer.sends, &transfer.puts),
            receives: with_bytes(&transfer.receives, &transfer.gets),
            passes_on: transfer.passes_on.clone(),
            left: (!is_captured).then(|| AtomicUsize::new(slices)),
        }
    }
}

/// Serves the lane's channels until the relay is over, or something fails. `reader` is the lane's where GPU memory is read by
/// cards.
pub(super) fn carry(shared: &Shared, lane: Lane, mut world: World, mut reader: Option<Reader>) {
    let goes_well = serve(shared, lane, &mut world, reader.as_mut());
    if !goes_well {
        shared.stop();
    }
    if let Some(Err(error)) = reader.map(Reader::close) {
        let text = format_args!("an endpoint does not close, GPU memory is left allocated: {error}");
        warning::tell("relay: endpoint not closed", text);
    }
    // Who does not leave is told to the others as gone.
    if goes_well {
        world.leave();
    }
}

/// Serves until the relay is over; whether it was, and nothing has failed.
fn serve(shared: &Shared, lane: Lane, world: &mut World, mut reader: Option<&mut Reader>) -> bool {
    let mut rounds = [Round(1); CHANNELS];
    let mut shorts = Shorts::default();
    let mut far = lane::Lane::new(lane.number, lane.count);
    let cells = shared.cells.words(lane.number * LANE_CELL_WORDS..(lane.number + 1) * LANE_CELL_WORDS);
    let mut channel = lane.first_channel();
    // Who sends first what is only received, as in the transfer before: by then it is on its way.
    let mut sender = None;
    while let Some(work) = await_work(shared, lane, &far, channel, &rounds, || {
        sender.take_if(|sender| world.look_ahead(*sender));
    }) {
        let (number, slice) = match work {
            Work::Slice(number, slice) => (number, slice as usize),
            Work::Messages => {
                let transfers = transfers(&rounds, lane);
                if let Err((error, caller)) =
                    converse(shared, world, reader.as_deref_mut(), &mut far, transfers)
                {
                    shared.fail(error, caller);
                    return false;
                }
                continue;
            }
        };
        let Some(plan) = shared.plan(number) else {
            log::error!("a kernel asked for plan {number}, which there is not");
            return false;
        };
        let round = rounds[channel];
        if slice == 0 && !shorts.take(&plan, cells, round, || shared.is_over()) {
            return true;
        }
        // All cells are those of the lane's first channel.
        if channel == lane.first_channel() && round.clears() {
            clear_put(cells, round);
            clear_got(cells, round);
        }
        if let Err(error) =
            exchange(shared, world, reader.as_deref_mut(), &plan, (channel, slice), &mut shorts)
        {
            shared.fail(error, Some(plan.caller));
            return false;
        }
        if slice == 0 {
            shorts.give(&plan, cells, round);
        }
        shared.words.word(channel * WORDS + ANSWERED).store(round.0, Ordering::Release);
        rounds[channel] = Round(round.0 + 1);
        shared.done(number, &plan);
        // What is longer would be copied twice for it.
        let is_only_received = plan.sends.is_empty() && plan.slices <= lane.count;
        sender = plan.receives.first().filter(|_| is_only_received).map(|(from, ..)| *from);
        channel = lane.next_channel(channel, slice, plan.slices);
    }
    true
}

/// What a lane is to do next.
enum Work {
    /// This slice of a transfer's plan.
    Slice(u32, u32),
    Messages,
}

/// How many rounds of transfers a lane has served, of the channel that all in which it has a part use: messages say so behind how many
/// they come.
fn transfers(rounds: &[Round; CHANNELS], lane: Lane) -> u32 {
    (rounds[lane.number].0 - 1) as u32
}

/// Waits for what comes next, on a transfer's next channel or between transfers; nothing when the relay is over. Meanwhile does
/// something else now and then.
fn await_work(
    shared: &Shared,
    lane: Lane,
    far: &lane::Lane,
    channel: usize,
    rounds: &[Round; CHANNELS],
    mut meanwhile: impl FnMut(),
) -> Option<Work> {
    let (round, transfers) = (rounds[channel], transfers(rounds, lane));
    let post = round.post();
    let post = shared.words.words(channel * WORDS + post.start..channel * WORDS + post.end);
    let (call, called) = far.next_call(shared.far_words());
    let start = Instant::now();
    let mut looks = 0u32;
    loop {
        // In this order: what is posted before the end is found, and what came before a transfer that is found is there.
        let is_over = looks.is_multiple_of(LOOKS) && shared.is_over();
        let posted = round.posted(post);
        let is_called = call.posted(called).is_some_and(|(_, before)| before == transfers);
        if is_called && channel == lane.first_channel() {
            return Some(Work::Messages);
        }
        if let Some((number, slice)) = posted {
            return Some(Work::Slice(number, slice));
        }
        if is_over {
            return None;
        }
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS_AHEAD) {
            meanwhile();
        }
        if !looks.is_multiple_of(LOOKS) {
            std::hint::spin_loop();
            continue;
        }
        let waited = start.elapsed();
        if waited > NAP_FROM {
            // Whoever enqueues wakes it; who runs a graph does not.
            std::thread::park_timeout(NAP.min(waited / 8));
        }
    }
}

/// Passes messages until there are none; or why not, and of which call.
fn converse(
    shared: &Shared,
    world: &mut World,
    reader: Option<&mut Reader>,
    lane: &mut lane::Lane,
    transfers: u32,
) -> Result<(), (Error, Option<Caller>)> {
    let carrier = match (&shared.staging, reader) {
        (Staging::Host { outbox, inbox }, _) => {
            // SAFETY: the memory is shared's, which outlives this, and the session's as its paragraph says.
            let places = |memory: &HostMemory| unsafe { Places::new(memory.raw(BOX_BYTES, FAR_BOX_BYTES)) };
            let part_bytes = world.part_bytes();
            Carrier::Transport { outbox: places(outbox), inbox: places(inbox), part_bytes }
        }
        (Staging::Gpu(_), Some(reader)) => {
            Carrier::Cards { reader, outbox: OUTBOX + BOX_BYTES, inbox: INBOX + BOX_BYTES }
        }
        (Staging::Gpu(_), None) => unreachable!("a lane for GPU memory has a reader"),
    };
    let around = Surroundings {
        words: shared.far_words(),
        cells: shared.far_cells.words(0..LANE_CELL_WORDS),
        plan: &|number| shared.far_plan(number),
        is_over: &|| shared.is_over(),
    };
    let result = world.talk(&mut Session::new(lane, carrier, around, transfers));
    result.map_err(|error| (error, lane.caller()))
}

fn exchange(
    shared: &Shared,
    world: &mut World,
    reader: Option<&mut Reader>,
    plan: &Plan,
    (channel, slice): (usize, usize),
    shorts: &mut Shorts,
) -> Result<(), Error> {
    let (outbox, inbox) = match (&shared.staging, reader) {
        (Staging::Host { outbox, inbox }, _) => (outbox, inbox),
        (Staging::Gpu(_), Some(reader)) => {
            return direct::exchange(world, reader, plan, (channel, slice), shorts);
        }
        (Staging::Gpu(_), None) => unreachable!("a lane for GPU memory has a reader"),
    };
    let place = |index: usize| channel * SLOT_BYTES + index * plan.slice_bytes;
    let len = |bytes: usize| part_of(plan, bytes, slice);
    let Shorts { put, got } = shorts;
    let send = |&(to, index, bytes): &(Rank, usize, usize)| {
        if is_short(bytes) {
            return (to, &put.of(index)[..len(bytes)]);
        }
        // SAFETY: what the module's paragraph says.
        (to, unsafe { outbox.bytes(place(index), len(bytes)) })
    };
    let mut parts = got.parts_mut();
    let receive = |&(from, index, bytes): &(Rank, usize, usize)| {
        if is_short(bytes) {
            return (from, &mut parts.take(index)[..len(bytes)]);
        }
        // SAFETY: as above, and no get is named twice.
        (from, unsafe { inbox.bytes_mut(place(index), len(bytes)) })
    };
    let sends: Vec<(Rank, &[u8])> = plan.sends.iter().map(send).collect();
    let mut receives: Vec<(Rank, &mut [u8])> = plan.receives.iter().map(receive).collect();
    world.send_receive(&sends, &mut receives)?;
    if plan.passes_on.is_empty() {
        return Ok(());
    }
    let Some((_, got)) = receives.first() else { return Ok(()) };
    let onward: Vec<(Rank, &[u8])> = plan.passes_on.iter().map(|&to| (to, &**got)).collect();
    world.send_receive(&onward, &mut [])
}

/// How much of a stretch of so many bytes is in a slice.
pub(super) fn part_of(plan: &Plan, bytes: usize, slice: usize) -> usize {
    part_len(bytes, slice, plan.slice_bytes)
}

/// Between two looks at the clock.
const LOOKS: u32 = 256;
/// Between two looks at something else, which may take a system call.
const LOOKS_AHEAD: u32 = 16;
/// How long a thread looks without a pause: from call to call of a program that does little else.
const NAP_FROM: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_millis(1);
