//! A lane's part in messages, as it is done: with all peers at once, until nothing is left for any of them.
//!
//! Over the hosts' memory a slice is sent as it lies, in parts of what a slot takes. Where cards read GPU memory, hosts say that
//! it can be read, and that it was ([`words`](crate::relay::words)). What is short is sent by the host either way.
//!
//! # Safety
//!
//! A place of the outbox is the lane's from the kernel's post to its answer; a place of the inbox as well. So parts of it may be read,
//! and written to, by the transport meanwhile; the answer is given when that is over.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use efarun_wire::Rank;

use super::lane::{Item, Lane, Peer, Plan, Sending, Slice};
use super::messages::FarMessage;
use super::parameters::{GET_DOORS, PUT_DOORS};
use crate::coll::executor::talk::{Expected, Heard, Next, Said, Talk, Trouble};
use crate::relay::cells::{Round, clear};
use crate::relay::parameters::{ANSWERED, ROUND_CELL_WORDS, WORDS};
use crate::relay::words::Word;
use crate::transport::TransportError;
use crate::transport::fabric::reads::Reader;

/// Memory that kernels reach, where slices lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    base: *mut u8,
    bytes: usize,
}

impl Places {
    /// # Safety
    ///
    /// The memory stays, initialised, while this is used, and is touched as the module's paragraph says.
    pub(crate) unsafe fn new(memory: *mut [u8]) -> Places {
        Places { base: memory.cast(), bytes: memory.len() }
    }

    fn part(self, at: usize, len: usize) -> *mut [u8] {
        assert!(at + len <= self.bytes, "{len} bytes at {at} of {}", self.bytes);
        // SAFETY: within the memory.
        std::ptr::slice_from_raw_parts_mut(unsafe { self.base.add(at) }, len)
    }
}

/// By what slices go from rank to rank.
#[derive(Debug)]
pub(crate) enum Carrier<'c> {
    /// The transport, out of memory of the host and into it, in parts of so many bytes.
    Transport { outbox: Places, inbox: Places, part_bytes: usize },
    /// Cards, which read from room to room: where in a room what is put lies, and what is got.
    Cards { reader: &'c mut Reader, outbox: usize, inbox: usize },
}

/// What a session needs beside.
pub(crate) struct Surroundings<'s> {
    /// All doors' words, and the cells.
    pub(crate) words: &'s [AtomicU64],
    pub(crate) cells: &'s [AtomicU64],
    pub(crate) plan: &'s dyn Fn(u32) -> Option<Arc<Plan>>,
    /// Whether kernels call no more.
    pub(crate) is_over: &'s dyn Fn() -> bool,
}

/// What kernels have called a lane for, under way.
pub(crate) struct Session<'s> {
    lane: &'s mut Lane,
    carrier: Carrier<'s>,
    around: Surroundings<'s>,
    /// How many rounds of transfers are done, of the channel that counts.
    transfers: u32,
    /// Whether kernels are to hand over more.
    has_more: bool,
}

impl<'s> Session<'s> {
    pub(crate) fn new(
        lane: &'s mut Lane,
        carrier: Carrier<'s>,
        around: Surroundings<'s>,
        transfers: u32,
    ) -> Session<'s> {
        Session { lane, carrier, around, transfers, has_more: true }
    }
}

