//! The checker proves what the generators make, and finds what is wrong in what it is shown.

use efarun_wire::Rank;
use proptest::prelude::*;

use super::scripted::Scripted;
use super::world::{LARGEST_WORLD, all_algorithms, built};
use crate::coll::check::check;
use crate::coll::collective::Collective;
use crate::coll::fault::{Fault, Problem, Wait};
use crate::coll::schedule::{Buffer, Operand, Span, Step};
use crate::coll::select::Algorithm;

#[test]
fn all_small_worlds_are_proved_at_odd_counts_and_all_segment_lengths() {
    for world_size in 1..=LARGEST_WORLD {
        for algorithm in all_algorithms(world_size) {
            for (count, segment_lens) in [(0, &[3][..]), (1, &[1]), (7, &[1, 8]), (18, &[3]), (37, &[5, 40])]
            {
                for &segment_len in segment_lens {
                    for credits in [1, 2, 5] {
                        let schedule = built(algorithm, world_size, count, segment_len, credits);
                        assert_eq!(check(&*schedule, credits), Ok(()), "{schedule:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn larger_worlds_are_proved() {
    for world_size in [31, 32, 33, 48, 63, 64, 65, 100] {
        for algorithm in all_algorithms(world_size) {
            for (count, segment_len) in [(1, 1), (5, 2)] {
                let schedule = built(algorithm, world_size, count, segment_len, 2);
                assert_eq!(check(&*schedule, 2), Ok(()), "{schedule:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_is_proved_with_its_credits_and_more(
        choice: prop::sample::Index,
        world_size in 1..=40u32,
        root in 0..40u32,
        count in 0..60usize,
        segment_len in 1..=60usize,
        credits in 1..=6usize,
        more in 0..3usize,
    ) {
        let all: Vec<_> = all_algorithms(world_size).collect();
        let (collective, algorithm) = all[choice.index(all.len())];
        let root = Rank(root % world_size);
        let collective = match collective {
            Collective::Broadcast { .. } => Collective::Broadcast { root },
            Collective::Reduce { .. } => Collective::Reduce { root },
            other => other,
        };
        let schedule = built((collective, algorithm), world_size, count, segment_len, credits);
        prop_assert_eq!(check(&*schedule, credits + more), Ok(()));
    }
}

#[test]
fn between_two_ranks_every_collective_is_one_message_each_way_at_most() {
    for (collective, algorithm) in all_algorithms(2) {
        let schedule = built((collective, algorithm), 2, 8, 8, 2);
        for rank in [A, B] {
            let steps: Vec<Step> = schedule.steps(rank).collect();
            let count = |kind: fn(&Step) -> bool| steps.iter().filter(|step| kind(step)).count();
            let sends = count(|step| matches!(step, Step::Send { .. }));
            let receives = count(|step| matches!(step, Step::Recv { .. }));
            let most = match (collective, algorithm) {
                // These cut the vector in two, which is why doubling is preferred.
                (Collective::AllReduce, Algorithm::Ring | Algorithm::DoubleTree) => 2,
                _ => 1,
            };
            assert!(sends <= most && receives <= most, "{schedule:?}");
        }
    }
}

#[test]
fn an_exchange_between_two_ranks_waits_for_its_own_sends_after_the_receive_only() {
    let schedule = built((Collective::AllReduce, Algorithm::Doubling), 2, 80, 8, 4);
    let steps: Vec<Step> = schedule.steps(A).collect();
    for (index, step) in steps.iter().enumerate() {
        if let Step::WaitSends { count } = step {
            let received = steps[..index].iter().filter(|step| matches!(step, Step::Recv { .. })).count();
            assert_eq!(*count, received);
        }
    }
    assert!(steps[..3].iter().all(|step| matches!(step, Step::Send { .. })));
    assert!(matches!(steps[3], Step::Recv { .. }));
}

#[test]
fn a_tree_needs_one_credit_whatever_it_was_made_for() {
    for world_size in 1..=17 {
        let schedule = built((Collective::AllReduce, Algorithm::Tree), world_size, 61, 2, 4);
        assert_eq!(check(&*schedule, 1), Ok(()), "world size {world_size}");
    }
}

#[test]
fn a_ring_with_fewer_credits_than_it_was_made_for_is_a_deadlock() {
    let ring = built((Collective::AllReduce, Algorithm::Ring), 4, 64, 4, 4);
    assert_eq!(check(&*ring, 4), Ok(()));
    let problem = check(&*ring, 2).unwrap_err().problem;
    assert_eq!(problem, Problem::Deadlock { wait: Wait::Credit { to: Rank(1) } });
}

/// Rank 1 sends rank 0 its input, and gets the result back. `edit` may change what the two do.
fn there_and_back(edit: impl FnOnce(&mut [Vec<Step>])) -> Result<(), Fault> {
    let (input, output) = (Span::input(0, 4), Span::output(0, 4));
    let first = vec![
        Step::Recv { from: B, len: 4 },
        reduce(output, Operand::Span(input), Operand::Slot(B)),
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

/// A reduction of the last two inputs.
fn reduce(into: Span, left: Operand, right: Operand) -> Step {
    Step::Reduce { into, left, right, completes: true }
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
        steps[1][3] = reduce(into, Operand::Span(input), Operand::Slot(A));
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
            if peer == B { reduce(output, left, right) } else { reduce(output, right, left) },
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
    assert_eq!(problem(send_output), Problem::ReadsUnwritten { buffer: Buffer::Output, element: 0 });
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
    let both = |steps: &mut [Vec<Step>]| steps[0].push(reduce(into, input, input));
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
    let again = |steps: &mut [Vec<Step>]| steps[1][3] = reduce(into, own, Operand::Slot(A));
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
        steps[0][1] = reduce(into, Operand::Span(Span::input(0, 2)), Operand::Slot(B));
    };
    assert_eq!(problem(send_half), Problem::WrongElement { element: 0, found: 2 });
}

#[test]
fn a_reduction_says_whether_it_is_the_last() {
    let not_said = |steps: &mut [Vec<Step>]| {
        let (left, right) = (Operand::Span(Span::input(0, 4)), Operand::Slot(B));
        steps[0][1] = Step::Reduce { into: Span::output(0, 4), left, right, completes: false };
    };
    let expected = Problem::Completion { element: 0, contributors: 2, completes: false };
    assert_eq!(problem(not_said), expected);
}

#[test]
fn what_is_kept_unrounded_is_not_sent() {
    let span = Span::accumulator(0, 4);
    let send = |steps: &mut [Vec<Step>]| steps[1][0] = Step::Send { to: A, span };
    assert_eq!(problem(send), Problem::SendsAccumulator { span });
}

/// One step each for two ranks.
fn pair(collective: Collective, steps: [Vec<Step>; 2], count: usize) -> Result<(), Fault> {
    check(&Scripted::of(collective, steps.to_vec(), count), 1)
}

#[test]
fn nothing_but_the_root_s_input_is_broadcast() {
    let collective = Collective::Broadcast { root: B };
    let (into, from_b) = (Span::output(0, 2), Operand::Slot(B));
    let take =
        |source| vec![Step::Recv { from: B, len: 2 }, Step::Copy { into, source }, Step::Release { from: B }];
    let give = vec![Step::Send { to: A, span: Span::input(0, 2) }, Step::WaitSends { count: 1 }];
    assert_eq!(pair(collective, [take(from_b), give.clone()], 2), Ok(()));
    // A rank that gives nothing has no input to read.
    let fault = pair(collective, [take(Operand::Span(Span::input(0, 2))), give], 2).unwrap_err();
    assert_eq!(fault.problem, Problem::Bounds { span: Span::input(0, 2), count: 0 });
}

#[test]
fn blocks_are_gathered_where_they_belong() {
    let steps = |me: Rank, peer: Rank, at: usize| {
        vec![
            Step::Send { to: peer, span: Span::input(0, 2) },
            Step::Copy { into: Span::output(me.index() * 2, 2), source: Operand::Span(Span::input(0, 2)) },
            Step::Recv { from: peer, len: 2 },
            Step::Copy { into: Span::output(at, 2), source: Operand::Slot(peer) },
            Step::Release { from: peer },
            Step::WaitSends { count: 1 },
        ]
    };
    assert_eq!(pair(Collective::AllGather, [steps(A, B, 2), steps(B, A, 0)], 2), Ok(()));
    let fault = pair(Collective::AllGather, [steps(A, B, 0), steps(B, A, 0)], 2).unwrap_err();
    assert_eq!(fault.rank, A);
}

#[test]
fn a_barrier_that_somebody_leaves_early_is_found() {
    let (send, wait) = (|to| Step::Send { to, span: Span::input(0, 0) }, Step::WaitSends { count: 1 });
    let recv = |from| [Step::Recv { from, len: 0 }, Step::Release { from }];
    let both = |peer| [&[send(peer)][..], &recv(peer), &[wait]].concat();
    assert_eq!(pair(Collective::Barrier, [both(B), both(A)], 0), Ok(()));
    let one_way = [vec![send(B), wait], recv(A).to_vec()];
    let fault = pair(Collective::Barrier, one_way, 0).unwrap_err();
    assert_eq!(fault, Fault { rank: A, step: 2, problem: Problem::Unheard { other: B } });
}

#[test]
fn a_copy_to_its_own_place_disturbs_no_send_of_the_input() {
    // But one of the output it does.
    let whole = Operand::Span(Span::input(0, 4));
    let copy_again = |steps: &mut [Vec<Step>]| {
        steps[0].insert(4, Step::Copy { into: Span::output(0, 4), source: whole });
    };
    let expected = Problem::OverwritesOpenSend { span: Span::output(0, 4), sent: Span::output(0, 4) };
    assert_eq!(problem(copy_again), expected);
}
