//! The executor gives exact results, and says what is wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use efarun_wire::Rank;
use half::bf16;
use proptest::prelude::*;

use super::scripted::Scripted;
use super::world::{
    LARGEST_WORLD, ODD_COUNT, Setting, all_algorithms, built, cases, expected, inputs, plan, run,
};
use crate::coll::buffers::Buffers;
use crate::coll::collective::Collective;
use crate::coll::executor::{Call, ExecError, Executor, Interrupt};
use crate::coll::fault::Wait;
use crate::coll::plan::Plan;
use crate::coll::schedule::{Operand, Schedule, Span, Step};
use crate::coll::select::Algorithm;
use crate::element::{Element, ReduceOp};
use crate::transport::double::{Manners, doubles};
use crate::transport::{Transport, TransportError};

/// Inputs whose sums and products are exact in every type and in any order: small, mostly ones and twos.
fn small_inputs<T: Element + From<u8>>(schedule: &dyn Schedule) -> Vec<Vec<T>> {
    inputs(schedule, |rank, index| {
        T::from(match (rank as usize * 7 + index * 3) % 11 {
            0 => 2,
            1 => 3,
            _ => 1,
        })
    })
}

fn expect_exact<T: Element + From<u8> + Default>(
    schedule: &dyn Schedule,
    setting: Setting,
    op: impl Fn(T, T) -> T,
) {
    let inputs = small_inputs::<T>(schedule);
    let expected = expected(schedule, &inputs, op);
    let results = run(schedule, &inputs, setting);
    for (rank, (result, expected)) in results.into_iter().zip(&expected).enumerate() {
        assert_eq!(result.as_ref(), Ok(expected), "rank {rank} of {schedule:?} with {setting:?}");
    }
}

/// Each way to run a schedule that makes a difference to the executor.
fn settings() -> impl Iterator<Item = Setting> {
    [(true, true), (false, true), (true, false)].into_iter().map(|(is_in_place, keeps_steps)| Setting {
        is_in_place,
        keeps_steps,
        ..Setting::default()
    })
}

macro_rules! all_ops {
    ($schedule:expr, $setting:expr, $($type:ty: $sum:expr, $prod:expr;)*) => {$(
        expect_exact::<$type>($schedule, Setting { op: ReduceOp::Sum, ..$setting }, $sum);
        expect_exact::<$type>($schedule, Setting { op: ReduceOp::Prod, ..$setting }, $prod);
        expect_exact::<$type>($schedule, Setting { op: ReduceOp::Min, ..$setting }, |a, b| if a < b { a } else { b });
        expect_exact::<$type>($schedule, Setting { op: ReduceOp::Max, ..$setting }, |a, b| if a > b { a } else { b });
    )*};
}

#[test]
fn all_types_and_operations_are_exact_by_every_algorithm() {
    let world_size = LARGEST_WORLD.min(5);
    for algorithm in all_algorithms(world_size) {
        let schedule = built(algorithm, world_size, 23, 3, 4);
        for setting in settings() {
            all_ops!(&*schedule, setting,
                u8: u8::wrapping_add, u8::wrapping_mul;
                f64: |a, b| a + b, |a, b| a * b;
                bf16: |a, b| a + b, |a, b| a * b;
            );
        }
    }
}

