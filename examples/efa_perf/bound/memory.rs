//! Measures a node's memory past the runtime: copies on all ranks at once, and a cache line sent between two threads.
//!
//! Both are the fastest of several tries: a bound is what the machine can do, not what it did while it was busy with
//! something else.

use std::hint;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::link::Step;

/// The copy bandwidth of this process at each of these sizes, ascending.
pub(super) fn copy_steps(sizes_bytes: &[u64]) -> Vec<Step> {
    let largest = sizes_bytes.iter().copied().max().unwrap_or(0) as usize;
    // Written to before it is measured: pages that nobody has touched are all one and the same.
    let (source, mut target) = (vec![1u8; largest], vec![2u8; largest]);
    let step = |&size_bytes: &u64| {
        let len = size_bytes as usize;
        Step { size_bytes, gb_per_s: copy_gb_per_s(&source[..len], &mut target[..len]) }
    };
    sizes_bytes.iter().map(step).collect()
}

fn copy_gb_per_s(source: &[u8], target: &mut [u8]) -> f64 {
    let copies = (COPIED_BYTES_PER_TRY / source.len().max(1)).max(1);
    let seconds = (0..TRIES).map(|_| {
        let start = Instant::now();
        for _ in 0..copies {
            hint::black_box(&mut *target).copy_from_slice(hint::black_box(source));
        }
        start.elapsed().as_secs_f64()
    });
    (copies * source.len()) as f64 / 1e9 / seconds.fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE)
}

/// How long a cache line takes from one core to another, in microseconds; none where this process was not given two
/// cores at once.
pub(super) fn cache_line_us() -> Option<f64> {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return None;
    }
    let line = Line(AtomicU32::new(0));
    let line = &line.0;
    let fastest = thread::scope(|scope| {
        scope.spawn(|| answer(line));
        let start = Instant::now();
        let mut fastest = Duration::MAX;
        let mut next = 0;
        let is_done = |fastest| match start.elapsed() {
            elapsed if elapsed > PING_PONG_PATIENCE => true,
            elapsed => elapsed > PING_PONG_TIME && fastest < PLAUSIBLE,
        };
        // On a busy machine the other thread waits for a core most of the time: the fastest batch is what counts.
        while !is_done(fastest) {
            let start = Instant::now();
            for _ in 0..BATCH {
                line.store(next + 1, Ordering::Release);
                await_value(line, next + 2);
                next += 2;
            }
            fastest = fastest.min(start.elapsed());
        }
        line.store(STOP, Ordering::Release);
        fastest
    });
    (fastest < PLAUSIBLE).then(|| fastest.as_secs_f64() * 1e6 / f64::from(BATCH) / 2.0)
}

/// Answers every odd number with the next, until told to stop.
fn answer(line: &AtomicU32) {
    let mut expected = 1;
    loop {
        match await_value(line, expected) {
            STOP => return,
            value => line.store(value + 1, Ordering::Release),
        }
        expected += 2;
    }
}

/// Spins until the line has this value or says stop. It does not yield: on a busy machine the two threads seldom have
/// cores at the same time, and must not waste it when they do.
fn await_value(line: &AtomicU32, expected: u32) -> u32 {
    loop {
        let value = line.load(Ordering::Acquire);
        if value == expected || value == STOP {
            return value;
        }
        hint::spin_loop();
    }
}

/// A cache line of its own, with the one that some processors fetch beside it.
#[repr(align(128))]
struct Line(AtomicU32);

const TRIES: usize = 5;

/// So that a clock reading is nothing beside it, and a step takes a few milliseconds.
const COPIED_BYTES_PER_TRY: usize = 8 << 20;

const PING_PONG_TIME: Duration = Duration::from_millis(20);

const PING_PONG_PATIENCE: Duration = Duration::from_millis(500);

/// Round trips; few, so that both threads stay on their cores for all of them once in a while.
const BATCH: u32 = 20;

/// No batch takes longer between any two cores of one machine, 5 us a round trip, but when a thread had to wait for its
/// core.
const PLAUSIBLE: Duration = Duration::from_micros(5 * BATCH as u64);

/// No count comes to it in [`PING_PONG_PATIENCE`].
const STOP: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_every_size_have_a_speed() {
        let sizes = [4 << 10, 1 << 20];
        let steps = copy_steps(&sizes);
        assert_eq!(steps.iter().map(|step| step.size_bytes).collect::<Vec<_>>(), sizes);
        // Below this no machine that runs the tests is, above it no memory.
        assert!(steps.iter().all(|step| (0.05..2000.0).contains(&step.gb_per_s)), "{steps:?}");
    }

    #[test]
    fn a_cache_line_takes_some_time_and_not_long() {
        if let Some(us) = cache_line_us() {
            assert!((0.001..2.5).contains(&us), "{us} us");
        }
    }
}
