//! The hosts' part in messages, with real Worlds: kernels are threads that do on the host's memory what the kernel does on a GPU's.
//!
//! # Safety
//!
//! A place is touched by who has it: the kernel's thread to the post, the lane's to the answer.
#![allow(unsafe_code)]

mod programs;

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::lane::{Lane, Plan};
use super::messages::{Direction, FarMessage, Messages, Way};
use super::parameters::{BOX_BYTES, CHANNELS, DOORS, GET_DOORS, PLACES, PUT_DOORS, SLICE_BYTES};
use super::session::{Carrier, Places, Session, Surroundings};
use crate::config::{LocalTransport, Provider};
use crate::cuda::DevicePointer;
use crate::error::Error;
use crate::relay::cells::Round;
use crate::relay::parameters::{ANSWERED, GOT_CELL_WORDS, POST_WORDS, ROUNDS, WORDS};
use crate::relay::tests::Station;
use crate::relay::transfer::{Caller, Stretch};
use crate::transport::fabric::tests::{soft_efa, support};
use crate::world::World;

/// One rank's end of a message: with whom, and how many bytes.
#[derive(Clone, Copy, Debug)]
enum End {
    To(usize, usize),
    From(usize, usize),
}

use End::{From, To};

/// The launches of a rank, one behind the other.
type Program = Vec<Vec<End>>;

/// Over what ranks pass slices.
#[derive(Clone, Copy, Debug)]
enum Over {
    /// Their hosts' memory, and this.
    Transport(LocalTransport),
    /// Cards that read.
    Cards,
}

/// What a rank's kernel and its lanes share.
struct Memory {
    words: Vec<AtomicU64>,
    cells: Vec<AtomicU64>,
    /// Of each lane, where the places are: what is put, and behind it what is got.
    boxes: Vec<OnceLock<usize>>,
    own: UnsafeCell<Vec<u8>>,
    plans: Mutex<Vec<Arc<Plan>>>,
    is_over: AtomicBool,
}

// SAFETY: what the module's paragraph says.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(lanes: usize) -> Memory {
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Memory {
            words: words(DOORS * WORDS),
            cells: words(2 * GOT_CELL_WORDS),
            boxes: (0..lanes).map(|_| OnceLock::new()).collect(),
            own: UnsafeCell::new(vec![NOISE; 2 * BOX_BYTES]),
            plans: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// A place of a lane's boxes.
    fn place(&self, lane: usize, at: usize) -> *mut u8 {
        let base = self.boxes[lane].get().expect("the lane is there");
        std::ptr::with_exposed_provenance_mut(base + at)
    }

    fn post(&self, door: usize, round: Round, plan: usize, what: usize) {
        let post = round.post();
        assert_eq!(post.len(), POST_WORDS);
        let mark = (round.0 as u32 | 1 << 31) as u64;
        let words = &self.words[door * WORDS..][post];
        words[0].store(mark << 32 | plan as u64, Ordering::Release);
        words[1].store(mark << 32 | what as u64, Ordering::Release);
    }

    fn answered(&self, door: usize) -> u64 {
        self.words[door * WORDS + ANSWERED].load(Ordering::Acquire)
    }
}

/// What a kernel has counted, from launch to launch.
struct Kernel {
    counts: [u64; DOORS],
}

/// A long message, as the kernel's blocks see it.
struct Long<'d> {
    data: &'d mut [u8],
    number: usize,
    channels: usize,
    next: usize,
    wanted: usize,
}

impl Long<'_> {
    fn slices(&self) -> usize {
        self.data.len().div_ceil(SLICE_BYTES)
    }

    fn slice(&mut self, slice: usize) -> &mut [u8] {
        let end = ((slice + 1) * SLICE_BYTES).min(self.data.len());
        &mut self.data[slice * SLICE_BYTES..end]
    }
}

