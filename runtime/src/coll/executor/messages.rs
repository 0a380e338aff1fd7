//! Messages that single ranks send each other, beside the schedules.
//!
//! All of a call are on their way at the same time; those of one ordered pair of ranks go one behind the other, cut into
//! what a slot takes. Both ends say the same length, which travels with each part.
//!
//! # Safety
//!
//! The transport reads what is sent and writes where it was told to expect, both borrowed by the call until it returns: with
//! every send complete and every message shown, or with the transport closed.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::error::{ExecError, Interrupt};
use super::pause::Place;
use super::signature::Signature;
use super::{CloseUnlessDone, Executor};
use crate::coll::fault::Wait;
use crate::transport::{Header, Transport, TransportError};

/// What a rank sends in one call, and what it receives. None is for itself.
#[derive(Debug)]
pub(crate) struct Messages<'m, 'b> {
    pub(crate) sends: &'m [(Rank, &'b [u8])],
    pub(crate) receives: &'m mut [(Rank, &'b mut [u8])],
    /// What a message carries at most, the same on all ranks.
    pub(crate) slot_bytes: usize,
    /// How long it waits without getting on before that is an error.
    pub(crate) patience: Duration,
}

impl Executor {
    /// Passes messages, and blocks until what is received is there and what was sent is read.
    ///
    /// # Errors
    ///
    /// As [`Executor::run`].
    pub(crate) fn pass_messages(
        &mut self,
        messages: Messages<'_, '_>,
        transport: &mut dyn Transport,
        interrupt: &mut dyn FnMut() -> Option<Interrupt>,
    ) -> Result<(), ExecError> {
        let mut guard = CloseUnlessDone { transport, is_done: false };
        let sends = messages.sends.iter().filter(|(_, data)| !data.is_empty());
        let sends = sends.map(|(to, data)| Sending { to: *to, data, at: 0 }).collect();
        let receives = messages.receives.iter_mut().filter(|(_, space)| !space.is_empty());
        let receives = receives
            .map(|(from, space)| Receiving { from: *from, space, at: 0, is_expected: false })
            .collect();
        let mut passing = Passing {
            executor: self,
            sends,
            receives,
            slot_bytes: messages.slot_bytes,
            patience: messages.patience,
            transport: &mut *guard.transport,
            interrupt,
        };
        let result = passing.run();
        guard.is_done = result.is_ok();
        result
    }
}

struct Sending<'b> {
    to: Rank,
    data: &'b [u8],
    at: usize,
}

struct Receiving<'b> {
    from: Rank,
    space: &'b mut [u8],
    at: usize,
    is_expected: bool,
}

/// A call under way.
struct Passing<'p, 'b> {
    executor: &'p mut Executor,
    sends: Vec<Sending<'b>>,
    receives: Vec<Receiving<'b>>,
    slot_bytes: usize,
    patience: Duration,
    transport: &'p mut dyn Transport,
    interrupt: &'p mut dyn FnMut() -> Option<Interrupt>,
}

impl Passing<'_, '_> {
    fn run(&mut self) -> Result<(), ExecError> {
        let mut from: Vec<Rank> = self.receives.iter().map(|it| it.from).collect();
        let mut to: Vec<Rank> = self.sends.iter().map(|it| it.to).collect();
        for peers in [&mut from, &mut to] {
            peers.sort_unstable();
            peers.dedup();
        }
        self.executor.sends.start(self.sends.len());
        self.transport.open(&from, &to).map_err(failed)?;
        self.tell_landings(&from);
        let mut since = None;
        loop {
            let has_moved = self.send_parts(&to)? | self.take_parts(&from)?;
            let Some(wait) = self.waits_for() else { return Ok(()) };
            if has_moved {
                since = None;
            }
            self.pause(&mut since, wait)?;
        }
    }

