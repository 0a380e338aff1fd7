//! Whether to look again at once, to offer the core first, or to sleep.
//!
//! Spinning sees a message microseconds earlier than sleeping, and spares its sender the waking up, which costs a tenth
//! of what a long message costs; and a core on which nobody runs takes some ten microseconds to wake where the machine is
//! a guest. But a rank that spins on a core that another task wants keeps from running what it waits for: another rank of
//! this node, or the kernel, which moves TCP's bytes. How many ranks share the cores is not to be known in advance: other
//! programs run, and containers of one machine do not see each other. So a wait offers its core every few microseconds, and
//! how long the offer took says what to do next:
//!
//! - Nobody took it: spin.
//! - Somebody did and gave it back soon, as a rank does that waits, too: offer it again after every look.
//! - Somebody kept it for long: a program that computes. Every offer would cost a time slice, so this wait and those
//!   that follow sleep after a moment, the more of them the more often that happened, and then it is tried again.
//!
//! Measured with 4 ranks on 2 cores, 4 nodes of 1 and 2 of 2, over TCP: all_reduce and all_gather of 128 B to 32 KiB and
//! barriers took 0.24 to 0.58 of the time that they take where waits sleep, broadcasts 0.6 to 1.3. Asking the kernel
//! whether the thread waited for its core lately (the second number of schedstat), and sleeping where it had, was no
//! better than sleeping: ranks of one core keep each other from seeing it free.

use std::time::{Duration, Instant};

/// The state of one rank.
#[derive(Debug)]
pub(crate) struct Spin {
    limit: Duration,
    /// When this wait offered the core last, or began.
    offered: Option<Instant>,
    /// Whether somebody ran when this thread offered its core last.
    is_shared: bool,
    /// Whether every wait offers its core at every look, whatever becomes of that.
    is_crowded: bool,
    /// How many waits are to sleep, the current one included.
    sleeps_left: u32,
    /// How many were to after the latest offer that was kept.
    sleeps: u32,
    /// Whether an offer of this wait was not kept.
    is_eased: bool,
}

/// What to do before looking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// Nothing.
    Spin,
    /// Offer the core.
    Offer,
    /// Sleep.
    Sleep,
}

impl Spin {
    /// Spins and offers for `limit` at most in any one wait.
    pub(crate) fn new(limit: Duration) -> Self {
        Spin {
            limit,
            offered: None,
            is_shared: false,
            is_crowded: false,
            sleeps_left: 0,
            sleeps: 0,
            is_eased: false,
        }
    }

    /// The same among ranks of one node that are known to share cores: offers at every look, for so long, and then sleeps. In
    /// calls of a few microseconds it is the faster way: 4 and 8 ranks on 2 cores took 0.5 to 0.9 of the time.
    pub(crate) fn crowded(limit: Duration) -> Self {
        Spin { is_crowded: true, ..Spin::new(limit) }
    }

    /// Whether somebody took this thread's core when it was offered last.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Says that a wait begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.offered = Some(now);
        self.is_eased = false;
        self.sleeps_left = self.sleeps_left.saturating_sub(1);
    }

    /// Lets a moment pass in a wait that has lasted for `waited`; or says that the caller has to sleep.
    pub(crate) fn pause(&mut self, now: Instant, waited: Duration) -> bool {
        match self.next(now, waited) {
            Pause::Spin => std::hint::spin_loop(),
            Pause::Offer => {
                std::thread::yield_now();
                self.offered(now.elapsed());
            }
            Pause::Sleep => return true,
        }
        false
    }

    fn next(&mut self, now: Instant, waited: Duration) -> Pause {
        if self.is_crowded {
            return if waited < self.limit { Pause::Offer } else { Pause::Sleep };
        }
        if self.sleeps_left > 0 {
            return if waited < ALWAYS.min(self.limit) { Pause::Spin } else { Pause::Sleep };
        }
        if waited >= self.limit {
            return Pause::Sleep;
        }
        let is_due = self.is_shared || self.offered.is_none_or(|offered| now - offered >= BETWEEN_OFFERS);
        if !is_due {
            return Pause::Spin;
        }
        self.offered = Some(now);
        Pause::Offer
    }

    /// Says for how long the thread was without the core that it offered.
    fn offered(&mut self, time: Duration) {
        self.is_shared = time >= TAKEN;
        if time >= KEPT {
            self.sleeps = (2 * self.sleeps).clamp(1, MOST_SLEEPS);
            self.sleeps_left = self.sleeps;
        } else if !self.is_eased {
            self.is_eased = true;
            self.sleeps /= 2;
        }
    }
}

