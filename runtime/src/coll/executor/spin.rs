//! Whether to look again at once, or to sleep.
//!
//! Spinning sees a message microseconds earlier than sleeping, and spares its sender the waking up, which costs a tenth
//! of what a long message costs. But a rank that spins on a core that another task wants keeps from running what it
//! waits for: another rank of this node, or the kernel, which moves TCP's bytes. How many ranks share the cores is
//! not to be known in advance: other programs run, and containers of one machine do not see each other. So every wait
//! spins for a moment, as long as going to sleep would take; and for longer only where this thread did not have to
//! wait for its core lately, which the kernel counts. Meanwhile it offers the core to whoever wants it.
//!
//! Measured with 8 ranks on 2 cores, where spinning regardless took 3 times as long as not to.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// The state of one rank.
#[derive(Debug)]
pub(crate) struct Spin {
    limit: Duration,
    /// Whether ranks are known to share cores.
    is_crowded: bool,
    /// When this wait offered the core last, or began.
    offered: Option<Instant>,
    /// When the kernel was asked last, and how long the thread had waited for a core by then.
    asked: Option<(Instant, Duration)>,
    is_core_free: bool,
}

/// What to do before looking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Nothing.
    Spin,
    /// Offer the core.
    Offer,
    /// Sleep.
    Sleep,
}

impl Spin {
    /// Spins for `limit` at most in any one wait.
    pub(crate) fn new(limit: Duration) -> Self {
        Spin { limit, is_crowded: false, offered: None, asked: None, is_core_free: true }
    }

    /// Offers the core at once and again for `limit` at most in any one wait, where ranks are known to share cores: to let
    /// each of them run once takes less than to put them to sleep and wake them.
    pub(crate) fn crowded(limit: Duration) -> Self {
        Spin { is_crowded: true, ..Spin::new(limit) }
    }

    /// Says that a wait begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.offered = Some(now);
    }

    /// Says what to do in a wait that has lasted for `waited`. `core_wait` says how long this thread has waited for a
    /// core in its life, where that is known.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        waited: Duration,
        core_wait: impl FnOnce() -> Option<Duration>,
    ) -> Pause {
        if self.is_crowded {
            return if waited < self.limit { Pause::Offer } else { Pause::Sleep };
        }
        if waited < self.limit.min(ALWAYS) {
            return Pause::Spin;
        }
        if waited >= self.limit || !self.is_core_free(now, core_wait) {
            return Pause::Sleep;
        }
        if self.offered.is_none_or(|offered| now - offered >= BETWEEN_OFFERS) {
            self.offered = Some(now);
            return Pause::Offer;
        }
        Pause::Spin
    }

    fn is_core_free(&mut self, now: Instant, core_wait: impl FnOnce() -> Option<Duration>) -> bool {
        let is_fresh = self.asked.is_some_and(|(asked, _)| now - asked < BETWEEN_QUESTIONS);
        if !is_fresh {
            let core_wait = core_wait();
            self.is_core_free = match (self.asked, core_wait) {
                (Some((asked, before)), Some(core_wait)) => {
                    core_wait.saturating_sub(before) * FREE_ONE_IN <= now - asked
                }
                (None, Some(_)) => true,
                (_, None) => false,
            };
            self.asked = Some((now, core_wait.unwrap_or_default()));
        }
        self.is_core_free
    }
}

impl Pause {
    /// Does it; says whether the caller has to sleep.
    pub(crate) fn is_over(self) -> bool {
        match self {
            Pause::Spin => std::hint::spin_loop(),
            Pause::Offer => std::thread::yield_now(),
            Pause::Sleep => return true,
        }
        false
    }
}

/// How long this thread could have run in its life and was not, because others did: the second number of its
/// schedstat. None where the kernel does not count.
pub(crate) fn core_wait() -> Option<Duration> {
    // Three numbers of 20 digits at most; no memory is allocated for them.
    let mut bytes = [0; 64];
    let len = File::open("/proc/thread-self/schedstat").and_then(|mut file| file.read(&mut bytes)).ok()?;
    let text = std::str::from_utf8(&bytes[..len]).ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// What every wait may spin: about what it costs to go to sleep and be woken.
const ALWAYS: Duration = Duration::from_micros(20);
/// A core counts as free while this thread waited for it for less than one part in so many of the time.
const FREE_ONE_IN: u32 = 8;
/// Asking costs 5 to 10 microseconds.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(10);
/// An offer that nobody takes costs 0.3 microseconds.
const BETWEEN_OFFERS: Duration = Duration::from_micros(10);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(300);

    /// What a wait does that looks every microsecond, until it sleeps.
    fn wait(spin: &mut Spin, start: Instant, core_wait: Option<Duration>) -> Vec<Pause> {
        spin.begin(start);
        let mut pauses = Vec::new();
        while pauses.last() != Some(&Pause::Sleep) {
            let waited = Duration::from_micros(pauses.len() as u64);
            pauses.push(spin.next(start + waited, waited, || core_wait));
        }
        pauses
    }

    #[test]
    fn on_a_free_core_a_wait_spins_up_to_the_limit_and_offers_the_core_meanwhile() {
        let mut spin = Spin::new(LIMIT);
        for round in 0..3 {
            let start = Instant::now() + round * BETWEEN_QUESTIONS;
            let pauses = wait(&mut spin, start, Some(Duration::from_secs(7)));
            assert_eq!(pauses.len(), 301);
            assert_eq!(pauses.iter().filter(|pause| **pause == Pause::Offer).count(), 28);
            assert!(pauses[..20].iter().all(|pause| *pause == Pause::Spin));
        }
    }

    #[test]
    fn on_a_core_that_others_want_a_wait_spins_for_a_moment_only() {
        let mut spin = Spin::new(LIMIT);
        let start = Instant::now();
        let ms = Duration::from_millis;
        assert_eq!(wait(&mut spin, start, Some(ms(3))).len(), 301, "nothing is known yet");
        let questions = [(20, 6, 21), (25, 400, 21), (40, 6, 301), (60, 9, 21)];
        for (at, core_wait, expected) in questions {
            assert_eq!(wait(&mut spin, start + ms(at), Some(ms(core_wait))).len(), expected, "at {at} ms");
        }
    }

    #[test]
    fn among_ranks_that_share_cores_a_wait_offers_its_core_and_never_spins() {
        let pauses = wait(&mut Spin::crowded(LIMIT), Instant::now(), Some(Duration::from_secs(7)));
        assert_eq!(pauses.len(), 301);
        assert!(pauses[..300].iter().all(|pause| *pause == Pause::Offer));
    }

    #[test]
    fn where_the_kernel_does_not_count_a_wait_spins_for_a_moment_only() {
        assert_eq!(wait(&mut Spin::new(LIMIT), Instant::now(), None).len(), 21);
    }

    #[test]
    fn without_a_limit_to_reach_nothing_spins() {
        assert_eq!(wait(&mut Spin::new(Duration::ZERO), Instant::now(), None), [Pause::Sleep]);
    }

    #[test]
    fn the_kernel_counts_or_says_nothing() {
        let first = core_wait();
        let later = core_wait();
        assert!(first.is_none() == later.is_none() && first <= later, "{first:?} {later:?}");
    }
}
