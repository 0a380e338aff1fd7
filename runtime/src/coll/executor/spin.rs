//! Whether to look again at once, or to sleep.
//!
//! Spinning sees a message microseconds earlier than sleeping, and spares its sender the waking up, which costs a tenth
//! of what a long message costs. But a rank that spins on a core that another task wants keeps from running what it
//! waits for: another rank of this node, or the kernel, which moves TCP's bytes. How many ranks share the cores is
//! not to be known in advance: other programs run, and containers of one machine do not see each other. So a wait spins
//! for a bounded time; while it does, it offers the core to whoever wants it, every few microseconds; and when it was
//! without the core for a while, somebody did, and nothing spins for some time.
//!
//! Pure, but for the offer.

use std::time::{Duration, Instant};

/// The state of one rank.
#[derive(Debug)]
pub(super) struct Spin {
    limit: Duration,
    /// When this wait looked last; none at its beginning.
    looked: Option<Instant>,
    /// When this wait offered the core last, or began.
    offered: Option<Instant>,
    /// The core is known to be wanted; until then nothing spins.
    wanted_until: Option<Instant>,
}

/// What to do before looking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Nothing.
    Spin,
    /// Offer the core.
    Offer,
    /// Sleep.
    Sleep,
}

impl Spin {
    /// Spins for `limit` at most in any one wait.
    pub(super) fn new(limit: Duration) -> Self {
        Spin { limit, looked: None, offered: None, wanted_until: None }
    }

    /// Says that a wait begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.looked = None;
        self.offered = Some(now);
    }

    /// Says what to do in a wait that has lasted for `waited`.
    pub(super) fn next(&mut self, now: Instant, waited: Duration) -> Pause {
        if waited >= self.limit || self.wanted_until.is_some_and(|until| now < until) {
            self.looked = None;
            return Pause::Sleep;
        }
        let looked = self.looked.replace(now);
        if looked.is_some_and(|looked| now - looked > ABSENCE) {
            self.wanted_until = Some(now + RESPECT);
            return Pause::Sleep;
        }
        if self.offered.is_none_or(|offered| now - offered >= BETWEEN_OFFERS) {
            self.offered = Some(now);
            return Pause::Offer;
        }
        Pause::Spin
    }
}

impl Pause {
    /// Does it; says whether the caller has to sleep.
    pub(super) fn is_over(self) -> bool {
        match self {
            Pause::Spin => std::hint::spin_loop(),
            Pause::Offer => std::thread::yield_now(),
            Pause::Sleep => return true,
        }
        false
    }
}

/// So long without the core is more than an interrupt takes, or the receipt of 64 KiB: another task ran.
const ABSENCE: Duration = Duration::from_micros(250);
/// How long a core that was wanted is not spun on. Trying again costs one slice of the scheduler, 3 to 4 ms.
const RESPECT: Duration = Duration::from_millis(100);
/// An offer that nobody takes costs 0.3 microseconds.
const BETWEEN_OFFERS: Duration = Duration::from_micros(10);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(300);

    /// What a wait does that looks every `step` microseconds, until it sleeps.
    fn wait(spin: &mut Spin, start: Instant, step: u64) -> Vec<Pause> {
        spin.begin(start);
        let mut pauses = Vec::new();
        for look in 1.. {
            let waited = Duration::from_micros(look * step);
            pauses.push(spin.next(start + waited, waited));
            if pauses.last() == Some(&Pause::Sleep) {
                break;
            }
        }
        pauses
    }

    #[test]
    fn a_wait_spins_up_to_the_limit_and_offers_the_core_meanwhile() {
        let mut spin = Spin::new(LIMIT);
        for round in 0..3 {
            let pauses = wait(&mut spin, Instant::now() + round * RESPECT, 1);
            assert_eq!(pauses.len(), 300);
            assert_eq!(pauses.iter().filter(|pause| **pause == Pause::Offer).count(), 29);
        }
    }

    #[test]
    fn a_wait_that_was_without_the_core_sleeps_and_so_do_the_next() {
        let mut spin = Spin::new(Duration::from_secs(1));
        let start = Instant::now();
        let absent = 251;
        assert_eq!(wait(&mut spin, start, absent).len(), 2, "one look, then the absence is seen");
        assert_eq!(wait(&mut spin, start + RESPECT / 2, 1), [Pause::Sleep]);
        assert!(wait(&mut spin, start + 2 * RESPECT, 100).len() > 2);
    }

    #[test]
    fn time_between_two_waits_is_no_absence() {
        let mut spin = Spin::new(LIMIT);
        let start = Instant::now();
        assert!(wait(&mut spin, start, 50).len() > 2);
        assert!(wait(&mut spin, start + Duration::from_secs(9), 50).len() > 2);
    }

    #[test]
    fn without_a_limit_to_reach_nothing_spins() {
        assert_eq!(wait(&mut Spin::new(Duration::ZERO), Instant::now(), 1), [Pause::Sleep]);
    }
}
