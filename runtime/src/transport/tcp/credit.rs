//! Who may send how much: the two ends of an ordered pair of ranks, as numbers.
//!
//! Pure. The receiver *grants* messages: the grant counts, from the beginning, how many may have been sent. It starts
//! at 0, becomes [`MAX_IN_FLIGHT`] when the receiver opens, and goes up by one with each release. The sender keeps
//! within the grant, and besides within [`MAX_IN_FLIGHT_BYTES`] that were not granted again, so that many small
//! messages or a few large ones are in flight.
//!
//! A grant travels with every message that goes the other way. Alone it travels only when a quarter of what may be
//! in flight has been released since the last one: a system call for a credit costs as much as one for a message.
//! That leaves a sender, at any time, [`CREDITS`] more messages of any size than the receiver has released.

use std::collections::VecDeque;

use super::frame::{Announced, low_bits};

/// The sending end.
#[derive(Debug, Default)]
pub(super) struct Outflow {
    /// The number of the next message.
    next: u64,
    granted: u64,
    /// Lengths of the messages that the grants have not covered yet, the oldest first.
    in_flight: VecDeque<usize>,
    in_flight_bytes: usize,
}

impl Outflow {
    /// Makes room for what can be in flight, so that sending needs no more memory.
    pub(super) fn reserve(&mut self) {
        self.in_flight.reserve(MAX_IN_FLIGHT as usize);
    }

    /// Takes a message of this length into flight and numbers it; none if it has to wait for a grant.
    pub(super) fn send(&mut self, len_bytes: usize) -> Option<u64> {
        if !self.has_room(len_bytes) {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.in_flight.push_back(len_bytes);
        self.in_flight_bytes += len_bytes;
        Some(number)
    }

    /// How many messages were sent.
    #[cfg(test)]
    pub(super) fn sent(&self) -> u64 {
        self.next
    }

    fn has_room(&self, len_bytes: usize) -> bool {
        self.next < self.granted && self.in_flight_bytes + len_bytes <= MAX_IN_FLIGHT_BYTES
    }

    /// Hears of a grant.
    pub(super) fn grant(&mut self, granted: u64) -> Result<(), Broken> {
        let most = self.next + MAX_IN_FLIGHT;
        if !(self.granted..=most).contains(&granted) {
            return Err(Broken::Grant { granted, before: self.granted, most });
        }
        self.granted = granted;
        // The grant is ahead of what was released by as much as may be in flight.
        let released = granted.saturating_sub(MAX_IN_FLIGHT);
        while self.next - (self.in_flight.len() as u64) < released {
            self.in_flight_bytes -= self.in_flight.pop_front().expect("no more is released than was sent");
        }
        Ok(())
    }
}

/// The receiving end.
#[derive(Debug, Default)]
pub(super) struct Inflow {
    is_open: bool,
    /// How many messages have been announced.
    received: u64,
    released: u64,
    /// The last grant that left.
    announced: u64,
    /// Bytes released since.
    unannounced_bytes: usize,
}

impl Inflow {
    /// Says that messages may come.
    pub(super) fn open(&mut self) {
        self.is_open = true;
    }

    /// Whether messages may come.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Checks that a message may have been sent.
    pub(super) fn receive(&mut self, announced: &Announced) -> Result<(), Broken> {
        if self.received >= self.announced {
            return Err(Broken::NoCredit { number: self.received, announced: self.announced });
        }
        if announced.number != low_bits(self.received) {
            return Err(Broken::Number { expected: low_bits(self.received), found: announced.number });
        }
        if announced.header.len_bytes as usize > SLOT_BYTES {
            return Err(Broken::TooLong { len_bytes: announced.header.len_bytes });
        }
        self.received += 1;
        Ok(())
    }

    /// Gives the oldest message's room back.
    pub(super) fn release(&mut self, len_bytes: usize) {
        self.released += 1;
        self.unannounced_bytes += len_bytes;
    }

    /// The grant for a frame that leaves now.
    pub(super) fn announce(&mut self) -> u64 {
        self.announced = self.grant();
        self.unannounced_bytes = 0;
        self.announced
    }

    /// Whether the grant has to travel alone.
    pub(super) fn is_announcement_due(&self) -> bool {
        let unannounced = self.grant() - self.announced;
        unannounced >= ANNOUNCE_AFTER || self.unannounced_bytes >= ANNOUNCE_AFTER_BYTES
    }