impl Session<'_> {
    /// Enters the launches for which kernels have called, and which are next.
    fn enter_all(&mut self) -> Result<(), Trouble> {
        while let Some(number) = self.lane.called(self.around.words, self.transfers) {
            let plan = (self.around.plan)(number);
            let plan =
                plan.ok_or_else(|| broken(format!("a kernel asked for plan {number}, which there is not")))?;
            let round = self.lane.next;
            self.lane.next = Round(round.0 + 1);
            let launch = self.lane.begin(plan.caller);
            let (cells, is_over) = (self.around.cells, self.around.is_over);
            let is_first = self.lane.number == 0;
            let mut is_whole = true;
            let take = |number: usize, message: &FarMessage| {
                let bytes = taken(&cells[round.put(number)], round, message.stretch.bytes, is_over);
                is_whole &= bytes.is_some();
                bytes.unwrap_or_default()
            };
            self.lane.enter(number, round, plan.messages.puts(), true, take);
            if !is_whole {
                return Err(broken(format!("a kernel ended without all that it puts for plan {number}")));
            }
            self.lane.enter(number, round, plan.messages.gets(), false, |_, _| Vec::new());
            if is_first && round.clears() {
                for start in [round.put(0).start, round.got(0).start] {
                    clear(&cells[start..start + ROUND_CELL_WORDS]);
                }
            }
            self.answer(self.lane.number, round);
            self.lane.finish(launch);
        }
        Ok(())
    }

    fn answer(&self, door: usize, round: Round) {
        self.around.words[door * WORDS + ANSWERED].store(round.0, Ordering::Release);
    }

    /// Whether the kernel has posted this.
    fn is_posted(&self, first_door: usize, slice: &Slice) -> Result<bool, Trouble> {
        let post = slice.round.post();
        let words = &self.around.words[(first_door + slice.channel) * WORDS..][post];
        match slice.round.posted(words) {
            None => Ok(false),
            Some(post) if post == slice.post => Ok(true),
            Some((plan, at)) => {
                let (expected_plan, expected) = slice.post;
                Err(broken(format!(
                    "a kernel posted slice {at} of plan {plan} where slice {expected} of plan {expected_plan} belongs"
                )))
            }
        }
    }

    /// Whether the first get of a peer may come.
    fn is_expected(&self, index: usize) -> Result<bool, Trouble> {
        match self.lane.peers[index].gets.front() {
            None => Ok(false),
            Some(Item::Slice(slice)) => self.is_posted(GET_DOORS, slice),
            Some(_) => Ok(true),
        }
    }

    /// Begins to send what the kernel has put, to each peer in order.
    fn send(&mut self, say: &mut VecDeque<Said>) -> Result<(), Trouble> {
        for index in 0..self.lane.peers.len() {
            let to = self.lane.ranks[index];
            loop {
                match self.lane.peers[index].puts.front() {
                    None => break,
                    Some(Item::Slice(slice)) if !self.is_posted(PUT_DOORS, slice)? => break,
                    Some(_) => {}
                }
                let item = self.lane.peers[index].puts.pop_front().expect("it was looked at");
                match (&self.carrier, item) {
                    (&Carrier::Transport { outbox, part_bytes, .. }, item) => {
                        let memory = match &item {
                            Item::Slice(slice) => outbox.part(slice.place(), slice.len).cast_const(),
                            Item::ShortPut(bytes, _) => &raw const bytes[..],
                            Item::ShortGet { .. } => unreachable!("that is no put"),
                        };
                        self.send_parts(to, memory, part_bytes, item, say);
                    }
                    (&Carrier::Cards { outbox, .. }, Item::Slice(slice)) => {
                        let at = (outbox + slice.place()) as u64;
                        say.push_back(Said::word(to, Word::Ready { at, len: slice.len as u64 }.to_bytes()));
                        self.lane.peers[index].unread.push_back(slice);
                    }
                    (Carrier::Cards { .. }, Item::ShortPut(bytes, launch)) => {
                        say.push_back(Said::word(to, Word::Whole(&bytes).to_bytes()));
                        self.lane.finish(launch);
                    }
                    (Carrier::Cards { .. }, Item::ShortGet { .. }) => unreachable!("that is no put"),
                }
            }
        }
        Ok(())
    }

    fn send_parts(
        &mut self,
        to: Rank,
        memory: *const [u8],
        part_bytes: usize,
        what: Item,
        say: &mut VecDeque<Said>,
    ) {
        let (number, len) = (self.lane.sent, memory.len());
        self.lane.sent += 1;
        self.lane.sending.insert(number, Sending { parts_left: len.div_ceil(part_bytes), what });
        for at in (0..len).step_by(part_bytes) {
            // SAFETY: within the memory.
            let start = unsafe { memory.cast::<u8>().add(at) };
            let part = std::ptr::slice_from_raw_parts(start, part_bytes.min(len - at));
            // SAFETY: what the module's paragraph says, or bytes that are kept until they were read.
            say.push_back(unsafe { Said::part(to, part, len, number) });
        }
    }

    fn has_put(&mut self, slice: Slice) {
        if let Some(answered) = self.lane.puts.of(slice.channel).done(slice.round) {
            self.answer(PUT_DOORS + slice.channel, answered);
        }
        self.lane.finish(slice.launch);
    }

    fn has_got(&mut self, slice: Slice) {
        if let Some(answered) = self.lane.gets.of(slice.channel).done(slice.round) {
            self.answer(GET_DOORS + slice.channel, answered);
        }
        self.lane.finish(slice.launch);
    }

    /// Gives the kernel something short.
    fn has_got_short(&mut self, number: usize, round: Round, bytes: &[u8], launch: usize) {
        round.fill(&self.around.cells[round.got(number)], bytes);
        self.lane.finish(launch);
    }

    /// Takes in a part that is in its place.
    fn hear_part(&mut self, index: usize) {
        let Carrier::Transport { part_bytes, .. } = self.carrier else {
            unreachable!("only words are expected")
        };
        let peer = &mut self.lane.peers[index];
        let len = peer.gets.front().map_or(0, Item::len);
        peer.got_bytes += part_bytes.min(len - peer.got_bytes);
        if peer.got_bytes < len {
            return;
        }
        peer.got_bytes = 0;
        match peer.gets.pop_front() {
            Some(Item::Slice(slice)) => self.has_got(slice),
            Some(Item::ShortGet { number, round, launch, .. }) => {
                let bytes = std::mem::take(&mut peer.short);
                self.has_got_short(number, round, &bytes[..len], launch);
                self.lane.peers[index].short = bytes;
            }
            _ => unreachable!("a part of something that is got"),
        }
    }

    /// Takes in a word of a peer's.
    fn hear_word(&mut self, index: usize, word: &[u8]) -> Result<(), Trouble> {
        let from = self.lane.ranks[index];
        let differs = |difference: String| Trouble::Differs { peer: from, difference };
        let parsed = Word::parse(word).ok_or_else(|| {
            differs(format!("says something of {} bytes that is not about slices", word.len()))
        })?;
        if parsed == Word::Done {
            let slice = self.lane.peers[index].unread.pop_front();
            let slice =
                slice.ok_or_else(|| differs("says that it has read what it was not given".to_owned()))?;
            self.has_put(slice);
            return Ok(());
        }
        if !self.lane.peers[index].early.is_empty() || !self.is_expected(index)? {
            self.lane.peers[index].early.push_back(word.to_vec());
            return Ok(());
        }
        self.hear_of_get(index, parsed).map_err(|found| match found {
            Ok(difference) => differs(difference),
            Err(failure) => Trouble::Beside(failure),
        })
    }

    /// Takes in what is said of a peer's first get; or how that differs, or what fails.
    fn hear_of_get(&mut self, index: usize, word: Word<'_>) -> Result<(), Result<String, TransportError>> {
        let from = self.lane.ranks[index];
        let Some(item) = self.lane.peers[index].gets.pop_front() else { unreachable!("it was asked for") };
        let len = item.len();
        let found = match word {
            Word::Ready { len, .. } => len,
            Word::Whole(bytes) => bytes.len() as u64,
            Word::Done => unreachable!("that is no get"),
        };
        if found != len as u64 {
            return Err(Ok(format!("has {found} bytes where {len} belong")));
        }
        match (item, word) {
            (Item::Slice(slice), Word::Ready { at, .. }) => {
                let Carrier::Cards { reader, inbox, .. } = &mut self.carrier else {
                    unreachable!("words are of cards")
                };
                reader.begin(from, at as usize, *inbox + slice.place(), len).map_err(Err)?;
                self.lane.reading.push_back((index, slice));
            }
            (Item::ShortGet { number, round, launch, .. }, Word::Whole(bytes)) => {
                self.has_got_short(number, round, bytes, launch);
            }
            _ => return Err(Ok(format!("has a message of another length, of which {len} bytes are here"))),
        }
        Ok(())
    }

    /// Goes on with what cards read; and of all that they have read, says so.
    fn read(&mut self, say: &mut VecDeque<Said>) -> Result<(), Trouble> {
        for index in 0..self.lane.peers.len() {
            while !self.lane.peers[index].early.is_empty() && self.is_expected(index)? {
                let mut early = std::mem::take(&mut self.lane.peers[index].early);
                let word = early.pop_front().unwrap_or_default();
                self.hear_word(index, &word)?;
                self.lane.peers[index].early = early;
            }
        }
        let Carrier::Cards { reader, .. } = &mut self.carrier else { return Ok(()) };
        if self.lane.reading.is_empty() || !reader.poll().map_err(Trouble::Beside)? {
            return Ok(());
        }
        for (index, slice) in std::mem::take(&mut self.lane.reading) {
            say.push_back(Said::word(self.lane.ranks[index], Word::Done.to_bytes()));
            self.has_got(slice);
        }
        Ok(())
    }

    fn next(&self) -> Result<Next, Trouble> {
        if let (Some((index, _)), Carrier::Cards { reader, .. }) = (self.lane.reading.front(), &self.carrier)
        {
            return Ok(Next::Read(reader.waits_for().unwrap_or(self.lane.ranks[*index])));
        }
        for index in 0..self.lane.peers.len() {
            if !self.lane.peers[index].unread.is_empty() || self.is_expected(index)? {
                return Ok(Next::Said(self.lane.ranks[index]));
            }
        }
        Ok(Next::End)
    }
}

