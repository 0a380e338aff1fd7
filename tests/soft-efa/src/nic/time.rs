//! What happens later: arrivals and completions that manners hold back, retries, and peers that are given up.
//!
//! A card always gets to run; its process here may not, on a busy machine, and then hears nobody, though all of them speak. So
//! a peer's silence is measured in time in which the device was there to hear it: it looks several times in the course of a
//! timeout, and by what a look comes late, time has stood still.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::arrive::Repeat;
use super::frame::Frame;
use super::queue::QueueId;
use super::work::Completion;
use super::{Counter, LinkId, Memory, Nic};
use crate::status::Status;

/// Something for later.
#[derive(Debug)]
pub(super) struct Deferred {
    due: Instant,
    /// What is due at once happens in the order in which it was deferred.
    number: u64,
    what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// A frame is looked at.
    Arrival(LinkId, Frame, Vec<u8>),
    /// What landed lands again.
    Repeat(LinkId, Frame, Vec<u8>, Repeat),
    /// A completion is shown.
    Completion(QueueId, Completion),
    /// An operation goes out again.
    Retry(u64),
}

impl Nic {
    /// Does what is due.
    pub fn tick(&mut self, now: Instant, memory: &dyn Memory) {
        while self.deferred.peek().is_some_and(|next| next.due <= now) {
            if let Some(deferred) = self.deferred.pop() {
                self.act(now, deferred.what, memory);
            }
        }
        if let Some(look) = self.next_look.filter(|look| *look <= now) {
            self.missed += now - look;
            self.look_for_silence(now);
        }
    }

    /// When there is next something to do.
    pub fn next_due(&self) -> Option<Instant> {
        let deferred = self.deferred.peek().map(|next| next.due);
        deferred.into_iter().chain(self.next_look).min()
    }

    pub(super) fn defer(&mut self, due: Instant, what: What) {
        let number = self.next_deferred;
        self.next_deferred += 1;
        self.deferred.push(Deferred { due, number, what });
    }

    /// A moment, without the time before it that the device did not get to run.
    pub(super) fn lived(&self, now: Instant) -> Instant {
        now - self.missed
    }

    /// Makes sure that peers are looked at by then.
    pub(super) fn look_by(&mut self, when: Instant) {
        self.next_look = Some(self.next_look.map_or(when, |look| look.min(when)));
    }

    /// Does at once what was deferred for a link, and what that defers in turn: a message that was held back may land twice.
    pub(super) fn hurry_link(&mut self, now: Instant, link: LinkId, memory: &dyn Memory) {
        while self.hurry_link_once(now, link, memory) {}
    }

    /// The same, but for what is deferred by it; whether there was anything.
    fn hurry_link_once(&mut self, now: Instant, link: LinkId, memory: &dyn Memory) -> bool {
        let concerns = |deferred: &Deferred| match &deferred.what {
            What::Arrival(id, ..) | What::Repeat(id, ..) => *id == link,
            What::Completion(..) | What::Retry(_) => false,
        };
        let (mut ours, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.deferred).into_iter().partition(concerns);
        self.deferred = others.into();
        ours.sort_by(|a, b| b.cmp(a));
        let were_some = !ours.is_empty();
        for deferred in ours {
            self.act(now, deferred.what, memory);
        }
        were_some
    }

    fn act(&mut self, now: Instant, what: What, memory: &dyn Memory) {
        match what {
            What::Arrival(link, frame, payload) => self.look_at(now, link, &frame, &payload, memory),
            What::Repeat(link, frame, payload, repeat) => {
                self.repeat(now, link, &frame, &payload, &repeat, memory);
            }
            What::Completion(queue, completion) => {
                // Its queue pair may have closed meanwhile.
                if self.pairs.contains_key(&completion.pair) {
                    self.show(queue, completion);
                }
            }
            What::Retry(number) => self.send_out(number),
        }
    }

    /// Gives up operations whose peer has not been heard for too long.
    fn look_for_silence(&mut self, now: Instant) {
        let timeout = self.character.timeout;
        let lived = self.lived(now);
        let mut next: Option<Instant> = None;
        let mut silent = Vec::new();
        for (number, request) in &self.requests {
            let heard = self.links.get(&request.link).map_or(request.since, |link| link.last_heard);
            let deadline = request.since.max(heard) + timeout;
            if deadline <= lived {
                silent.push((*number, request.link));
            } else {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
        }
        // A little later, so that operations that were posted together are found together.
        self.next_look = next.map(|next| (next + self.missed + LOOK_TOGETHER).min(now + timeout / LOOKS));
        silent.sort_unstable();
        for (number, link) in silent {
            let known =
                self.requests.get(&number).is_some_and(|request| self.responsive.contains(&request.target));
            self.counters.add(Counter::RetransTimeoutEvents, 1);
            self.counters.add(Counter::UnresponsiveRemoteEvents, 1);
            self.complete_request(
                now,
                number,
                if known { Status::Unresponsive } else { Status::Unreachable },
            );
            if !self.requests.values().any(|request| request.link == link) {
                self.abandon_link(link);
            }
        }
    }
}

impl Ord for Deferred {
    /// The heap gives the greatest first: the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Deferred {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Deferred {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Deferred {}

const LOOK_TOGETHER: Duration = Duration::from_millis(2);
/// How often peers are looked at in the course of a timeout.
pub(super) const LOOKS: u32 = 16;
