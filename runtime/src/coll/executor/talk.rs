//! Ranks that talk: each says something when it has it to say, and hears what others say when that comes.
//!
//! Beside [`messages`](super::messages), where all that comes is known before the call. What is said is one message, of any length
//! that a slot takes; of an ordered pair of ranks it comes in the order in which it was said. No peer is waited for before another is
//! heard, so that what one of them does late is late for itself only.
//!
//! # Safety
//!
//! The transport reads what is said. The call keeps it until it returns: with every send complete, or with the transport closed.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::error::{ExecError, Interrupt};
use super::pause::Place;
use super::signature::Signature;
use super::{CloseUnlessDone, Executor};
use crate::coll::fault::Wait;
use crate::transport::{Header, Transport, TransportError};

/// One rank's part in a talk.
pub(crate) trait Talk {
    /// Whether this rank waits for a peer to say something. If not, that stays in its slots.
    fn waits_for(&self, peer: Rank) -> bool;

    /// Takes in what a peer says.
    fn hear(&mut self, from: Rank, said: &[u8]) -> Result<(), Trouble>;

    /// Does what goes on beside, first before anything is heard, and adds what is to be said, to each peer in order.
    fn go_on(&mut self, say: &mut VecDeque<(Rank, Vec<u8>)>) -> Result<Next, Trouble>;
}

/// What a talk waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Somebody who has something to say, this peer for one.
    Said(Rank),
    /// A card that reads from this peer's memory; and maybe that too. Of its end no transport tells, so that nobody sleeps.
    Read(Rank),
    /// Nothing, when all that is to be said is on its way.
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
    /// Talks to these peers, and blocks until nothing is waited for and what was said is read.
    ///
    /// # Errors
    ///
    /// As [`Executor::run`].
    pub(crate) fn talk(
        &mut self,
        peers: &[Rank],
        talk: &mut dyn Talk,
        patience: Duration,
        transport: &mut dyn Transport,
        interrupt: &mut dyn FnMut() -> Option<Interrupt>,
    ) -> Result<(), ExecError> {
        // Dropped behind the guard, which ends what reads it.
        let mut posted = Vec::new();
        let mut guard = CloseUnlessDone { transport, is_done: false };
        let mut talking = Talking {
            executor: self,
            peers,
            talk,
            unsaid: VecDeque::new(),
            posted: &mut posted,
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
    peers: &'t [Rank],
    talk: &'t mut dyn Talk,
    unsaid: VecDeque<(Rank, Vec<u8>)>,
    posted: &'t mut Vec<Vec<u8>>,
    patience: Duration,
    transport: &'t mut dyn Transport,
    interrupt: &'t mut dyn FnMut() -> Option<Interrupt>,
}

impl Talking<'_> {
    fn run(&mut self) -> Result<(), ExecError> {
        self.executor.sends.start(self.peers.len());
        self.transport.open(self.peers, self.peers).map_err(failed)?;
        let (mut since, mut reading) = (None, None);
        loop {
            let next = self.talk.go_on(&mut self.unsaid).map_err(explained)?;
            let has_said = self.say_all()?;
            let has_heard = self.hear_all()?;
            if has_said || has_heard {
                since = None;
            }
            if has_heard {
                continue;
            }
            let wait = match (next, self.unsaid.front()) {
                (Next::Read(from), _) => {
                    self.look(reading.get_or_insert_with(|| (Instant::now(), 0)), from)?;
                    since = None;
                    continue;
                }
                (Next::Said(from), _) => Wait::Message { from },
                (Next::End, Some((to, _))) => Wait::Credit { to: *to },
                (Next::End, None) => match self.executor.sends.oldest_of(usize::MAX) {
                    Some(to) => Wait::Completion { to },
                    None => return Ok(()),
                },
            };
            reading = None;
            let place = Place { step: 0, step_count: 1, patience: self.patience };
            self.executor.pause(&mut since, wait, place, &mut *self.transport, &mut *self.interrupt)?;
        }
    }

    /// Takes in what is here of those who are waited for.
    fn hear_all(&mut self) -> Result<bool, ExecError> {
        let mut has_heard = false;
        for &peer in self.peers {
            while self.talk.waits_for(peer) {
                let Some(message) = self.transport.arrived(peer).map_err(failed)? else { break };
                let len = message.payload.len();
                let (signature, peer_signature) =
                    (Signature::of_message(len), Signature(message.header.signature));
                if signature != peer_signature {
                    let (sequence, peer_sequence) = (0, message.header.sequence);
                    return Err(ExecError::Mismatch {
                        step: 0,
                        peer,
                        sequence,
                        peer_sequence,
                        signature,
                        peer_signature,
                    });
                }
                self.talk.hear(peer, message.payload).map_err(explained)?;
                self.transport.release(peer).map_err(failed)?;
                has_heard = true;
            }
        }
        Ok(has_heard)
    }

    /// Says what there is room for, to each peer in order.
    fn say_all(&mut self) -> Result<bool, ExecError> {
        let mut is_full: Vec<Rank> = Vec::new();
        let posted = self.posted.len();
        for (to, said) in std::mem::take(&mut self.unsaid) {
            let header = Header {
                signature: Signature::of_message(said.len()).0,
                sequence: 0,
                len_bytes: said.len() as u32,
            };
            let token = self.executor.sends.next_token();
            // SAFETY: what the module's paragraph says; it stays where it is when its owner moves.
            let is_sent = !is_full.contains(&to)
                && unsafe { self.transport.try_send(to, header, &raw const *said, token) }.map_err(failed)?;
            if is_sent {
                self.executor.sends.posted(to);
                self.posted.push(said);
            } else {
                is_full.push(to);
                self.unsaid.push_back((to, said));
            }
        }
        Ok(self.posted.len() > posted)
    }

    /// Makes progress while a card reads, and now and then sees whether there is use in that.
    fn look(&mut self, (since, looks): &mut (Instant, u32), from: Rank) -> Result<(), ExecError> {
        self.executor.progress(0, &mut *self.transport)?;
        *looks = looks.wrapping_add(1);
        if !looks.is_multiple_of(LOOKS) {
            return Ok(());
        }
        let wait = Wait::Message { from };
        if let Some(interrupt) = (self.interrupt)() {
            return Err(ExecError::Interrupted { step: 0, wait, interrupt });
        }
        let waited = since.elapsed();
        if waited >= self.patience {
            let stall = Some(STALL.to_owned());
            return Err(ExecError::Timeout { step: 0, step_count: 1, wait, waited, stall });
        }
        std::thread::yield_now();
        Ok(())
    }
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
const STALL: &str = "a card reads from that rank's GPU memory, and says of no end and of no error";