impl Talk for Session<'_> {
    fn peers(&self) -> &[Rank] {
        &self.lane.ranks
    }

    fn expects(&mut self, peer: Rank) -> Option<Expected> {
        let index = self.lane.index(peer);
        // What is wrong with a post is told by `go_on`.
        let is_expected = self.is_expected(index).unwrap_or(false);
        let Carrier::Transport { inbox, part_bytes, .. } = self.carrier else {
            return (is_expected || !self.lane.peers[index].unread.is_empty()).then_some(Expected::Word);
        };
        if !is_expected {
            return None;
        }
        let Peer { gets, got_bytes, short, .. } = &mut self.lane.peers[index];
        let item = gets.front()?;
        let (at, whole) = (*got_bytes, item.len());
        let len = part_bytes.min(whole - at);
        let part = match item {
            Item::Slice(slice) => inbox.part(slice.place() + at, len),
            _ => {
                if short.len() < whole {
                    short.resize(whole, 0);
                }
                &raw mut short[at..at + len]
            }
        };
        // SAFETY: what the module's paragraph says, or bytes that nobody else has, and which stay until they are heard.
        Some(unsafe { Expected::part(part, whole) })
    }

    fn hear(&mut self, from: Rank, said: Heard<'_>) -> Result<(), Trouble> {
        let index = self.lane.index(from);
        match said {
            Heard::Word(word) => self.hear_word(index, word)?,
            Heard::Part => self.hear_part(index),
        }
        Ok(())
    }

    fn was_sent(&mut self, number: u64) {
        let Some(sending) = self.lane.sending.get_mut(&number) else { return };
        sending.parts_left -= 1;
        if sending.parts_left > 0 {
            return;
        }
        match self.lane.sending.remove(&number).map(|sending| sending.what) {
            Some(Item::Slice(slice)) => self.has_put(slice),
            Some(Item::ShortPut(_, launch)) => self.lane.finish(launch),
            _ => {}
        }
    }

    fn has_more_beside(&self) -> bool {
        self.has_more
    }

    fn go_on(&mut self, say: &mut VecDeque<Said>) -> Result<Next, Trouble> {
        // Before anything is looked for: what is posted before the end is found.
        let is_over = (self.around.is_over)();
        self.enter_all()?;
        self.send(say)?;
        self.read(say)?;
        let next = self.next()?;
        // Of what is left, somebody's first is not posted.
        self.has_more =
            !is_over && self.lane.peers.iter().any(|peer| !peer.puts.is_empty() || !peer.gets.is_empty());
        Ok(next)
    }
}

/// What a kernel puts, which may still be on its way, for no longer than a write takes; nothing when that is no more to be expected.
fn taken(cells: &[AtomicU64], round: Round, len: usize, is_over: &dyn Fn() -> bool) -> Option<Vec<u8>> {
    let (mut bytes, mut taken, mut looks) = (vec![0; len], 0, 0u32);
    while !round.take(cells, &mut bytes, &mut taken) {
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS) && is_over() {
            return None;
        }
        std::hint::spin_loop();
    }
    Some(bytes)
}

fn broken(cause: String) -> Trouble {
    Trouble::Beside(TransportError::Call { call: "relay", code: libc::EPROTO, cause })
}

/// Between two looks at whether all is over.
const LOOKS: u32 = 1 << 12;