#[test]
fn every_world_size_is_exact_at_odd_counts() {
    for world_size in 1..=LARGEST_WORLD {
        for algorithm in all_algorithms(world_size) {
            for (count, setting) in [0, 1, ODD_COUNT].into_iter().zip(settings()) {
                let schedule = built(algorithm, world_size, count, 4, 4);
                expect_exact::<i32>(&*schedule, setting, i32::wrapping_add);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(150), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_is_exact_however_the_network_behaves(
        choice: prop::sample::Index,
        world_size in 1..=LARGEST_WORLD,
        count in 0..80usize,
        segment_len in 1..=20usize,
        credits in 1..=4usize,
        is_in_place: bool,
        keeps_steps: bool,
        is_late: bool,
        refuses: bool,
        seed: u64,
    ) {
        let all: Vec<_> = all_algorithms(world_size).collect();
        let manners = Manners { credits, is_late, refuses, seed, ..Manners::default() };
        let setting = Setting { is_in_place, keeps_steps, manners, ..Setting::default() };
        let schedule = built(all[choice.index(all.len())], world_size, count, segment_len, credits);
        expect_exact::<i64>(&*schedule, setting, i64::wrapping_add);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(100), failure_persistence: None, ..ProptestConfig::default() })]

    /// Nobody waits for ever, and nobody takes something for the result that is none.
    #[test]
    fn where_a_rank_dies_the_others_end_with_the_result_or_an_error_that_names_a_rank(
        choice: prop::sample::Index,
        world_size in 2..=LARGEST_WORLD.min(8),
        count in 1..40usize,
        dying in 0..8u32,
        calls in 0..60u32,
        seed: u64,
    ) {
        let dying = Rank(dying % world_size);
        let all: Vec<_> = all_algorithms(world_size).collect();
        let schedule = built(all[choice.index(all.len())], world_size, count, 4, 2);
        let manners = Manners { credits: 2, refuses: true, dies: Some((dying, calls)), seed, ..Manners::default() };
        let inputs = small_inputs::<i64>(&*schedule);
        let expected = expected(&*schedule, &inputs, i64::wrapping_add);
        let results = run(&*schedule, &inputs, Setting { manners, ..Setting::default() });
        for (rank, (result, expected)) in (0..).map(Rank).zip(results.into_iter().zip(expected)) {
            match result {
                Ok(result) => prop_assert_eq!(result, expected),
                Err(ExecError::Transport { source: TransportError::PeerLost { peer, .. }, .. }) => {
                    prop_assert!(peer != rank);
                }
                Err(error) => prop_assert!(rank == dying, "{rank}: {error}"),
            }
        }
    }
}

/// Averages of one element per rank, by every algorithm that has one.
fn averages<T: Element + Default>(inputs: &[T]) -> Vec<(String, Vec<T>)> {
    let world_size = inputs.len() as u32;
    let mut averages = Vec::new();
    for (collective, algorithm) in all_algorithms(world_size) {
        if !collective.reduces() {
            continue;
        }
        let schedule = built((collective, algorithm), world_size, 1, 1, 2);
        let inputs = inputs_of(&*schedule, inputs);
        let results = run(&*schedule, &inputs, Setting { op: ReduceOp::Avg, ..Setting::default() });
        let results = results.into_iter().flat_map(Result::unwrap).collect();
        averages.push((format!("{collective} by {algorithm}"), results));
    }
    averages
}

/// The same element all over each rank's input.
fn inputs_of<T: Element>(schedule: &dyn Schedule, values: &[T]) -> Vec<Vec<T>> {
    inputs(schedule, |rank, _| values[rank as usize])
}

#[test]
fn averages_divide_the_whole_sum_once() {
    for (name, results) in averages::<i32>(&[-5, 1, 0, 1, -8]) {
        assert!(results.iter().all(|&result| result == -2), "{name}: -11 / 5 gave {results:?}");
    }
    for (name, results) in averages::<u8>(&[200, 50, 20]) {
        assert!(results.iter().all(|&result| result == 4), "{name}: (270 - 256) / 3 gave {results:?}");
    }
    // Divided first, each of them would lose its last bit.
    let third = f32::from_bits(0x3eaa_aaab);
    for (name, results) in averages(&[third; 5]) {
        assert!(results.iter().all(|&result| result == third), "{name}: {results:?}");
    }
}

#[test]
fn halves_reduced_in_a_row_are_rounded_once() {
    // In bf16 256 + 1 is 256 again, so rounding after each addition would lose all the ones.
    let mut values = vec![bf16::from_f32(1.0); 5];
    values[4] = bf16::from_f32(256.0);
    let schedule = built((Collective::ReduceScatter, Algorithm::Direct), 5, 1, 1, 2);
    let results = run(&*schedule, &inputs_of(&*schedule, &values), Setting::default());
    for result in results {
        assert_eq!(result.unwrap(), [bf16::from_f32(260.0)]);
    }
}

#[test]
fn floats_have_the_same_bits_on_all_ranks_and_in_every_run() {
    for &algorithm in Algorithm::of(Collective::AllReduce) {
        let schedule = built((Collective::AllReduce, algorithm), 7, 40, 3, 2);
        let value = |rank: usize, index: usize| 1.0 / (1.0 + (rank * 41 + index) as f32);
        let inputs: Vec<Vec<f32>> =
            (0..7).map(|rank| (0..40).map(|index| value(rank, index)).collect()).collect();
        let mut seen = Vec::new();
        for seed in 0..4 {
            let manners = Manners { seed, ..Manners::default() };
            let results = run(&*schedule, &inputs, Setting { manners, ..Setting::default() });
            seen.extend(results.into_iter().map(Result::unwrap));
        }
        assert!(seen.iter().all(|result| result == &seen[0]), "{algorithm}");
    }
}

#[test]
fn operands_keep_their_sides() {
    // The smaller of two zeros is the right one, so the sign that is left is that of the last operand.
    let zero = |rank: usize, index: usize| if (rank + index).is_multiple_of(3) { -0.0f32 } else { 0.0 };
    let inputs: Vec<Vec<f32>> = (0..3).map(|rank| (0..3).map(|index| zero(rank, index)).collect()).collect();
    // A ring begins chunk c at rank c; the second of two trees is moved on by one rank; the others keep the order.
    let last: [fn(usize) -> usize; 4] =
        [|index| (index + 2) % 3, |_| 2, |index| if index < 2 { 2 } else { 0 }, |_| 2];
    for (&algorithm, last) in Algorithm::of(Collective::AllReduce).iter().zip(last) {
        let expected: Vec<u32> = (0..3).map(|index| inputs[last(index)][index].to_bits()).collect();
        let schedule = built((Collective::AllReduce, algorithm), 3, 3, 1, 2);
        for is_in_place in [false, true] {
            for result in
                run(&*schedule, &inputs, Setting { op: ReduceOp::Min, is_in_place, ..Setting::default() })
            {
                let bits: Vec<u32> = result.unwrap().into_iter().map(f32::to_bits).collect();
                assert_eq!(bits, expected, "{algorithm}, in place: {is_in_place}");
            }
        }
    }
}

#[test]
fn operands_may_be_two_messages_or_two_spans() {
    let whole = (Span::input(0, 3), Span::output(0, 3));
    let recv = |from| Step::Recv { from, len: 3 };
    let (a, b, c) = (Rank(0), Rank(1), Rank(2));
    let reduce = |into, left, right| Step::Reduce { into, left, right, completes: false };
    let gather = vec![
        recv(b),
        recv(c),
        reduce(whole.1, Operand::Slot(b), Operand::Slot(c)),
        Step::Release { from: c },
        Step::Release { from: b },
    ];
    let send = [Step::Send { to: a, span: whole.0 }, Step::WaitSends { count: 1 }];
    let copy = [Step::Copy { into: whole.1, source: Operand::Span(whole.0) }];
    let first = Span::output(0, 1);
    let (mid, last) = (Operand::Span(Span::input(1, 1)), Operand::Span(Span::input(2, 1)));
    let locally = [
        reduce(first, mid, last),
        reduce(first, Operand::Span(first), mid),
        reduce(first, last, Operand::Span(first)),
    ];
    let steps = vec![gather, [&send[..], &copy, &locally].concat(), [&send[..], &copy].concat()];
    let inputs = [vec![1, 2, 3], vec![10, 20, 30], vec![100, 200, 300]];
    let results = run(&Scripted::new(steps, 3), &inputs, Setting::default());
    assert_eq!(results, [Ok(vec![110, 220, 330]), Ok(vec![100, 20, 30]), Ok(vec![100, 200, 300])]);
}

#[test]
fn a_message_of_another_length_than_its_step_has_names_the_sender() {
    let (a, b) = (Rank(0), Rank(1));
    let slot = Operand::Slot(b);
    let recv = [Step::Recv { from: b, len: 3 }, Step::Copy { into: Span::output(0, 3), source: slot }];
    let whole = Step::Copy { into: Span::output(0, 3), source: Operand::Span(Span::input(0, 3)) };
    let send = [Step::Send { to: a, span: Span::input(0, 2) }, Step::WaitSends { count: 1 }, whole];
    let steps = vec![[&recv[..], &[Step::Release { from: b }]].concat(), send.to_vec()];
    let inputs = [vec![1i32, 2, 3], vec![10, 20, 30]];
    let results = run(&Scripted::new(steps, 3), &inputs, Setting::default());
    let Err(ExecError::MessageLen { peer, expected_bytes, found_bytes, .. }) = &results[0] else {
        panic!("{results:?}");
    };
    assert_eq!((*peer, *expected_bytes, *found_bytes), (b, 12, 8));
}

fn ring_of_two() -> Box<dyn Schedule> {
    built((Collective::AllReduce, Algorithm::Ring), 2, 10, 4, 2)
}

/// Two ranks that call different things; gives both errors.
fn calls_that_differ(sequences: [u32; 2], ops: [ReduceOp; 2]) -> Vec<ExecError> {
    let schedule = ring_of_two();
    let transports = doubles(2, Manners::default());
    std::thread::scope(|scope| {
        let threads: Vec<_> = transports
            .into_iter()
            .enumerate()
            .map(|(rank, mut transport)| {
                let schedule = &*schedule;
                scope.spawn(move || {
                    let mut data = [1i32; 10];
                    let plan = plan(schedule, Rank(rank as u32), true).unwrap();
                    let call = Call {
                        sequence: sequences[rank],
                        op: ops[rank],
                        buffers: Buffers::in_place(&mut data),
                        patience: Duration::from_secs(20),
                    };
                    Executor::new(Duration::ZERO).run(&plan, call, &mut transport, &mut || None).unwrap_err()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn another_operation_on_a_peer_is_a_mismatch_that_names_it() {
    let errors = calls_that_differ([8, 8], [ReduceOp::Sum, ReduceOp::Max]);
    let is_named = |error: &ExecError| matches!(error, ExecError::Mismatch { sequence: 8, peer_sequence: 8, peer, .. } if peer.0 < 2);
    assert!(errors.iter().any(is_named), "{errors:?}");
    // Who did not see it itself sees that its peer gave up.
    let is_lost = |error: &ExecError| {
        matches!(error, ExecError::Transport { source: TransportError::PeerLost { .. }, .. })
    };
    assert!(errors.iter().all(|error| is_named(error) || is_lost(error)), "{errors:?}");
}

#[test]
fn another_order_of_calls_says_both_numbers() {
    let errors = calls_that_differ([8, 9], [ReduceOp::Sum, ReduceOp::Sum]);
    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let expected = [
        "rank 1 is in call number 9, all_reduce of int32 by sum, this rank in number 8, all_reduce of int32 by sum",
        "rank 0 is in call number 8, all_reduce of int32 by sum, this rank in number 9, all_reduce of int32 by sum",
    ];
    assert!(text.iter().any(|text| expected.iter().any(|expected| text.contains(expected))), "{text:?}");
}

/// Rank 0 of two alone, with a peer that never does anything.
fn alone(patience: Duration, interrupt: &mut dyn FnMut() -> Option<Interrupt>) -> ExecError {
    let schedule = ring_of_two();
    let mut transports = doubles(2, Manners::default());
    transports[1].open(&[Rank(0)], &[]).unwrap();
    let mut data = [1i32; 10];
    let buffers = Buffers::in_place(&mut data);
    let call = Call { sequence: 0, op: ReduceOp::Sum, buffers, patience };
    let plan = Plan::new(schedule, Rank(0)).unwrap();
    let error = Executor::new(Duration::ZERO).run(&plan, call, &mut transports[0], interrupt).unwrap_err();
    assert_eq!(transports[0].poll(&mut Vec::new()), Err(TransportError::Closed));
    error
}

#[test]
fn a_silent_peer_is_a_timeout_that_names_step_and_peer() {
    let patience = Duration::from_millis(30);
    let error = alone(patience, &mut || None);
    let ExecError::Timeout { step: 2, wait: Wait::Message { from: Rank(1) }, waited, .. } = error else {
        panic!("{error:?}");
    };
    assert!(waited >= patience);
}

#[test]
fn an_interrupt_ends_a_wait() {
    let lost = Interrupt::RankLost { rank: Rank(1), cause: "exited with status 1".to_owned() };
    let mut asked = 0;
    let error = alone(Duration::from_secs(20), &mut || {
        asked += 1;
        (asked == 3).then(|| lost.clone())
    });
    assert_eq!(error.to_string(), "step 2: rank 1 is lost: exited with status 1");
}

#[test]
fn a_panic_closes_the_transport_before_the_memory_is_gone() {
    let schedule = ring_of_two();
    let mut transports = doubles(2, Manners::default());
    transports[1].open(&[Rank(0)], &[]).unwrap();
    let transport = &mut transports[0];
    let plan = Plan::new(schedule, Rank(0)).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut data = [1i32; 10];
        let buffers = Buffers::in_place(&mut data);
        let patience = Duration::from_secs(20);
        let call = Call { sequence: 0, op: ReduceOp::Sum, buffers, patience };
        Executor::new(Duration::ZERO).run(&plan, call, transport, &mut || panic!("of a callback"))
    }));
    assert!(panicked.is_err());
    assert_eq!(transport.poll(&mut Vec::new()), Err(TransportError::Closed));
}

#[test]
fn buffers_and_slots_that_do_not_fit_are_refused() {
    let run = |count, segment_len, slot_bytes| {
        let schedule = built((Collective::AllReduce, Algorithm::Tree), 2, 10, segment_len, 2);
        let plan = Plan::new(schedule, Rank(0)).unwrap();
        let mut transport = doubles(2, Manners { slot_bytes, ..Manners::default() }).remove(0);
        let mut data = vec![1i64; count];
        let buffers = Buffers::in_place(&mut data);
        let call = Call { sequence: 0, op: ReduceOp::Sum, buffers, patience: Duration::ZERO };
        Executor::new(Duration::ZERO).run(&plan, call, &mut transport, &mut || None).unwrap_err()
    };
    assert_eq!(run(9, 4, 64), ExecError::Buffers { found: (9, 9), expected: (10, 10) });
    assert_eq!(run(10, 9, 64), ExecError::SegmentTooLong { segment_bytes: 72, slot_bytes: 64 });
    assert!(matches!(run(10, 8, 64), ExecError::Timeout { .. }));
}
