//! What a lane knows of launches of messages: what is to be sent to each peer, and received from it, in which order.
//!
//! A lane enters launches in their order, when kernels call it. Each adds to what it has for a peer in either direction, which goes in
//! that order; what is first there waits for the kernel only, to have put it or to have room for it, and for that peer.
//!
//! Pure, but for the words that kernels write.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU64;

use efarun_wire::Rank;

use super::doors::Doors;
use super::messages::{Direction, FarMessage, Messages, Way};
use super::parameters::{PLACES, SLICE_BYTES};
use crate::relay::cells::Round;
use crate::relay::parameters::WORDS;
use crate::relay::transfer::Caller;

/// What a launch's messages are, as lanes are to know it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) caller: Caller,
    pub(crate) messages: Messages,
}

/// What a lane knows of launches, from session to session.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(super) number: usize,
    pub(super) count: usize,
    /// The next call of a kernel.
    pub(super) next: Round,
    pub(super) puts: Doors,
    pub(super) gets: Doors,
    pub(super) ranks: Vec<Rank>,
    pub(super) peers: Vec<Peer>,
    pub(super) by_rank: HashMap<Rank, usize>,
    /// Launches that are not done: what they are called, and how much of them is left. The first has the number `first`.
    pub(super) launches: VecDeque<(Caller, usize)>,
    pub(super) first: usize,
    /// What was given to the transport.
    pub(super) sending: HashMap<u64, Sending>,
    /// What cards read, in order, with the place of whose it is.
    pub(super) reading: VecDeque<(usize, Slice)>,
    pub(super) sent: u64,
}

/// What is to be done with another rank.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) puts: VecDeque<Item>,
    pub(super) gets: VecDeque<Item>,
    /// How much of the first get is here.
    pub(super) got_bytes: usize,
    /// Where that is short.
    pub(super) short: Vec<u8>,
    /// What it was told to read.
    pub(super) unread: VecDeque<Slice>,
    /// What it has said of gets that have not begun.
    pub(super) early: VecDeque<Vec<u8>>,
}

/// Something that is sent or received.
#[derive(Debug)]
pub(super) enum Item {
    Slice(Slice),
    /// What is sent; or how much is received, as which of the kernel's messages of which round.
    ShortPut(Vec<u8>, usize),
    ShortGet {
        number: usize,
        round: Round,
        len: usize,
        launch: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub(super) channel: usize,
    pub(super) round: Round,
    pub(super) len: usize,
    /// As the kernel's post says it.
    pub(super) post: (u32, u32),
    pub(super) launch: usize,
}

/// Something that the transport reads.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) parts_left: usize,
    pub(super) what: Item,
}

impl Slice {
    /// Where it lies among the places of its direction.
    pub(super) fn place(&self) -> usize {
        (self.channel * PLACES + (self.round.0 % PLACES as u64) as usize) * SLICE_BYTES
    }
}

impl Lane {
    /// The so-manieth of so many.
    pub(crate) fn new(number: usize, count: usize) -> Lane {
        Lane {
            number,
            count,
            next: Round(1),
            puts: Doors::new(),
            gets: Doors::new(),
            ranks: Vec::new(),
            peers: Vec::new(),
            by_rank: HashMap::new(),
            launches: VecDeque::new(),
            first: 0,
            sending: HashMap::new(),
            reading: VecDeque::new(),
            sent: 0,
        }
    }

    /// Where a kernel calls next, and in which round.
    pub(crate) fn next_call<'w>(&self, words: &'w [AtomicU64]) -> (Round, &'w [AtomicU64]) {
        (self.next, &words[self.number * WORDS..][self.next.post()])
    }

    /// The plan for which a kernel calls, where so many rounds of transfers come before it.
    pub(crate) fn called(&self, words: &[AtomicU64], transfers: u32) -> Option<u32> {
        let (round, post) = self.next_call(words);
        let (plan, before) = round.posted(post)?;
        (before == transfers).then_some(plan)
    }

    /// What the oldest launch is called that is not done.
    pub(crate) fn caller(&self) -> Option<Caller> {
        self.launches.iter().find(|(_, left)| *left > 0).map(|(caller, _)| *caller)
    }

    fn peer(&mut self, rank: Rank) -> &mut Peer {
        let next = self.peers.len();
        let index = *self.by_rank.entry(rank).or_insert(next);
        if index == next {
            self.ranks.push(rank);
            self.peers.push(Peer::default());
        }
        &mut self.peers[index]
    }

    pub(super) fn index(&self, rank: Rank) -> usize {
        self.by_rank[&rank]
    }

    /// Takes a launch in, which is not done before its own [`finish`](Lane::finish), as there may be nothing of it for this lane.
    pub(super) fn begin(&mut self, caller: Caller) -> usize {
        self.launches.push_back((caller, 1));
        self.first + self.launches.len() - 1
    }

    /// Adds what a direction of the last launch has for this lane.
    pub(super) fn enter(
        &mut self,
        plan: u32,
        round: Round,
        direction: Direction<'_>,
        is_put: bool,
        mut take: impl FnMut(usize, &FarMessage) -> Vec<u8>,
    ) {
        let launch = self.first + self.launches.len() - 1;
        let channels = direction.channels();
        let mut items = 0;
        for (message, number) in direction.in_order() {
            if message.is_short() {
                if self.number != 0 {
                    continue;
                }
                let item = match is_put {
                    true => Item::ShortPut(take(number, message), launch),
                    false => Item::ShortGet { number, round, len: message.stretch.bytes, launch },
                };
                self.peer(message.peer).queue(is_put).push_back(item);
                items += 1;
                continue;
            }
            for slice in (self.number..message.slices()).step_by(self.count) {
                let Way { channel, .. } = Way::of(number, slice, channels);
                let doors = if is_put { &mut self.puts } else { &mut self.gets };
                let round = doors.of(channel).enter();
                let post = (plan, slice as u32);
                let item = Slice { channel, round, len: message.slice_len(slice), post, launch };
                self.peer(message.peer).queue(is_put).push_back(Item::Slice(item));
                items += 1;
            }
        }
        self.launches.back_mut().expect("it has begun").1 += items;
    }

    /// Takes in that something of a launch is done.
    pub(super) fn finish(&mut self, launch: usize) {
        self.launches[launch - self.first].1 -= 1;
        while self.launches.front().is_some_and(|(_, left)| *left == 0) {
            self.launches.pop_front();
            self.first += 1;
        }
    }
}

impl Peer {
    fn queue(&mut self, is_put: bool) -> &mut VecDeque<Item> {
        if is_put { &mut self.puts } else { &mut self.gets }
    }
}

impl Item {
    pub(super) fn len(&self) -> usize {
        match self {
            Item::Slice(slice) => slice.len,
            Item::ShortPut(bytes, _) => bytes.len(),
            Item::ShortGet { len, .. } => *len,
        }
    }
}
