//! Hosts of messages between nodes, as the kernel on the emulator has them: of several lanes, and of any pace.
//!
//! A lane takes in what it is called for in order, and then does with each peer one slice behind the other, with all peers at the
//! same time. What a place has is noise while it is not the kernel's, so that who reads late or writes early is found out.
//!
//! # Safety
//!
//! The kernels and the hosts run on one thread, in turn. Kernels have the memory of [`Ranks`] by its addresses.
#![allow(unsafe_code)]

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::collectives::{Chance, STEPS_MAX};
use super::emulator::{Emulator, Node, Work, pointer_to};
use super::relay::{NOISE, read, write, zeros};
use crate::nvlink::call::DeviceMessage;
use crate::nvlink::parameters::status;
use crate::relay::cells::Round;
use crate::relay::far::messages::{FarMessage, Messages, Way};
use crate::relay::far::parameters::{
    BOX_BYTES, DOORS, FAR_STATE_BYTES, GET_DOORS, PLACES, PUT_DOORS, SLICE_BYTES,
};
use crate::relay::parameters::{ANSWERED, GOT_CELL_WORDS, ROUNDS, Standing, WORDS};

/// What a launch passes within the node.
#[derive(Clone, Default)]
pub(super) struct Near {
    pub(super) sends: Vec<DeviceMessage>,
    pub(super) receives: Vec<DeviceMessage>,
}

/// Ranks of some nodes, with their hosts.
pub(super) struct Ranks<'t> {
    launches: &'t [Vec<Messages>],
    /// Beside each of those, where any are.
    pub(super) near: &'t [Vec<Near>],
    pub(super) ranks: Vec<Memory>,
    lanes: usize,
    /// What was sent and not received, between two ranks by one lane.
    mail: HashMap<(usize, usize, usize), VecDeque<Vec<u8>>>,
    chance: Chance,
    /// Of how many of its turns a host uses one.
    pub(super) pace: u64,
    /// What hosts have put into cells and is on its way: of which rank, which word and what.
    late: Vec<(usize, usize, u64)>,
    /// Whose host does nothing for messages with whom.
    pub(super) ignored: Option<(usize, usize)>,
    deadline_ns: u64,
}

pub(super) struct Memory {
    outbox: Vec<AtomicU64>,
    inbox: Vec<AtomicU64>,
    cells: Vec<AtomicU64>,
    words: Vec<AtomicU64>,
    state: Vec<AtomicU64>,
    pub(super) status: Vec<AtomicU32>,
    doors: Vec<Door>,
    /// What each lane does next with each peer: what is sent, and what is received.
    sends: HashMap<(usize, usize), VecDeque<Unit>>,
    receives: HashMap<(usize, usize), VecDeque<Unit>>,
    /// By how many launches the kernels were ahead of a lane.
    pub(super) ahead: usize,
}

/// Whose rounds are counted: a lane, or a channel of one direction.
#[derive(Clone, Default)]
struct Door {
    /// How many rounds the launches have that the host knows of, how many of the posts it has seen, and how many are answered.
    told: u64,
    seen: u64,
    answered: u64,
    /// Those done that are not answered yet.
    done: BTreeSet<u64>,
}

/// A message that is short, or a slice of one.
struct Unit {
    bytes: usize,
    passage: Passage,
}

enum Passage {
    Taken(Vec<u8>),
    Cells { round: Round, number: usize },
    Place { door: usize, round: u64, post: (u32, u32) },
}

impl Memory {
    fn new() -> Memory {
        Memory {
            outbox: zeros(BOX_BYTES),
            inbox: zeros(BOX_BYTES),
            cells: zeros(2 * GOT_CELL_WORDS * 8),
            words: zeros(DOORS * WORDS * 8),
            state: zeros(FAR_STATE_BYTES),
            status: (0..status::WORDS).map(|_| AtomicU32::new(0)).collect(),
            doors: vec![Door::default(); DOORS],
            sends: HashMap::new(),
            receives: HashMap::new(),
            ahead: 0,
        }
    }

    /// What kernels are told that have these words and cells.
    pub(super) fn standing(&self, words: &[AtomicU64], cells: &[AtomicU64], deadline_ns: u64) -> Standing {
        Standing {
            outbox: pointer_to(&self.outbox),
            inbox: pointer_to(&self.inbox),
            cells: pointer_to(cells),
            words: pointer_to(words),
            state: pointer_to(&self.state),
            status: pointer_to(&self.status),
            deadline_ns,
        }
    }

    pub(super) fn posted(&self, door: usize, round: u64) -> Option<(u32, u32)> {
        let post = Round(round).post();
        Round(round).posted(&self.words[door * WORDS..][post])
    }

    fn answer(&mut self, door: usize) {
        let answered = &mut self.doors[door].answered;
        *answered += 1;
        self.words[door * WORDS + ANSWERED].store(*answered, Relaxed);
    }

