//! Ranks that talk: each says something when it has it to say, and hears what others say when that comes.
//!
//! Beside [`messages`](super::messages), where all that comes is known before the call. What is said is a message, of any length
//! that a slot takes; of an ordered pair of ranks it comes in the order in which it was said. No peer is waited for before another is
//! heard, so that what one of them does late is late for itself only.
//!
//! # Safety
//!
//! The transport reads what is said, and writes where something is expected. Words are kept until they are read. Of parts, whoever
//! names them promises that they stay until they were read, or are there, or the call has returned: which it does when nothing is
//! under way any more, or with the transport closed.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::error::{ExecError, Interrupt};
use super::pause::Place;
use super::signature::Signature;
use super::{CloseUnlessDone, Executor};
use crate::coll::fault::Wait;
use crate::transport::{Header, SendToken, Transport, TransportError};

/// One rank's part in a talk.
pub(crate) trait Talk {
    /// With whom, none of which is this rank. There may be more from time to time, behind those who were there.
    fn peers(&self) -> &[Rank];

    /// What a peer says next; nothing while this rank does not wait for it, and it stays in its slots. The same until it was said.
    fn expects(&mut self, peer: Rank) -> Option<Expected>;

    /// Takes in what a peer says: a word, or that a part is in its place.
    fn hear(&mut self, from: Rank, said: Heard<'_>) -> Result<(), Trouble>;

    /// Is told that what had this number was read by the transport: its memory is free.
    fn was_sent(&mut self, _number: u64) {}

    /// Whether something goes on beside that this rank is to see to at any time, so that nobody should sleep for long; as it was when
    /// this rank went on last. Nobody here sees to its end.
    fn has_more_beside(&self) -> bool {
        false
    }

    /// Does what goes on beside, first before anything is heard, and adds what is to be said, to each peer in order.
    fn go_on(&mut self, say: &mut VecDeque<Said>) -> Result<Next, Trouble>;
}

/// What a peer says next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// A word, of any length.
    Word,
    /// A part of something longer.
    Part(PartOf<*mut [u8]>),
}

/// A part of something of so many bytes, which both ends say alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartOf<P> {
    part: P,
    whole_bytes: usize,
}

/// What was said.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heard<'s> {
    Word(&'s [u8]),
    Part,
}

/// What this rank says.
#[derive(Debug)]
pub(crate) struct Said {
    to: Rank,
    what: What,
}

#[derive(Debug)]
enum What {
    Word(Vec<u8>),
    Part { of: PartOf<*const [u8]>, number: u64 },
}

impl Expected {
    /// A part that is to lie here.
    ///
    /// # Safety
    ///
    /// The memory is initialised and nobody else's until the part is heard or the call has returned.
    pub(crate) unsafe fn part(part: *mut [u8], whole_bytes: usize) -> Expected {
        Expected::Part(PartOf { part, whole_bytes })
    }
}

impl Said {
    pub(crate) fn word(to: Rank, word: Vec<u8>) -> Said {
        Said { to, what: What::Word(word) }
    }

    /// A part that lies here. When it was read, the talk is told this number.
    ///
    /// # Safety
    ///
    /// The memory stays as it is until that is told or the call has returned.
    pub(crate) unsafe fn part(to: Rank, part: *const [u8], whole_bytes: usize, number: u64) -> Said {
        Said { to, what: What::Part { of: PartOf { part, whole_bytes }, number } }
    }
}

/// What a talk waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Somebody who has something to say, this peer for one.
    Said(Rank),
    /// A card that reads from this peer's memory; and maybe that too. Of its end no transport tells, so that nobody sleeps.
    Read(Rank),
    /// Nothing, when all that is to be said is on its way, and nothing goes on beside.
    End,
}

/// Why a talk cannot go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A peer says what it cannot: how that differs, as a lowercase fragment behind its name.
    Differs { peer: Rank, difference: String },
    /// What goes on beside failed.
    Beside(TransportError),
}

impl Executor {
    /// Talks, and blocks until nothing is waited for and what was said is read.
    ///
    /// # Errors
    ///
    /// As [`Executor::run`].
    pub(crate) fn talk(
        &mut self,
        talk: &mut dyn Talk,
        patience: Duration,
        transport: &mut dyn Transport,
        interrupt: &mut dyn FnMut() -> Option<Interrupt>,
    ) -> Result<(), ExecError> {
        // Dropped behind the guard, which ends what reads it.
        let mut unread = Vec::new();
        let mut guard = CloseUnlessDone { transport, is_done: false };
        let mut talking = Talking {
            executor: self,
            talk,
            opened: 0,
            unsaid: VecDeque::new(),
            unread: &mut unread,
            are_expected: Vec::new(),
            patience,
            transport: &mut *guard.transport,
            interrupt,
        };
        let result = talking.run();
        guard.is_done = result.is_ok();
        result
    }
}

