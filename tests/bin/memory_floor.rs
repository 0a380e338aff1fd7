//! What memory allows an all_reduce of two ranks that copies nothing: two threads, each on a core of its own, that read both
//! inputs where they lie and write the sum to both outputs past the caches, each one half of the vector.
//!
//! Prints, for each size, the median and the least time of a call. A call moves two inputs in and two outputs out, which no
//! all_reduce out of place can do without, so none can be faster while memory is what limits it. Nothing is agreed on, waited
//! for within a call, or checked, as a collective has to.
//!
//! # Safety
//! The two threads share no element that either writes: outputs are cut in halves before the threads begin. Stores past the
//! caches are fenced before the other thread is told.
#![allow(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program talks to its user")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Times an all_reduce by two threads that does nothing but reduce.
#[derive(Parser)]
struct Args {
    /// Sizes of the vector, in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [16 << 20, 64 << 20])]
    sizes: Vec<usize>,
    /// How many calls are timed of each.
    #[arg(long, default_value_t = 20)]
    calls: usize,
}

/// Eight elements, which one store writes.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Eight([f32; 8]);

fn main() {
    let args = Args::parse();
    let cores = cores();
    println!("{:>12} {:>12} {:>12}", "bytes", "median us", "least us");
    for bytes in args.sizes {
        let len = bytes / size_of::<Eight>() / 2 * 2;
        let inputs = [1.0, 2.0].map(|value| vec![Eight([value; 8]); len]);
        let mut outputs = [vec![Eight([9.0; 8]); len], vec![Eight([9.0; 8]); len]];
        let [first, second] = &mut outputs;
        let (first, second) = (first.split_at_mut(len / 2), second.split_at_mut(len / 2));
        let there = [AtomicU32::new(0), AtomicU32::new(0)];
        let mut times = std::thread::scope(|scope| {
            let (inputs, there, cores, calls) = (&inputs, &there, &cores, args.calls);
            let other = scope.spawn(move || {
                reduce_often(
                    1,
                    [&inputs[0][len / 2..], &inputs[1][len / 2..]],
                    [first.1, second.1],
                    there,
                    cores,
                    calls,
                );
            });
            let times = reduce_often(
                0,
                [&inputs[0][..len / 2], &inputs[1][..len / 2]],
                [first.0, second.0],
                there,
                cores,
                calls,
            );
            other.join().expect("the other half is reduced");
            times
        });
        assert!(outputs.iter().flatten().all(|eight| eight.0 == [3.0; 8]), "a sum is wrong");
        times.sort_unstable();
        let [median, least] = [times[times.len() / 2], times[0]].map(|time| time.as_secs_f64() * 1e6);
        println!("{bytes:>12} {median:>12.1} {least:>12.1}");
    }
}

/// Reduces one half so often, in step with the other thread, and answers how long each call took.
fn reduce_often(
    me: usize,
    inputs: [&[Eight]; 2],
    mut outputs: [&mut [Eight]; 2],
    there: &[AtomicU32; 2],
    cores: &[usize],
    calls: usize,
) -> Vec<Duration> {
    if let Some(&core) = cores.get(me) {
        let mut set = CpuSet::new();
        // Unbound is slower, not wrong.
        let _ = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    }
    let mut step = 0;
    let mut meet = || {
        step += 1;
        there[me].store(step, Ordering::Release);
        while there[1 - me].load(Ordering::Acquire) < step {
            std::hint::spin_loop();
        }
    };
    let mut call = || {
        meet();
        let since = Instant::now();
        reduce(inputs, &mut outputs);
        meet();
        since.elapsed()
    };
    call();
    (0..calls).map(|_| call()).collect()
}

/// Writes the sum of both inputs to both outputs.
fn reduce(inputs: [&[Eight]; 2], outputs: &mut [&mut [Eight]; 2]) {
    let [first, second] = outputs;
    let all = inputs[0].iter().zip(inputs[1]).zip(first.iter_mut().zip(second.iter_mut()));
    for ((one, other), (first, second)) in all {
        let sum = Eight(std::array::from_fn(|index| one.0[index] + other.0[index]));
        store(first, sum);
        store(second, sum);
    }
    fence();
}

/// Writes eight elements past the caches, where the processor can.
#[cfg(target_arch = "x86_64")]
fn store(to: &mut Eight, value: Eight) {
    use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
    for half in 0..2 {
        // SAFETY: both are eight elements long, `to` is aligned to 32 bytes, and every x86-64 has these instructions.
        unsafe {
            _mm_stream_ps(to.0.as_mut_ptr().add(4 * half), _mm_loadu_ps(value.0.as_ptr().add(4 * half)))
        };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn store(to: &mut Eight, value: Eight) {
    *to = value;
}

/// Lets no store past the caches be seen after what follows.
fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// The cores that this process may run on.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|&core| allowed.is_set(core) == Ok(true)).collect()
}
