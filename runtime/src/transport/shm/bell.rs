//! The word that a rank sleeps on (rule 5 of the module above).
//!
//! # Safety
//! One block: the futex call, on a word that the borrow keeps mapped.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A rank's bell: a count of twice the rings, and in its low bit whether the owner sleeps.
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
        self.word.load(Ordering::Acquire) & !SLEEPS
    }

    /// Tells the owner that something happened, and wakes it if it sleeps.
    pub(super) fn ring(self) {
        let before = self.word.fetch_add(2, Ordering::AcqRel);
        if before & SLEEPS != 0 {
            futex(self.word, libc::FUTEX_WAKE, 1, None);
        }
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
            let count = self.word.fetch_or(SLEEPS, Ordering::AcqRel) & !SLEEPS;
            let left = deadline.saturating_duration_since(Instant::now());
            if count != heard || left.is_zero() {
                break;
            }
            // A signal, a wake-up for an earlier ring or a full timeout: the loop's head tells them apart.
            futex(self.word, libc::FUTEX_WAIT, heard | SLEEPS, Some(left));
        }
        self.word.fetch_and(!SLEEPS, Ordering::AcqRel) & !SLEEPS
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

const SLEEPS: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_returns_at_once_when_the_bell_rang_since() {
        let word = AtomicU32::new(0);
        let bell = Bell::new(&word);
        bell.ring();
        assert_eq!(bell.wait_beyond(0, 0, Duration::from_secs(60)), 2);
    }

    #[test]
    fn wait_gives_up_after_its_timeout() {
        let word = AtomicU32::new(6);
        let started = Instant::now();
        assert_eq!(Bell::new(&word).wait_beyond(6, 0, Duration::from_millis(20)), 6);
        assert!(started.elapsed() >= Duration::from_millis(20));
        assert_eq!(word.load(Ordering::Relaxed), 6, "nobody sleeps any more");
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
                while heard < 2 * round {
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