    /// Takes in what a door's kernels have said, and that they are not further than they may be.
    fn look(&mut self, door: usize) {
        let Door { seen, answered, .. } = self.doors[door];
        let room = if door < PUT_DOORS { ROUNDS } else { PLACES };
        let ahead = (1..=room).filter(|&ahead| self.posted(door, answered + ahead as u64).is_some()).max();
        assert!(self.posted(door, answered + room as u64 + 1).is_none(), "door {door} is too far ahead");
        if door < PUT_DOORS {
            self.ahead = self.ahead.max(ahead.unwrap_or(0));
        } else if self.posted(door, seen + 1).is_some() {
            self.doors[door].seen += 1;
            // Nobody may read what is there before the answer.
            if door >= GET_DOORS {
                write(&self.inbox, place(door - GET_DOORS, seen + 1), &[NOISE as u8; SLICE_BYTES]);
            }
        }
        // What is done is answered in order, though it can be done in another.
        let next = self.doors[door].answered + 1;
        if door >= PUT_DOORS && self.doors[door].done.remove(&next) {
            // The kernel may put something there from now on, and not before.
            if door < GET_DOORS {
                write(&self.outbox, place(door - PUT_DOORS, next), &[NOISE as u8; SLICE_BYTES]);
            }
            self.answer(door);
        }
    }

    /// Takes in the launch that a lane is called for next, if it was called and all that is short is there.
    fn take_launch(&mut self, launches: &[Messages], lane: usize, lanes: usize) {
        let round = Round(self.doors[lane].answered + 1);
        let Some((plan, slice)) = self.posted(lane, round.0) else { return };
        assert_eq!(slice, 0);
        let messages = &launches[plan as usize - 1];
        let mut taken = VecDeque::new();
        let short = |message: &FarMessage| message.is_short() && lane == 0;
        for (message, number) in messages.puts().in_order() {
            if !short(message) {
                continue;
            }
            let mut bytes = vec![0; message.stretch.bytes];
            if !round.take(&self.cells[round.put(number)], &mut bytes, &mut 0) {
                return;
            }
            taken.push_back(bytes);
        }
        if lane == 0 {
            // What was put is the kernel's again, and what it got so many rounds ago was read.
            for cells in [round.put(0).start, round.got(0).start] {
                let all = &self.cells[cells..][..GOT_CELL_WORDS / ROUNDS];
                all.iter().for_each(|word| word.store(NOISE, Relaxed));
            }
        }
        for is_sent in [true, false] {
            let direction = if is_sent { messages.puts() } else { messages.gets() };
            let first = if is_sent { PUT_DOORS } else { GET_DOORS };
            let before: Vec<_> = self.doors.iter().map(|door| door.told).collect();
            for (message, number) in direction.in_order() {
                let units = if is_sent { &mut self.sends } else { &mut self.receives };
                let units = units.entry((lane, message.peer.index())).or_default();
                if short(message) {
                    let passage = match is_sent {
                        true => Passage::Taken(taken.pop_front().expect("it was taken")),
                        false => Passage::Cells { round, number },
                    };
                    units.push_back(Unit { bytes: message.stretch.bytes, passage });
                }
                let slices = if message.is_short() { 0 } else { message.slices() };
                for slice in (lane..slices).step_by(lanes) {
                    let way = Way::of(number, slice, direction.channels());
                    let (door, post) = (first + way.channel, (plan, slice as u32));
                    assert_eq!(way.channel % lanes, lane, "a channel has one lane");
                    let round = before[door] + way.before as u64 + 1;
                    self.doors[door].told = self.doors[door].told.max(round);
                    let passage = Passage::Place { door, round, post };
                    units.push_back(Unit { bytes: message.slice_len(slice), passage });
                }
            }
        }
        self.answer(lane);
    }

    /// What a unit takes when its kernel has put it.
    fn send(&mut self, unit: &Unit) -> Option<Vec<u8>> {
        match &unit.passage {
            Passage::Taken(bytes) => Some(bytes.clone()),
            &Passage::Place { door, round, post } => {
                assert_eq!(self.posted(door, round)?, post, "door {door}, round {round}");
                self.doors[door].done.insert(round);
                Some(read(&self.outbox, place(door - PUT_DOORS, round), unit.bytes))
            }
            Passage::Cells { .. } => unreachable!("cells are taken at once"),
        }
    }

    /// Whether a unit has room for what has come.
    fn is_ready(&self, unit: &Unit) -> bool {
        let Passage::Place { door, round, post } = unit.passage else { return true };
        if self.doors[door].seen < round {
            return false;
        }
        assert_eq!(self.posted(door, round), Some(post), "door {door}, round {round}");
        true
    }
}