/// For how long a wait spins that is to sleep: about what it costs to go to sleep and be woken.
const ALWAYS: Duration = Duration::from_micros(20);
/// An offer that nobody takes costs 0.3 microseconds.
const BETWEEN_OFFERS: Duration = Duration::from_micros(5);
/// Two switches between threads take longer, an offer that nobody takes does not.
const TAKEN: Duration = Duration::from_micros(1);
/// Who waits gives a core back after a look, and who reduces after some hundred microseconds; who computes keeps it for a time
/// slice, 1 to 4 ms.
const KEPT: Duration = Duration::from_micros(900);
/// After as many the core is offered again at the latest: a time slice is then little beside what they took.
const MOST_SLEEPS: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(300);

    /// What a wait does that looks every microsecond, until it sleeps, where all offers of the core take so long.
    fn wait(spin: &mut Spin, offer: Duration) -> Vec<Pause> {
        let start = Instant::now();
        spin.begin(start);
        let mut pauses = Vec::new();
        while pauses.last() != Some(&Pause::Sleep) {
            let waited = Duration::from_micros(pauses.len() as u64);
            pauses.push(spin.next(start + waited, waited));
            if pauses.last() == Some(&Pause::Offer) {
                spin.offered(offer);
            }
        }
        pauses
    }

    fn offers(pauses: &[Pause]) -> usize {
        pauses.iter().filter(|&&pause| pause == Pause::Offer).count()
    }

    const DECLINED: Duration = Duration::from_nanos(300);
    const GIVEN_BACK: Duration = Duration::from_micros(3);
    const SLICE: Duration = Duration::from_millis(3);

    #[test]
    fn where_nobody_wants_the_core_a_wait_spins_up_to_the_limit_and_offers_it_meanwhile() {
        let mut spin = Spin::new(LIMIT);
        for _ in 0..3 {
            let pauses = wait(&mut spin, DECLINED);
            assert_eq!((pauses.len(), offers(&pauses)), (301, 59));
            assert!(pauses[..5].iter().all(|&pause| pause == Pause::Spin));
            assert!(!spin.is_shared());
        }
    }

    #[test]
    fn where_others_that_wait_share_the_core_it_is_offered_at_every_look_and_from_the_next_wait_on_at_once() {
        let mut spin = Spin::new(LIMIT);
        let pauses = wait(&mut spin, GIVEN_BACK);
        assert_eq!((pauses.len(), offers(&pauses)), (301, 295));
        assert!(spin.is_shared());
        assert_eq!(offers(&wait(&mut spin, GIVEN_BACK)), 300);
        // They have gone.
        assert_eq!(offers(&wait(&mut spin, DECLINED)), 60);
        assert_eq!(offers(&wait(&mut spin, DECLINED)), 59);
    }

    #[test]
    fn where_a_program_computes_the_core_is_offered_ever_less_often_and_waits_sleep_after_a_moment() {
        let mut spin = Spin::new(LIMIT);
        let waits: Vec<_> = (0..3 * MOST_SLEEPS).map(|_| wait(&mut spin, SLICE)).collect();
        let tries: Vec<_> =
            (0..).zip(&waits).filter(|(_, wait)| offers(wait) > 0).map(|(at, _)| at).collect();
        assert_eq!(tries, [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047, 3071]);
        assert!(waits.iter().all(|pauses| offers(pauses) <= 1 && pauses.len() <= 22), "{waits:?}");
        assert!(waits[2][..20].iter().all(|&pause| pause == Pause::Spin), "{:?}", waits[2]);
    }

    #[test]
    fn when_the_program_has_ended_waits_spin_again_and_one_slow_offer_later_costs_one_sleep() {
        let mut spin = Spin::new(LIMIT);
        (0..20).for_each(|_| drop(wait(&mut spin, SLICE)));
        let spins = (0..100).filter(|_| wait(&mut spin, DECLINED).len() == 301).count();
        assert!(spins >= 88, "{spins}");
        assert!(wait(&mut spin, SLICE).len() < 301);
        assert_eq!(wait(&mut spin, DECLINED).len(), 301);
    }

    #[test]
    fn among_ranks_of_a_node_that_share_cores_a_wait_offers_its_core_whatever_becomes_of_that() {
        let mut spin = Spin::crowded(LIMIT);
        for offer in [DECLINED, SLICE, GIVEN_BACK] {
            let pauses = wait(&mut spin, offer);
            assert_eq!((pauses.len(), offers(&pauses)), (301, 300));
        }
    }

    #[test]
    fn without_a_limit_to_reach_nothing_spins() {
        assert_eq!(wait(&mut Spin::new(Duration::ZERO), DECLINED), [Pause::Sleep]);
    }
}
