//! The bench: devices `a` and `b` with a queue pair each, and everything between them under the test's control.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::pair::PairSettings;
use super::super::*;
use crate::fault::Fault;
use crate::profile::{P5, Profile};

/// The memory of both sides: one array, of which each region is a part.
#[derive(Debug)]
pub(super) struct Array {
    bytes: RefCell<Vec<u8>>,
    /// Whether memory of CUDA's was freed.
    is_freed: Cell<bool>,
}

impl Array {
    pub(super) fn free(&self) {
        self.is_freed.set(true);
    }

    fn look_for(&self, region: &Region) -> Result<(), Gone> {
        if region.kind == RegionKind::Cuda && self.is_freed.get() { Err(Gone) } else { Ok(()) }
    }

    pub(super) fn fill(&self, start: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[start..start + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn get(&self, start: usize, len: usize) -> Vec<u8> {
        self.bytes.borrow()[start..start + len].to_vec()
    }
}

impl Memory for Array {
    fn read(&self, region: &Region, memory: u64, into: &mut [u8]) -> Result<(), Gone> {
        self.look_for(region)?;
        into.copy_from_slice(&self.get(memory as usize, into.len()));
        Ok(())
    }

    fn write(&self, region: &Region, memory: u64, bytes: &[u8]) -> Result<(), Gone> {
        self.look_for(region)?;
        self.fill(memory as usize, bytes);
        Ok(())
    }
}

/// One direction of a wire.
#[derive(Debug, Default)]
struct Wire(VecDeque<(Frame, Vec<u8>)>);

impl Outlet for Wire {
    fn has_room(&self) -> bool {
        self.0.len() < 1000
    }

    fn put(&mut self, frame: &Frame, fill: &mut dyn FnMut(&mut [u8])) {
        let mut payload = vec![0; frame.len_bytes as usize];
        fill(&mut payload);
        self.0.push_back((*frame, payload));
    }
}

/// A link that one side has opened.
#[derive(Debug)]
struct Cable {
    ends: [LinkId; 2],
    opener: usize,
    wires: [Wire; 2],
}

pub(super) struct Bench {
    pub(super) nics: [Nic; 2],
    pub(super) queues: [QueueId; 2],
    pub(super) keys: [u32; 2],
    pub(super) memory: Array,
    pub(super) now: Instant,
    /// Whether frames of a side get through.
    pub(super) is_heard: [bool; 2],
    cables: Vec<Cable>,
    is_alive: [bool; 2],
}

/// What a bench is made with.
pub(super) struct Setup {
    pub(super) profile: Profile,
    pub(super) manners: Manners,
    pub(super) faults: &'static str,
    pub(super) seed: u64,
    pub(super) kind: PairKind,
    pub(super) takes_unsolicited: bool,
    pub(super) memory: RegionKind,
}

impl Default for Setup {
    fn default() -> Self {
        let kind = PairKind::Reliable;
        Setup {
            profile: P5,
            manners: Manners::NONE,
            faults: "",
            seed: 1,
            kind,
            takes_unsolicited: false,
            memory: RegionKind::Host,
        }
    }
}

pub(super) const QPNS: [Qpn; 2] = [Qpn(10), Qpn(20)];
pub(super) const QKEYS: [u32; 2] = [111, 222];
/// Each side has half of the memory.
pub(super) const HALF: usize = 4 << 20;
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

impl Bench {
    pub(super) fn new(setup: Setup) -> Bench {
        let now = Instant::now();
        let faults = Fault::parse(setup.faults).unwrap();
        let nic = |side: u8| {
            let character = Character {
                gid: Gid::new([10, 0, 0, side + 1].into(), 0),
                capabilities: setup.profile.capabilities,
                limits: Faults::limits(&faults, setup.profile.limits),
                manners: setup.manners,
                faults: Faults::of_device(&faults, 0),
                choices: Choices::new(setup.seed + u64::from(side)),
                timeout: TIMEOUT,
            };
            Nic::new(character, Box::leak(Box::default()))
        };
        let mut nics = [nic(0), nic(1)];
        let gids = [nics[0].gid(), nics[1].gid()];
        let (mut queues, mut keys) = (Vec::new(), Vec::new());
        for (side, nic) in nics.iter_mut().enumerate() {
            let queue = nic.create_queue(1000, true).unwrap();
            nic.create_pair(PairSettings {
                qpn: QPNS[side],
                kind: setup.kind,
                domain: 1,
                send_queue: queue,
                receive_queue: queue,
                send_limit: 16,
                receive_limit: 16,
                takes_unsolicited: setup.takes_unsolicited,
            });
            nic.modify_pair(now, QPNS[side], Some(PairState::Ready), Some(QKEYS[side]), Some(3));
            let mut access = Access::LOCAL_WRITE.0 | Access::REMOTE_READ.0;
            if setup.profile.capabilities.rdma_write {
                access |= Access::REMOTE_WRITE.0;
            }
            let start = (side * HALF) as u64;
            let region = Region {
                domain: 1,
                address: start,
                memory: start,
                len_bytes: HALF as u64,
                access: Access(access),
                kind: setup.memory,
            };
            keys.push(nic.register(region).unwrap());
            nic.handles().add(1, gids[1 - side]).unwrap();
            queues.push(queue);
        }
        Bench {
            nics,
            queues: [queues[0], queues[1]],
            keys: [keys[0], keys[1]],
            memory: Array { bytes: RefCell::new(vec![0; 2 * HALF]), is_freed: Cell::new(false) },
            now,
            is_heard: [true; 2],
            cables: Vec::new(),
            is_alive: [true; 2],
        }
    }

    pub(super) fn work(&self, side: usize, operation: Operation, start: usize, len: usize) -> Work {
        let piece = Piece { address: start as u64, len_bytes: len as u32, key: self.keys[side] };
        let other = 1 - side;
        Work {
            id: start as u64,
            operation,
            payload: Payload::Memory(Pieces::new([piece]).unwrap()),
            immediate: None,
            target: Some(Endpoint { gid: self.nics[other].gid(), qpn: QPNS[other] }),
            qkey: QKEYS[other],
            flaw: None,
        }
    }

    pub(super) fn post(&mut self, side: usize, work: Work) {
        self.nics[side].post_send(self.now, QPNS[side], vec![work]).unwrap();
    }

    pub(super) fn send(&mut self, side: usize, start: usize, len: usize) {
        let work = self.work(side, Operation::Send, start, len);
        self.post(side, work);
    }

    pub(super) fn receive(&mut self, side: usize, start: usize, len: usize) {
        let piece = Piece { address: start as u64, len_bytes: len as u32, key: self.keys[side] };
        let receive = Receive { id: start as u64, pieces: Pieces::new([piece]).unwrap() };
        assert!(self.nics[side].post_receive(self.now, QPNS[side], receive));
    }

    /// Moves frames until nothing moves any more at this moment.
    pub(super) fn settle(&mut self) {
        while self.step(usize::MAX) {}
    }

    /// Moves up to `frames` frames in each direction; whether anything moved.
    pub(super) fn step(&mut self, frames: usize) -> bool {
        for nic in &mut self.nics {
            nic.tick(self.now, &self.memory);
        }
        self.open_cables();
        let mut moved = false;
        for place in 0..self.cables.len() {
            for side in 0..2 {
                let cable = &mut self.cables[place];
                let (from, to) = (cable.ends[side], cable.ends[1 - side]);
                let nic = &mut self.nics[side];
                moved |= nic.pull(self.now, from, &mut cable.wires[side], &self.memory);
                for _ in 0..frames {
                    let Some((frame, payload)) = self.cables[place].wires[side].0.pop_front() else { break };
                    moved = true;
                    if self.is_heard[side] {
                        self.nics[1 - side].arrive(self.now, to, &frame, &payload, &self.memory);
                    }
                }
            }
        }
        moved
    }

    fn open_cables(&mut self) {
        for side in 0..2 {
            for action in self.nics[side].take_actions() {
                match action {
                    Action::Connect(id, target)
                        if self.is_alive[1 - side] && target.qpn == QPNS[1 - side] =>
                    {
                        let gid = self.nics[side].gid();
                        let other = self.nics[1 - side].accept_link(self.now, gid);
                        let mut ends = [id; 2];
                        ends[1 - side] = other;
                        self.cables.push(Cable { ends, opener: side, wires: Default::default() });
                    }
                    Action::Connect(id, _) => {
                        self.nics[side].lose_link(self.now, id, Loss::Refused, &self.memory)
                    }
                    Action::Close(id) => {
                        self.cables.retain(|cable| cable.opener != side || cable.ends[side] != id);
                    }
                    Action::Event(_) => {}
                }
            }
        }
    }

    /// Lets time pass in small steps, with everything that happens in it.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.settle();
            let due = self.nics.iter().filter_map(Nic::next_due).min();
            self.now = due.map_or(end, |due| due.clamp(self.now + Duration::from_nanos(1), end));
        }
        self.settle();
    }

    /// The process of a side is killed.
    pub(super) fn kill(&mut self, side: usize) {
        self.is_alive[side] = false;
        for cable in std::mem::take(&mut self.cables) {
            self.nics[1 - side].lose_link(self.now, cable.ends[1 - side], Loss::Broken, &self.memory);
        }
    }

    /// All completions of a side so far.
    pub(super) fn completions(&mut self, side: usize) -> Vec<Completion> {
        let queue = self.queues[side];
        std::iter::from_fn(|| self.nics[side].poll(queue)).collect()
    }

    /// The only completion of a side.
    pub(super) fn completion(&mut self, side: usize) -> Completion {
        let all = self.completions(side);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }
}

/// Bytes that differ from place to place and from seed to seed.
pub(super) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|place| (place as u8).wrapping_mul(31).wrapping_add((place >> 8) as u8).wrapping_add(seed))
        .collect()
}
