//! The word that a rank sleeps on (rule 5 of the module above).
//!
//! Its owner sleeps on the word itself, or, where it sleeps on other things too, on a [`super::cord::Cord`]; the two low bits say
//! which, and whoever rings and finds one of them wakes the owner that way.
//!
//! # Safety
//! One block: the futex call, on a word that the borrow keeps mapped.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::post::{lie_down, sleeps};

/// A rank's bell: a count of four times the rings, and in its low bits whether and on what the owner sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bell<'a> {
    word: &'a AtomicU32,
}

impl<'a> Bell<'a> {
    pub(super) fn new(word: &'a AtomicU32) -> Self {
        Bell { word }
    }

    /// The count as it is now. Only its being different from another count has a meaning.
    pub(super) fn count(self) -> u32 {
        self.word.load(Ordering::Acquire) & COUNT
    }

    /// Tells the owner that something happened, and wakes it if it sleeps on the bell. Says whether it sleeps on its cord,
    /// which the caller has to pull.
    pub(super) fn ring(self) -> bool {
        let before = self.word.fetch_add(ONE_RING, Ordering::AcqRel);
        if before & SLEEPS != 0 {
            futex(self.word, libc::FUTEX_WAKE, 1, None);
        }
        before & ON_CORD != 0
    }

    /// Rings where the owner sleeps, and costs no more than a look where it does not. What it is woken for was written
    /// before, and is what it looks for in [`Bell::sleep_unless`].
    pub(super) fn ring_if_asleep(self) {
        if sleeps(self.word, SLEEPS | ON_CORD) {
            self.ring();
        }
    }

    /// Sleeps until somebody rings, for `timeout` at most. Not where what is waited for is over, at which this looks when it
    /// is known that the owner sleeps. May return early. Only the owner calls this.
    pub(super) fn sleep_unless(self, timeout: Duration, is_over: impl FnOnce() -> bool) {
        let count = lie_down(self.word, SLEEPS) & COUNT;
        if !is_over() {
            futex(self.word, libc::FUTEX_WAIT, count | SLEEPS, Some(timeout));
        }
        self.word.fetch_and(!SLEEPS, Ordering::AcqRel);
    }

    /// Says that the owner sleeps on its cord from now on, and returns the count: where that is not what it has heard, it
    /// must not sleep. Only the owner calls this.
    pub(super) fn take_cord(self) -> u32 {
        self.word.fetch_or(ON_CORD, Ordering::AcqRel) & COUNT
    }

    /// Says that it does not any more, and returns the count. Only the owner calls this.
    pub(super) fn let_cord_go(self) -> u32 {
        self.word.fetch_and(!ON_CORD, Ordering::AcqRel) & COUNT
    }

    /// Waits until the count is not `heard`, for `timeout` at most, and returns the count. Looks `spins` times
    /// before it sleeps. Only the owner calls this.
    pub(super) fn wait_beyond(self, heard: u32, spins: u32, timeout: Duration) -> u32 {
        for _ in 0..spins {
            let count = self.count();
            if count != heard {
                return count;
            }
            std::hint::spin_loop();
        }
        let deadline = Instant::now() + timeout;
        loop {
            let count = self.word.fetch_or(SLEEPS, Ordering::AcqRel) & COUNT;
            let left = deadline.saturating_duration_since(Instant::now());
            if count != heard || left.is_zero() {
                break;
            }
            // A signal, a wake-up for an earlier ring or a full timeout: the loop's head tells them apart.
            futex(self.word, libc::FUTEX_WAIT, heard | SLEEPS, Some(left));
        }
        self.word.fetch_and(!SLEEPS, Ordering::AcqRel) & COUNT
    }
}

/// Calls futex(2) on a word that other processes may share. Its result says nothing that its callers need: they
/// look at the word again.
fn futex(word: &AtomicU32, operation: i32, value: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(|left| libc::timespec {
        tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `word` is a live, aligned 32-bit word for the call's duration; `timeout` is null or points to a value
    // that lives until the end of this function; the two operations read nothing else.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, timeout) };
}

/// The owner sleeps on the word.
const SLEEPS: u32 = 1;
/// The owner sleeps on its cord.
const ON_CORD: u32 = 2;
const ONE_RING: u32 = 4;
const COUNT: u32 = !(SLEEPS | ON_CORD);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_returns_at_once_when_the_bell_rang_since() {
        let word = AtomicU32::new(0);
        let bell = Bell::new(&word);
        bell.ring();
        assert_eq!(bell.wait_beyond(0, 0, Duration::from_secs(60)), ONE_RING);
    }

    #[test]
    fn a_ring_tells_whether_the_owner_sleeps_on_its_cord() {
        let word = AtomicU32::new(0);
        let bell = Bell::new(&word);
        assert!(!bell.ring());
        assert_eq!(bell.take_cord(), ONE_RING);
        assert!(bell.ring());
        assert_eq!(bell.let_cord_go(), 2 * ONE_RING);
        assert!(!bell.ring());
    }

    #[test]
    fn wait_gives_up_after_its_timeout() {
        let word = AtomicU32::new(8);
        let started = Instant::now();
        assert_eq!(Bell::new(&word).wait_beyond(8, 0, Duration::from_millis(20)), 8);
        assert!(started.elapsed() >= Duration::from_millis(20));
        assert_eq!(word.load(Ordering::Relaxed), 8, "nobody sleeps any more");
    }

    /// A wake-up that is lost costs the whole timeout.
    #[test]
    fn two_threads_that_ring_each_other_only_where_one_sleeps_never_miss_what_was_shown() {
        let (words, flags) = ([AtomicU32::new(0), AtomicU32::new(0)], [AtomicU32::new(0), AtomicU32::new(0)]);
        let started = Instant::now();
        let play = |me: usize| {
            for round in 1..=20_000 {
                flags[me].store(round, Ordering::Release);
                Bell::new(&words[1 - me]).ring_if_asleep();
                let is_over = || flags[1 - me].load(Ordering::Acquire) >= round;
                while !is_over() {
                    Bell::new(&words[me]).sleep_unless(Duration::from_secs(60), is_over);
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| play(0));
            scope.spawn(|| play(1));
        });
        assert!(started.elapsed() < Duration::from_secs(60), "a lost wake-up costs a full timeout");
    }

    #[test]
    fn two_threads_that_ring_each_other_never_miss_a_ring() {
        let words = [AtomicU32::new(0), AtomicU32::new(0)];
        let rounds = 20_000;
        let started = Instant::now();
        let play = |mine: &AtomicU32, theirs: &AtomicU32| {
            let mut heard = 0;
            for round in 1..=rounds {
                Bell::new(theirs).ring();
                while heard < ONE_RING * round {
                    heard = Bell::new(mine).wait_beyond(heard, 0, Duration::from_secs(60));
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| play(&words[0], &words[1]));
            scope.spawn(|| play(&words[1], &words[0]));
        });
        assert!(started.elapsed() < Duration::from_secs(60), "a lost ring costs a full timeout");
    }
}