    fn grant(&self) -> u64 {
        if self.is_open { self.released + MAX_IN_FLIGHT } else { 0 }
    }
}

/// What a peer did that no peer of this version does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("it granted {granted} messages, after {before} and of at most {most}")]
    Grant { granted: u64, before: u64, most: u64 },
    #[error("it sent message {number} when {announced} were granted")]
    NoCredit { number: u64, announced: u64 },
    #[error("it sent message {found} where number {expected} belongs")]
    Number { expected: u32, found: u32 },
    #[error("it sent a message of {len_bytes} bytes, where {SLOT_BYTES} are the most")]
    TooLong { len_bytes: u32 },
    #[error("it sent more than {MAX_IN_FLIGHT_BYTES} bytes that nobody has taken yet")]
    TooMuch,
}

/// The largest payload of a message.
pub(super) const SLOT_BYTES: usize = 512 << 10;
/// How many messages of any size a pair can count on having in flight.
pub(super) const CREDITS: usize = 4;
/// How many messages, all of them small, a pair has in flight at most.
pub(super) const MAX_IN_FLIGHT: u64 = 64;
const ANNOUNCE_AFTER: u64 = MAX_IN_FLIGHT / 4;
pub(super) const MAX_IN_FLIGHT_BYTES: usize = 3 * CREDITS * SLOT_BYTES / 2;
const ANNOUNCE_AFTER_BYTES: usize = MAX_IN_FLIGHT_BYTES / 4;

// What is released and not announced leaves room for the credits that were promised.
const _: () = assert!(MAX_IN_FLIGHT >= ANNOUNCE_AFTER + CREDITS as u64);
const _: () = assert!(MAX_IN_FLIGHT_BYTES >= ANNOUNCE_AFTER_BYTES + CREDITS * SLOT_BYTES);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transport::Header;

    fn announced(number: u64, len_bytes: usize) -> Announced {
        Announced {
            header: Header { len_bytes: len_bytes as u32, ..Header::default() },
            number: low_bits(number),
        }
    }

    #[test]
    fn nothing_is_sent_before_the_receiver_opened() {
        let (mut outflow, mut inflow) = (Outflow::default(), Inflow::default());
        outflow.grant(inflow.announce()).unwrap();
        assert_eq!(outflow.send(1), None);
        inflow.open();
        assert!(inflow.is_announcement_due());
        outflow.grant(inflow.announce()).unwrap();
        assert_eq!(outflow.send(1), Some(0));
        assert!(!inflow.is_announcement_due());
    }

    proptest! {
        /// Whatever the sizes, the sender has the promised credits beyond what was released, and never outruns the
        /// receiver's checks.
        #[test]
        fn the_promised_credits_are_there(
            sizes in prop::collection::vec(prop_oneof![0..100usize, Just(SLOT_BYTES), 0..SLOT_BYTES], 1..300),
        ) {
            let (mut outflow, mut inflow) = (Outflow::default(), Inflow::default());
            inflow.open();
            outflow.grant(inflow.announce()).unwrap();
            let mut unreleased = VecDeque::new();
            for (number, len_bytes) in (0..).zip(sizes) {
                while unreleased.len() >= CREDITS {
                    inflow.release(unreleased.pop_front().unwrap());
                    if inflow.is_announcement_due() {
                        outflow.grant(inflow.announce()).unwrap();
                    }
                }
                prop_assert_eq!(outflow.send(len_bytes), Some(number));
                inflow.receive(&announced(number, len_bytes)).unwrap();
                unreleased.push_back(len_bytes);
            }
        }
    }

    #[test]
    fn small_messages_run_out_of_grants_and_large_ones_of_bytes() {
        for (len_bytes, expected) in [(8, MAX_IN_FLIGHT as usize), (SLOT_BYTES, 3 * CREDITS / 2)] {
            let (mut outflow, mut inflow) = (Outflow::default(), Inflow::default());
            inflow.open();
            outflow.grant(inflow.announce()).unwrap();
            let sent = std::iter::from_fn(|| outflow.send(len_bytes)).count();
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn what_no_peer_does_is_told() {
        let (mut outflow, mut inflow) = (Outflow::default(), Inflow::default());
        assert!(matches!(inflow.receive(&announced(0, 1)), Err(Broken::NoCredit { .. })));
        inflow.open();
        inflow.announce();
        assert!(matches!(inflow.receive(&announced(1, 1)), Err(Broken::Number { .. })));
        assert!(matches!(inflow.receive(&announced(0, SLOT_BYTES + 1)), Err(Broken::TooLong { .. })));
        assert_eq!(inflow.receive(&announced(0, SLOT_BYTES)), Ok(()));
        outflow.grant(MAX_IN_FLIGHT).unwrap();
        for granted in [MAX_IN_FLIGHT - 1, MAX_IN_FLIGHT + 1, u64::MAX] {
            assert!(matches!(outflow.grant(granted), Err(Broken::Grant { .. })), "{granted}");
        }
    }
}