/// A call under way.
struct Talking<'t> {
    executor: &'t mut Executor,
    talk: &'t mut dyn Talk,
    /// How many of the peers are.
    opened: usize,
    unsaid: VecDeque<Said>,
    /// What was said and the transport may still read.
    unread: &'t mut Vec<(SendToken, What)>,
    /// Of whom the transport was told where the next part goes.
    are_expected: Vec<Rank>,
    patience: Duration,
    transport: &'t mut dyn Transport,
    interrupt: &'t mut dyn FnMut() -> Option<Interrupt>,
}

impl Talking<'_> {
    fn run(&mut self) -> Result<(), ExecError> {
        self.executor.sends.start(self.talk.peers().len());
        let (mut since, mut looking) = (None, None);
        loop {
            let next = self.talk.go_on(&mut self.unsaid).map_err(explained)?;
            self.open()?;
            let has_said = self.say_all()?;
            let has_heard = self.hear_all()?;
            let has_ended = self.settle();
            if has_said || has_heard || has_ended {
                since = None;
            }
            if has_heard || has_ended {
                looking = None;
                continue;
            }
            let unsaid = self.unsaid.front().map(|said| Wait::Credit { to: said.to });
            let unread = || self.executor.sends.oldest_of(usize::MAX).map(|to| Wait::Completion { to });
            let wait = match next {
                Next::Said(from) => Some(Wait::Message { from }),
                Next::Read(from) => {
                    let looking = looking.get_or_insert_with(|| (Instant::now(), 0));
                    self.look(looking, Some(from))?;
                    since = None;
                    continue;
                }
                Next::End => unsaid.or_else(unread),
            };
            if self.talk.has_more_beside() {
                let looking = looking.get_or_insert_with(|| (Instant::now(), 0));
                if wait.is_none() || looking.0.elapsed() < NAP_FROM {
                    self.look(looking, None)?;
                    continue;
                }
            }
            let Some(wait) = wait else { return Ok(()) };
            let place = Place { step: 0, step_count: 1, patience: self.patience };
            self.executor.pause(&mut since, wait, place, &mut *self.transport, &mut *self.interrupt)?;
        }
    }

    /// Prepares the transport for peers that are new.
    fn open(&mut self) -> Result<(), ExecError> {
        let new = &self.talk.peers()[self.opened..];
        if !new.is_empty() {
            self.transport.open(new, new).map_err(failed)?;
            self.opened += new.len();
        }
        Ok(())
    }

    /// Takes in what is here of those who are waited for.
    fn hear_all(&mut self) -> Result<bool, ExecError> {
        let mut has_heard = false;
        for index in 0..self.opened {
            let peer = self.talk.peers()[index];
            while let Some(expected) = self.talk.expects(peer) {
                let has_come = match expected {
                    Expected::Word => self.hear_word(peer)?,
                    Expected::Part(of) => self.hear_part(peer, of)?,
                };
                if !has_come {
                    break;
                }
                has_heard = true;
            }
        }
        Ok(has_heard)
    }

    fn hear_word(&mut self, peer: Rank) -> Result<bool, ExecError> {
        let Some(message) = self.transport.arrived(peer).map_err(failed)? else { return Ok(false) };
        check_signature(peer, message.payload.len(), message.header)?;
        self.talk.hear(peer, Heard::Word(message.payload)).map_err(explained)?;
        self.transport.release(peer).map_err(failed)?;
        Ok(true)
    }

    fn hear_part(&mut self, peer: Rank, of: PartOf<*mut [u8]>) -> Result<bool, ExecError> {
        let (part, len) = (of.part, of.part.len());
        if !self.are_expected.contains(&peer) {
            // SAFETY: what is promised of parts, which are the same until they were heard.
            unsafe { self.transport.expect(peer, len, Some(part)) };
            self.are_expected.push(peer);
        }
        let Some(message) = self.transport.arrived(peer).map_err(failed)? else { return Ok(false) };
        check_signature(peer, of.whole_bytes, message.header)?;
        let found_bytes = message.payload.len();
        if found_bytes != len {
            return Err(ExecError::MessageLen { step: 0, peer, expected_bytes: len, found_bytes });
        }
        let payload: *const [u8] = message.payload;
        if !std::ptr::addr_eq(payload, part) {
            // SAFETY: as long as the part, which is nobody else's; the slot is apart from it.
            unsafe { payload.cast::<u8>().copy_to_nonoverlapping(part.cast(), len) };
        }
        self.transport.release(peer).map_err(failed)?;
        self.are_expected.retain(|other| *other != peer);
        self.talk.hear(peer, Heard::Part).map_err(explained)?;
        Ok(true)
    }

    /// Says what there is room for, to each peer in order.
    fn say_all(&mut self) -> Result<bool, ExecError> {
        let mut is_full: Vec<Rank> = Vec::new();
        let mut has_said = false;
        for said in std::mem::take(&mut self.unsaid) {
            let Said { to, what } = &said;
            if is_full.contains(to) {
                self.unsaid.push_back(said);
                continue;
            }
            let (payload, whole_bytes): (*const [u8], usize) = match what {
                // It stays where it is when its owner moves.
                What::Word(word) => (&raw const **word, word.len()),
                What::Part { of, .. } => (of.part, of.whole_bytes),
            };
            let signature = Signature::of_message(whole_bytes).0;
            let header = Header { signature, sequence: 0, len_bytes: payload.len() as u32 };
            let token = self.executor.sends.next_token();
            // SAFETY: what the module's paragraph says.
            if unsafe { self.transport.try_send(*to, header, payload, token) }.map_err(failed)? {
                self.executor.sends.posted(*to);
                self.unread.push((token, said.what));
                has_said = true;
            } else {
                is_full.push(*to);
                self.unsaid.push_back(said);
            }
        }
        Ok(has_said)
    }

    /// Lets go of what was read.
    fn settle(&mut self) -> bool {
        let (sends, talk) = (&self.executor.sends, &mut *self.talk);
        let before = self.unread.len();
        self.unread.retain(|(token, what)| {
            let is_read = sends.is_complete(*token);
            if let (true, What::Part { number, .. }) = (is_read, what) {
                talk.was_sent(*number);
            }
            !is_read
        });
        self.unread.len() < before
    }

    /// Makes progress while a card reads, or something goes on beside, and now and then sees whether there is use in that.
    fn look(&mut self, (since, looks): &mut (Instant, u32), from: Option<Rank>) -> Result<(), ExecError> {
        self.executor.progress(0, &mut *self.transport)?;
        *looks = looks.wrapping_add(1);
        if !looks.is_multiple_of(LOOKS) {
            std::hint::spin_loop();
            return Ok(());
        }
        let waited = since.elapsed();
        let of = from.or(self.talk.peers().first().copied()).map(|from| Wait::Message { from });
        if let (Some(wait), Some(interrupt)) = (of, (self.interrupt)()) {
            return Err(ExecError::Interrupted { step: 0, wait, interrupt });
        }
        match from.and(of) {
            Some(wait) if waited >= self.patience => {
                let stall = Some(STALL.to_owned());
                return Err(ExecError::Timeout { step: 0, step_count: 1, wait, waited, stall });
            }
            None if waited > NAP_FROM => std::thread::park_timeout(NAP.min(waited / 8)),
            _ => std::thread::yield_now(),
        }
        Ok(())
    }
}

fn check_signature(peer: Rank, len_bytes: usize, header: Header) -> Result<(), ExecError> {
    let (signature, peer_signature) = (Signature::of_message(len_bytes), Signature(header.signature));
    if signature == peer_signature {
        return Ok(());
    }
    let (sequence, peer_sequence) = (0, header.sequence);
    Err(ExecError::Mismatch { step: 0, peer, sequence, peer_sequence, signature, peer_signature })
}

fn failed(source: TransportError) -> ExecError {
    ExecError::Transport { step: 0, source }
}

fn explained(trouble: Trouble) -> ExecError {
    match trouble {
        Trouble::Differs { peer, difference } => ExecError::Interrupted {
            step: 0,
            wait: Wait::Message { from: peer },
            interrupt: Interrupt::CallsDiffer { rank: peer, difference },
        },
        Trouble::Beside(source) => failed(source),
    }
}

/// Between two looks at the clock and at what the bootstrap says: some tens of microseconds.
const LOOKS: u32 = 256;
/// From when on what goes on beside is looked at now and then only.
const NAP_FROM: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_millis(1);
const STALL: &str = "a card reads from that rank's GPU memory, and says of no end and of no error";