impl Kernel {
    /// As `far_messages.cuh` does it. What is put and got lies in the order of the kernel's messages.
    fn run(
        &mut self,
        memory: &Memory,
        (plan, lanes): (usize, usize),
        messages: &Messages,
        puts: &mut [Vec<u8>],
        gets: &mut [Vec<u8>],
        wait: &mut dyn FnMut(),
    ) {
        let called = messages.lanes(lanes);
        for lane in 0..called {
            while memory.answered(lane) + (ROUNDS as u64) < self.counts[lane] + 1 {
                wait();
            }
            memory.post(lane, Round(self.counts[lane] + 1), plan, 0);
        }
        let round = Round(self.counts[0] + 1);
        let (long_puts, short_puts) = puts.split_at_mut(messages.puts().long_count());
        let (long_gets, short_gets) = gets.split_at_mut(messages.gets().long_count());
        for (at, bytes) in short_puts.iter().enumerate() {
            round.fill(&memory.cells[round.put(long_puts.len() + at)], bytes);
        }
        let mut puts = longs(long_puts, messages.puts());
        let mut gets = longs(long_gets, messages.gets());
        let mut taken = vec![0; short_gets.len()];
        loop {
            let mut is_done = true;
            for put in &mut puts {
                is_done &= put.next == put.slices();
                self.put(memory, plan, put);
            }
            for get in &mut gets {
                is_done &= get.next == get.slices();
                self.get(memory, plan, get);
            }
            for (at, bytes) in short_gets.iter_mut().enumerate() {
                let cells = &memory.cells[round.got(gets.len() + at)];
                is_done &= round.take(cells, bytes, &mut taken[at]);
            }
            if is_done {
                break;
            }
            wait();
        }
        for (first, longs) in [(PUT_DOORS, puts), (GET_DOORS, gets)] {
            for long in longs {
                for slice in 0..long.slices() {
                    self.counts[first + Way::of(long.number, slice, long.channels).channel] += 1;
                }
            }
        }
        (0..called).for_each(|lane| self.counts[lane] += 1);
    }

    /// The channel, the round and the place of a slice.
    fn way(&self, first_door: usize, long: &Long<'_>, slice: usize) -> (usize, Round, usize) {
        let Way { channel, before } = Way::of(long.number, slice, long.channels);
        let round = Round(self.counts[first_door + channel] + before as u64 + 1);
        (first_door + channel, round, (channel * PLACES + round.0 as usize % PLACES) * SLICE_BYTES)
    }

    fn put(&self, memory: &Memory, plan: usize, put: &mut Long<'_>) {
        if put.next == put.slices() {
            return;
        }
        let (door, round, place) = self.way(PUT_DOORS, put, put.next);
        if memory.answered(door) + (PLACES as u64) < round.0 {
            return;
        }
        let outbox = memory.place(put.next % memory.boxes.len(), place);
        let slice = put.slice(put.next);
        // SAFETY: what the module's paragraph says.
        unsafe {
            outbox.write_bytes(NOISE, SLICE_BYTES);
            outbox.copy_from_nonoverlapping(slice.as_ptr(), slice.len());
        }
        memory.post(door, round, plan, put.next);
        put.next += 1;
    }

    fn get(&self, memory: &Memory, plan: usize, get: &mut Long<'_>) {
        while get.wanted < get.slices().min(get.next + PLACES * get.channels) {
            let (door, round, place) = self.way(GET_DOORS, get, get.wanted);
            let inbox = memory.place(get.wanted % memory.boxes.len(), BOX_BYTES + place);
            // SAFETY: what the module's paragraph says.
            unsafe { inbox.write_bytes(NOISE, SLICE_BYTES) };
            memory.post(door, round, plan, get.wanted);
            get.wanted += 1;
        }
        if get.next == get.slices() {
            return;
        }
        let (door, round, place) = self.way(GET_DOORS, get, get.next);
        if memory.answered(door) < round.0 {
            return;
        }
        let inbox = memory.place(get.next % memory.boxes.len(), BOX_BYTES + place);
        let slice = get.slice(get.next);
        // SAFETY: what the module's paragraph says.
        unsafe { slice.as_mut_ptr().copy_from_nonoverlapping(inbox, slice.len()) };
        get.next += 1;
    }
}