/// Where a channel's place of a round is.
fn place(channel: usize, round: u64) -> usize {
    (channel * PLACES + round as usize % PLACES) * SLICE_BYTES
}

impl<'t> Ranks<'t> {
    pub(super) fn new(launches: &'t [Vec<Messages>], lanes: usize, seed: u64, deadline_ns: u64) -> Ranks<'t> {
        Ranks {
            launches,
            near: &[],
            ranks: launches.iter().map(|_| Memory::new()).collect(),
            lanes,
            mail: HashMap::new(),
            chance: Chance(seed),
            pace: 1,
            late: Vec::new(),
            ignored: None,
            deadline_ns,
        }
    }

    /// A rank's launches as work for the emulator.
    pub(super) fn works(&self) -> Vec<Vec<Work>> {
        let of = |(rank, memory): (usize, &Memory)| {
            let standing = memory.standing(&memory.words, &memory.cells, self.deadline_ns);
            let work = |(number, messages): (usize, &Messages)| {
                let near = self.near.get(rank).and_then(|of_rank| of_rank.get(number)).cloned();
                let Near { sends, receives } = near.unwrap_or_default();
                let has_near = !sends.is_empty() || !receives.is_empty();
                if has_near && messages.is_empty() {
                    return Work::Messages(sends, receives);
                }
                let told = Box::new(standing.told_of_messages(messages, number as u32 + 1, self.lanes));
                match has_near {
                    true => Work::All(told, messages.blocks(), sends, receives),
                    false => Work::Far(told, messages.blocks()),
                }
            };
            self.launches[rank].iter().enumerate().map(work).collect()
        };
        self.ranks.iter().enumerate().map(of).collect()
    }

    /// One lane of one host looks at its doors and does what it can with one peer.
    fn step(&mut self) {
        for _ in 0..8.min(self.late.len()) {
            let at = self.chance.next() as usize % self.late.len();
            let (rank, word, value) = self.late.swap_remove(at);
            self.ranks[rank].cells[word].store(value, Relaxed);
        }
        if !self.chance.next().is_multiple_of(self.pace) {
            return;
        }
        let mut draw = |below: usize| self.chance.next() as usize % below;
        let (rank, lane, peer) = (draw(self.ranks.len()), draw(self.lanes), draw(self.ranks.len()));
        let channels = PUT_DOORS + draw(4) * self.lanes + lane..DOORS;
        let memory = &mut self.ranks[rank];
        memory.look(lane);
        channels.step_by(4 * self.lanes).for_each(|door| memory.look(door));
        memory.take_launch(&self.launches[rank], lane, self.lanes);
        if self.ignored == Some((rank, peer)) {
            return;
        }
        let next = memory.sends.get_mut(&(lane, peer)).and_then(VecDeque::pop_front);
        if let Some(unit) = next {
            match memory.send(&unit) {
                Some(bytes) => self.mail.entry((rank, peer, lane)).or_default().push_back(bytes),
                None => memory.sends.entry((lane, peer)).or_default().push_front(unit),
            }
        }
        let Some(units) = memory.receives.get_mut(&(lane, peer)) else { return };
        let Some(unit) = units.pop_front() else { return };
        let mail = self.mail.get_mut(&(peer, rank, lane)).filter(|mail| !mail.is_empty());
        let Some(mail) = mail.filter(|_| memory.is_ready(&unit)) else {
            return memory.receives.entry((lane, peer)).or_default().push_front(unit);
        };
        let bytes = mail.pop_front().expect("there is some");
        assert_eq!(bytes.len(), unit.bytes, "both ends cut alike");
        match unit.passage {
            Passage::Cells { round, number } => {
                let (cells, at) = (zeros(round.got(0).len() * 8), round.got(number));
                round.fill(&cells, &bytes);
                let words = cells.iter().map(|word| word.load(Relaxed)).zip(at);
                self.late
                    .extend(words.filter(|(value, _)| *value != 0).map(|(value, word)| (rank, word, value)));
            }
            Passage::Place { door, round, .. } => {
                write(&memory.inbox, place(door - GET_DOORS, round), &bytes);
                memory.doors[door].done.insert(round);
            }
            Passage::Taken(_) => unreachable!("that is sent"),
        }
    }

    pub(super) fn run(&mut self, emulator: &Emulator, seed: u64, what: &str) {
        let (node, works) = (Node::new(self.ranks.len() as u32, u64::MAX), self.works());
        let mut host = || self.step();
        assert!(emulator.run_beside(&node, &works, seed, STEPS_MAX, Some(&mut host)), "{what}: it ends");
    }

    /// Why a rank gave up, and who it waited for.
    pub(super) fn cause(&self, rank: usize) -> (u32, u32) {
        let word = |index: usize| self.ranks[rank].status[index].load(Relaxed);
        (word(status::CAUSE), word(status::PEER))
    }
}