    /// Posts what there is room for: of each peer, the first message that is not posted whole.
    fn send_parts(&mut self, peers: &[Rank]) -> Result<bool, ExecError> {
        let mut has_moved = false;
        for &peer in peers {
            while let Some(sending) = self.sends.iter_mut().find(|it| it.to == peer && it.at < it.data.len())
            {
                let part =
                    &sending.data[sending.at..][..self.slot_bytes.min(sending.data.len() - sending.at)];
                let signature = Signature::of_message(sending.data.len()).0;
                let header = Header { signature, sequence: 0, len_bytes: part.len() as u32 };
                let token = self.executor.sends.next_token();
                // SAFETY: what the module's paragraph says.
                if !unsafe { self.transport.try_send(peer, header, part, token) }.map_err(failed)? {
                    break;
                }
                sending.at += part.len();
                self.executor.sends.posted(peer);
                has_moved = true;
            }
        }
        Ok(has_moved)
    }

    /// Tells where everything lands, where that helps.
    fn tell_landings(&mut self, peers: &[Rank]) {
        let Some(least) = self.transport.lands_from() else { return };
        for &peer in peers {
            let spaces = self.receives.iter_mut().filter(|it| it.from == peer);
            let parts = spaces.flat_map(|it| it.space.chunks_mut(self.slot_bytes)).map(|part| &raw mut *part);
            for (ahead, part) in parts.enumerate().filter(|(_, part)| part.len() >= least) {
                // SAFETY: initialised memory that is looked at only when its message was shown, or the transport is closed.
                unsafe { self.transport.expect_later(peer, ahead, part) };
            }
        }
    }

    /// Takes what has arrived: of each peer, the next part of the first message that is not there whole.
    fn take_parts(&mut self, peers: &[Rank]) -> Result<bool, ExecError> {
        let mut has_moved = false;
        for &peer in peers {
            while let Some(receiving) =
                self.receives.iter_mut().find(|it| it.from == peer && it.at < it.space.len())
            {
                let whole = receiving.space.len();
                let part = &mut receiving.space[receiving.at..];
                let len = self.slot_bytes.min(part.len());
                let part: *mut [u8] = &raw mut part[..len];
                if !receiving.is_expected {
                    // SAFETY: initialised memory that is looked at only when the message was shown, or the transport is
                    // closed.
                    unsafe { self.transport.expect(peer, len, Some(part)) };
                    receiving.is_expected = true;
                }
                let Some(message) = self.transport.arrived(peer).map_err(failed)? else { break };
                let (signature, found) = (Signature::of_message(whole), Signature(message.header.signature));
                if found != signature {
                    let (sequence, peer_sequence) = (0, message.header.sequence);
                    return Err(ExecError::Mismatch {
                        step: 0,
                        peer,
                        sequence,
                        peer_sequence,
                        signature,
                        peer_signature: found,
                    });
                }
                let found_bytes = message.payload.len();
                if found_bytes != len {
                    return Err(ExecError::MessageLen { step: 0, peer, expected_bytes: len, found_bytes });
                }
                let payload: *const [u8] = message.payload;
                if !std::ptr::addr_eq(payload, part) {
                    // SAFETY: as long as the part, which is ours alone; the slot is apart from it.
                    unsafe { payload.cast::<u8>().copy_to_nonoverlapping(part.cast(), len) };
                }
                self.transport.release(peer).map_err(failed)?;
                receiving.at += len;
                receiving.is_expected = false;
                has_moved = true;
            }
        }
        Ok(has_moved)
    }

    /// What is still to come; nothing when all is done.
    fn waits_for(&self) -> Option<Wait> {
        let received = self.receives.iter().find(|it| it.at < it.space.len());
        let posted = self.sends.iter().find(|it| it.at < it.data.len());
        received
            .map(|it| Wait::Message { from: it.from })
            .or_else(|| posted.map(|it| Wait::Credit { to: it.to }))
            .or_else(|| self.executor.sends.oldest_of(usize::MAX).map(|to| Wait::Completion { to }))
    }

    /// Lets time pass, as in a schedule's waits.
    fn pause(&mut self, since: &mut Option<Instant>, wait: Wait) -> Result<(), ExecError> {
        let place = Place { step: 0, step_count: 1, patience: self.patience };
        self.executor.pause(since, wait, place, &mut *self.transport, &mut *self.interrupt)
    }
}

fn failed(source: TransportError) -> ExecError {
    ExecError::Transport { step: 0, source }
}