fn longs<'d>(data: &'d mut [Vec<u8>], direction: Direction<'_>) -> Vec<Long<'d>> {
    let channels = direction.channels();
    assert!(data.len() * channels <= CHANNELS);
    let long = |(number, data): (usize, &'d mut Vec<u8>)| Long { data, number, channels, next: 0, wanted: 0 };
    data.iter_mut().enumerate().map(long).collect()
}

/// A lane of a rank, until its kernels end.
fn serve(memory: &Memory, (number, count): (usize, usize), over: &mut OverWhat) -> Result<(), Error> {
    let mut lane = Lane::new(number, count);
    let base: *mut u8 = match over {
        // SAFETY: only its address is asked for, and nobody changes its length.
        OverWhat::Transport(_) => unsafe { &*memory.own.get() }.as_ptr().cast_mut(),
        OverWhat::Cards(station) => station.memory().whole().cast(),
    };
    memory.boxes[number].set(base.expose_provenance()).expect("once");
    let plan = |number: u32| memory.plans.lock().expect("whole").get(number as usize).cloned();
    let is_over = || memory.is_over.load(Ordering::Acquire);
    loop {
        // In this order: what is called before the end is found.
        let is_last = is_over();
        if lane.called(&memory.words, 0).is_none() {
            if is_last {
                return Ok(());
            }
            thread::yield_now();
            continue;
        }
        let around =
            Surroundings { words: &memory.words, cells: &memory.cells, plan: &plan, is_over: &is_over };
        let (world, carrier) = match over {
            OverWhat::Transport(world) => {
                let places = |at: usize| {
                    let part = std::ptr::slice_from_raw_parts_mut(memory.place(number, at), BOX_BYTES);
                    // SAFETY: the memory outlives the lane; and what the module's paragraph says.
                    unsafe { Places::new(part) }
                };
                let (outbox, inbox) = (places(0), places(BOX_BYTES));
                // With one lane also in several parts.
                let part_bytes = world.part_bytes().min(if count == 1 { 10_000 } else { usize::MAX });
                (&mut **world, Carrier::Transport { outbox, inbox, part_bytes })
            }
            OverWhat::Cards(station) => {
                let Station { world, reader, .. } = &mut **station;
                (world, Carrier::Cards { reader, outbox: 0, inbox: BOX_BYTES })
            }
        };
        world.talk(&mut Session::new(&mut lane, carrier, around, 0))?;
    }
}

/// What a lane passes slices over.
enum OverWhat {
    Transport(Box<World>),
    Cards(Box<Station>),
}

/// Runs the ranks' programs with so many lanes each, and looks at all that came.
fn check_on(over: Over, lanes: usize, programs: &[Program]) {
    for (rank, (results, has_ended)) in run_on(over, lanes, programs).into_iter().enumerate() {
        for result in results {
            result.unwrap_or_else(|error| panic!("rank {rank} of {programs:?}: {error}"));
        }
        assert!(has_ended, "rank {rank} of {programs:?}");
    }
}

/// How it went: of each rank's lanes, and whether its kernels came to their end with what belongs there.
fn run_on(over: Over, lanes: usize, programs: &[Program]) -> Vec<(Vec<Result<(), Error>>, bool)> {
    let ranks = programs.len() as u32;
    let (local, provider) = match over {
        Over::Transport(local) => (local, Provider::Tcp),
        Over::Cards => (LocalTransport::Network, Provider::Efa),
    };
    let builder = || World::builder().local_transport(local).provider(provider).deadline(DEADLINE);
    let mut of_ranks: Vec<Vec<World>> = programs.iter().map(|_| Vec::new()).collect();
    for _ in 0..lanes {
        let worlds = builder().thread_worlds(ranks).expect("worlds");
        of_ranks.iter_mut().zip(worlds).for_each(|(of_rank, world)| of_rank.push(world));
    }
    thread::scope(|scope| {
        let run = |(me, (worlds, program))| scope.spawn(move || run_rank(me, over, worlds, program));
        let threads: Vec<_> = of_ranks.into_iter().zip(programs).enumerate().map(run).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn run_rank(me: usize, over: Over, worlds: Vec<World>, program: &Program) -> (Vec<Result<(), Error>>, bool) {
    let lanes = worlds.len();
    let memory = &Memory::new(lanes);
    thread::scope(|scope| {
        let lane = |(number, world): (usize, World)| {
            scope.spawn(move || match over {
                Over::Transport(_) => {
                    let mut over = OverWhat::Transport(Box::new(world));
                    serve(memory, (number, lanes), &mut over)?;
                    let OverWhat::Transport(world) = over else { unreachable!() };
                    world.close()
                }
                Over::Cards => {
                    let mut over = OverWhat::Cards(Box::new(Station::open(world)));
                    serve(memory, (number, lanes), &mut over)?;
                    let OverWhat::Cards(station) = over else { unreachable!() };
                    station.close()
                }
            })
        };
        let threads: Vec<_> = worlds.into_iter().enumerate().map(lane).collect();
        let start = Instant::now();
        let mut wait = || {
            assert!(start.elapsed() < DEADLINE, "rank {me} of {program:?} gets on no more");
            assert!(
                threads.iter().all(|lane| !lane.is_finished()),
                "a lane of rank {me} has ended: {program:?}"
            );
            thread::yield_now();
        };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            launch_all(me, memory, lanes, program, &mut wait);
        }));
        memory.is_over.store(true, Ordering::Release);
        let results = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        (results.collect(), ended.is_ok())
    })
}

/// A rank's launches; those only of what it puts may be under way when it returns.
fn launch_all(me: usize, memory: &Memory, lanes: usize, program: &Program, wait: &mut dyn FnMut()) {
    let mut kernel = Kernel { counts: [0; DOORS] };
    while memory.boxes.iter().any(|base| base.get().is_none()) {
        wait();
    }
    // How many messages went to a rank, and came from it.
    let (mut sent, mut received) = ([0; RANKS_MAX], [0; RANKS_MAX]);
    for (plan, call) in program.iter().enumerate() {
        let mut messages = Messages::default();
        let (mut puts, mut gets) = (Vec::new(), Vec::new());
        for &end in call {
            match end {
                To(to, len) => {
                    messages.sends.push(far(to, len));
                    puts.push(message(me, to, count(&mut sent[to]), len));
                }
                From(from, len) => {
                    messages.receives.push(far(from, len));
                    gets.push(message(from, me, count(&mut received[from]), len));
                }
            }
        }
        let caller = Caller { operation: "send_receive", sequence: plan as u32 };
        memory.plans.lock().expect("whole").push(Arc::new(Plan { caller, messages: messages.clone() }));
        let mut puts = in_kernels_order(messages.puts(), puts);
        let expected = in_kernels_order(messages.gets(), gets);
        let mut got: Vec<_> = expected.iter().map(|bytes| vec![NOISE; bytes.len()]).collect();
        kernel.run(memory, (plan, lanes), &messages, &mut puts, &mut got, wait);
        assert!(got == expected, "rank {me}, call {plan}: {call:?}");
    }
    // What was put is done with when it is answered.
    for door in PUT_DOORS..GET_DOORS {
        while memory.answered(door) < kernel.counts[door] {
            wait();
        }
    }
}

fn in_kernels_order(direction: Direction<'_>, data: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut ordered = vec![Vec::new(); data.len()];
    for ((_, number), data) in direction.in_order().zip(data) {
        ordered[number] = data;
    }
    ordered
}

fn far(peer: usize, bytes: usize) -> FarMessage {
    FarMessage { peer: Rank(peer as u32), stretch: Stretch { pointer: DevicePointer(0), bytes } }
}

fn count(number: &mut usize) -> usize {
    *number += 1;
    *number - 1
}

/// The content of the so-manieth message from a rank to another.
fn message(from: usize, to: usize, number: usize, len: usize) -> Vec<u8> {
    let seed = 100 * from + 31 * to + 7 * number;
    (0..len).map(|at| (at / 3 + at / 601 + seed) as u8 ^ number as u8).collect()
}

const RANKS_MAX: usize = 4;
const NOISE: u8 = 0xA5;
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn calls_end_however_they_are_cut_over_tcp() {
    for lanes in [1, 4] {
        programs::all(&|all| check_on(Over::Transport(LocalTransport::Network), lanes, all), 4);
    }
}

#[test]
fn calls_end_however_they_are_cut_over_shared_memory() {
    programs::all(&|all| check_on(Over::Transport(LocalTransport::Shm), 2, all), 4);
}

#[test]
fn calls_end_however_they_are_cut_where_cards_read() {
    for (device, nics) in [("p4d", "4"), ("p5", "2")] {
        let options = ["--device", device, "--nics", nics, "--manners", "all"];
        soft_efa::run_at("2.5.1", &format!("far-{device}"), "relay::far::tests::bodies::programs", &options);
    }
}

#[test]
fn lanes_that_read_do_not_get_in_each_others_way() {
    let options = ["--device", "p5", "--manners", "all"];
    soft_efa::run_at("2.5.1", "far-lanes", "relay::far::tests::bodies::lanes", &options);
}

#[test]
fn lengths_that_differ_are_told_with_who_has_them() {
    differing(Over::Transport(LocalTransport::Network));
}

#[test]
fn lengths_that_differ_are_told_where_cards_read() {
    soft_efa::run_at("2.5.1", "far-differ", "relay::far::tests::bodies::lengths", &["--device", "p5"]);
}

fn differing(over: Over) {
    for (len, other) in [(100_000, 100_001), (8, 9), (70_000, 8), (8, 70_000)] {
        let mut run = run_on(over, 1, &[vec![vec![To(1, len)]], vec![vec![From(0, other)]]]);
        let (results, has_ended) = run.pop().expect("rank 1");
        let [Err(Error::Mismatch { peer, .. })] = &results[..] else {
            panic!("{len} and {other}: {results:?}")
        };
        assert_eq!((*peer, has_ended), (Rank(0), false), "{len} and {other}");
    }
}

/// What comes before a lane's next call and is no message: it is served first.
#[test]
fn a_call_waits_for_the_transfers_before_it() {
    let memory = Memory::new(1);
    let lane = Lane::new(0, 1);
    assert_eq!(lane.called(&memory.words, 0), None);
    memory.post(0, Round(1), 7, 3);
    assert_eq!(
        (0..5).map(|done| lane.called(&memory.words, done)).collect::<Vec<_>>(),
        [None, None, None, Some(7), None]
    );
}

mod bodies {
    use super::*;

    #[test]
    fn programs() {
        if support::body_runs_on().is_some() {
            super::programs::all(&|all| check_on(Over::Cards, 1, all), 2);
        }
    }

    #[test]
    fn lengths() {
        if support::body_runs_on().is_some() {
            super::differing(Over::Cards);
        }
    }

    #[test]
    fn lanes() {
        if support::body_runs_on().is_some() {
            super::programs::one_call_meets_two(&|all| check_on(Over::Cards, 2, all));
        }
    }
}
