//! The checker proves what the generators make, and finds what is wrong in what it is shown.

use efarun_wire::Rank;
use proptest::prelude::*;

use super::scripted::Scripted;
use crate::coll::check::check;
use crate::coll::fault::{Fault, Problem, Wait};
use crate::coll::ring::Ring;
use crate::coll::schedule::{Operand, Span, Step};
use crate::coll::select::{Algorithm, build};

#[test]
fn all_small_worlds_are_proved_at_odd_counts_and_all_segment_lengths() {
    for algorithm in Algorithm::ALL {
        for world_size in 1..=17 {
            for count in [0, 1, 2, 3, 7, 16, 17, 18, 37] {
                for segment_len in [1, 2, 3, 5, 8, 40] {
                    for credits in [1, 2, 4] {
                        let schedule = build(algorithm, world_size, count, segment_len, credits);
                        assert_eq!(check(&*schedule, credits), Ok(()), "{schedule:?}");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_is_proved_with_its_credits_and_more(
        is_ring: bool,
        world_size in 1..=40u32,
        count in 0..150usize,
        segment_len in 1..=60usize,
        credits in 1..=6usize,
        more in 0..3usize,
    ) {
        let algorithm = if is_ring { Algorithm::Ring } else { Algorithm::Tree };
        let schedule = build(algorithm, world_size, count, segment_len, credits);
        prop_assert_eq!(check(&*schedule, credits + more), Ok(()));
    }
}

#[test]
fn a_tree_needs_one_credit_whatever_it_was_made_for() {
    for world_size in 1..=17 {
        let schedule = build(Algorithm::Tree, world_size, 61, 2, 4);
        assert_eq!(check(&*schedule, 1), Ok(()), "world size {world_size}");
    }
}

#[test]
fn a_ring_with_fewer_credits_than_it_was_made_for_is_a_deadlock() {
    let ring = Ring::new(4, 64, 4, 3);
    assert_eq!(check(&ring, 3), Ok(()));
    let problem = check(&ring, 2).unwrap_err().problem;
    assert_eq!(problem, Problem::Deadlock { wait: Wait::Credit { to: Rank(1) } });
}

/// Rank 1 sends rank 0 its input, and gets the result back. `edit` may change what the two do.
fn there_and_back(edit: impl FnOnce(&mut [Vec<Step>])) -> Result<(), Fault> {
    let (input, output) = (Span::input(0, 4), Span::output(0, 4));
    let first = vec![
        Step::Recv { from: B, len: 4 },
        Step::Reduce { into: output, left: Operand::Span(input), right: Operand::Slot(B) },
        Step::Release { from: B },
        Step::Send { to: B, span: output },
        Step::WaitSends { count: 1 },
    ];
    let second = vec![
        Step::Send { to: A, span: input },
        Step::WaitSends { count: 1 },
        Step::Recv { from: A, len: 4 },
        Step::Copy { into: output, source: Operand::Slot(A) },
        Step::Release { from: A },
    ];
    let mut steps = vec![first, second];
    edit(&mut steps);
    check(&Scripted::new(steps, 4), 1)
}

fn problem(edit: impl FnOnce(&mut [Vec<Step>])) -> Problem {
    there_and_back(edit).unwrap_err().problem
}

fn without(rank: usize, index: usize) -> impl FnOnce(&mut [Vec<Step>]) {
    move |steps| _ = steps[rank].remove(index)
}

const A: Rank = Rank(0);
const B: Rank = Rank(1);

#[test]
fn there_and_back_is_right_as_it_stands() {
    assert_eq!(there_and_back(|_| {}), Ok(()));
}

#[test]
fn order_of_operands_must_agree() {
    let (input, into) = (Span::input(0, 4), Span::output(0, 4));
    let reduce_on_both = |steps: &mut [Vec<Step>]| {
        steps[0][3] = Step::Send { to: B, span: input };
        steps[1][3] = Step::Reduce { into, left: Operand::Span(input), right: Operand::Slot(A) };
    };
    assert_eq!(problem(reduce_on_both), Problem::Order { element: 0, other: A });
}

#[test]
fn what_is_sent_must_not_be_overwritten() {
    let expected = Problem::OverwritesOpenSend { span: Span::output(0, 4), sent: Span::input(0, 4) };
    assert_eq!(problem(without(1, 1)), expected);
}

#[test]
fn sends_are_complete_at_the_end_and_were_posted() {
    assert_eq!(problem(without(0, 4)), Problem::LeftOpen { sends: 1 });
    let too_early = |steps: &mut [Vec<Step>]| steps[1].swap(0, 1);
    assert_eq!(problem(too_early), Problem::WaitsForUnposted { count: 1, posted: 0 });
}

#[test]
fn a_wait_that_only_the_waiting_rank_could_end_is_a_deadlock() {
    // Both send first, and wait for completion before they take the other's message.
    let steps = |peer| {
        let output = Span::output(0, 4);
        let (left, right) = (Operand::Span(Span::input(0, 4)), Operand::Slot(peer));
        vec![
            Step::Send { to: peer, span: Span::input(0, 4) },
            Step::WaitSends { count: 1 },
            Step::Recv { from: peer, len: 4 },
            if peer == B {
                Step::Reduce { into: output, left, right }
            } else {
                Step::Reduce { into: output, left: right, right: left }
            },
            Step::Release { from: peer },
        ]
    };
    let fault = check(&Scripted::new(vec![steps(B), steps(A)], 4), 1).unwrap_err();
    let wait = Wait::Completion { to: B };
    assert_eq!(fault, Fault { rank: A, step: 1, problem: Problem::Deadlock { wait } });
    assert_eq!(
        fault.to_string(),
        "rank 0, step 1: waits for rank 1 to take a message, and no rank can go on"
    );
}

#[test]
fn lengths_of_both_ends_must_agree() {
    let shorten = |steps: &mut [Vec<Step>]| steps[0][0] = Step::Recv { from: B, len: 3 };
    assert_eq!(problem(shorten), Problem::MessageLen { from: B, expected: 3, sent: 4 });
}

#[test]
fn a_held_message_is_used_and_released_once() {
    assert_eq!(problem(without(0, 0)), Problem::NotHeld { from: B });
    assert_eq!(problem(without(0, 1)), Problem::ReleasedUnused { from: B });
    assert_eq!(problem(without(0, 2)), Problem::LeftHeld { from: B });
    let twice = |steps: &mut [Vec<Step>]| steps[0].push(Step::Release { from: B });
    assert_eq!(problem(twice), Problem::NotHeld { from: B });
}

#[test]
fn every_message_is_received() {
    let span = Span::input(0, 1);
    let one_more = |steps: &mut [Vec<Step>]| {
        steps[1].extend([Step::Send { to: A, span }, Step::WaitSends { count: 2 }]);
    };
    assert_eq!(problem(one_more), Problem::NotReceived { from: B, messages: 1 });
}

#[test]
fn nothing_may_be_read_that_was_not_written() {
    let send_output = |steps: &mut [Vec<Step>]| steps[1][0] = Step::Send { to: A, span: Span::output(0, 4) };
    assert_eq!(problem(send_output), Problem::ReadsUnwritten { element: 0 });
}

#[test]
fn spans_stay_within_their_buffers() {
    let span = Span::output(1, 4);
    let shift = |steps: &mut [Vec<Step>]| steps[0][3] = Step::Send { to: B, span };
    assert_eq!(problem(shift), Problem::Bounds { span, count: 4 });
    let into = Span::input(0, 4);
    let write_input = |steps: &mut [Vec<Step>]| {
        steps[1][3] = Step::Copy { into, source: Operand::Slot(A) };
    };
    assert_eq!(problem(write_input), Problem::WritesInput { span: into });
}

#[test]
fn a_destination_has_one_meaning_in_place_too() {
    let (into, input) = (Span::output(0, 2), Operand::Span(Span::input(0, 2)));
    let both = |steps: &mut [Vec<Step>]| steps[0].push(Step::Reduce { into, left: input, right: input });
    assert!(matches!(problem(both), Problem::Overlap { .. }));
    let shifted = Operand::Span(Span::input(1, 2));
    let partly = |steps: &mut [Vec<Step>]| steps[0].push(Step::Copy { into, source: shifted });
    assert!(matches!(problem(partly), Problem::Overlap { .. }));
}

#[test]
fn peers_are_ranks_that_exist() {
    let stranger =
        |steps: &mut [Vec<Step>]| steps[0][0] = Step::Send { to: Rank(2), span: Span::input(0, 4) };
    assert_eq!(problem(stranger), Problem::NotAPeer { peer: Rank(2) });
}

#[test]
fn an_input_counts_once_and_not_less() {
    let (into, own) = (Span::output(0, 4), Operand::Span(Span::input(0, 4)));
    let again =
        |steps: &mut [Vec<Step>]| steps[1][3] = Step::Reduce { into, left: own, right: Operand::Slot(A) };
    assert_eq!(problem(again), Problem::Twice { element: 0, contributor: B });
    let copy = |steps: &mut [Vec<Step>]| steps[0][1] = Step::Copy { into, source: Operand::Slot(B) };
    assert_eq!(problem(copy), Problem::Missing { element: 0, contributor: A });
}

#[test]
fn elements_stay_at_their_positions() {
    let send_half = |steps: &mut [Vec<Step>]| {
        let into = Span::output(0, 2);
        steps[1][0] = Step::Send { to: A, span: Span::input(2, 2) };
        steps[0][0] = Step::Recv { from: B, len: 2 };
        steps[0][1] = Step::Reduce { into, left: Operand::Span(Span::input(0, 2)), right: Operand::Slot(B) };
    };
    assert_eq!(problem(send_half), Problem::WrongElement { element: 0, found: 2 });
}
