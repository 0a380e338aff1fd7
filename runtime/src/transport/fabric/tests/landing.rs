//! Messages that land where they belong, past the slots: on a p5, into memory that stays.
//!
//! Receivers write over what has landed as soon as it is theirs, so that whatever comes there late is seen.

use super::manners::{config, exchange, sizes};
use super::soft_efa::{ROUNDS_MAX, close_both, efa_direct, pair, rails_of_p5, run_body, stream_of};
use super::*;
use crate::coll::buffers::Buffers;
use crate::coll::collective::Collective;
use crate::coll::executor::{Call, Executor};
use crate::coll::plan::Plan;
use crate::coll::select::{Algorithm, build};
use crate::coll::shape::Shape;
use crate::element::ReduceOp;
use crate::transport::kept::KeptBuffer;

/// Each body as a test, on cards made by these options.
macro_rules! on_a_p5 {
    ($($case:ident: $body:ident, $options:expr;)*) => {
        $(#[test]
        fn $case() {
            let options = [&["--device", "p5"][..], &$options].concat();
            run_body("2.5.1", stringify!($case), &format!("landing::bodies::{}", stringify!($body)), &options);
        })*
    };
}

on_a_p5! {
    long_messages_land_amid_all_manners: all_that_is_told_in_time_lands, ["--manners", "all"];
    long_messages_land_over_four_rails: all_that_is_told_in_time_lands, ["--nics", "4", "--manners", "all"];
    long_messages_land_where_queues_are_full:
        all_that_is_told_in_time_lands, ["--manners", "srd", "--fault", "queue-full=10"];
    nothing_comes_late_where_a_rail_fails:
        what_is_told_lands_or_not,
        ["--nics", "4", "--manners", "all", "--timeout", "1000", "--fault", "link-down=1@400ops"];
    nothing_comes_late_where_some_writes_fail:
        what_is_told_lands_or_not,
        ["--nics", "4", "--manners", "completions=100:3000", "--fault", "fail=13:30:nic1@100ops"];
    messages_go_on_where_cards_take_few_regions:
        what_is_told_lands_or_not, ["--manners", "srd", "--fault", "limit=regions:16"];
    other_memory_is_received_into_slots: other_memory_is_not_written_to, ["--manners", "srd"];
    a_failed_rail_ends_landing_for_its_peer:
        landing_ends_where_a_rail_fails,
        ["--nics", "3", "--timeout", "1000", "--manners", "srd", "--fault", "link-down=1@150ops"];
    nothing_comes_to_memory_after_closing: closing_ends_landing, ["--manners", "all"];
    collectives_land: results_are_right_and_land, ["--nics", "2", "--manners", "all"];
}

mod bodies {
    macro_rules! bodies {
        ($($body:ident),* $(,)?) => {
            $(#[test]
            fn $body() {
                if super::support::body_runs_on().is_some() {
                    super::$body();
                }
            })*
        };
    }

    bodies! {
        all_that_is_told_in_time_lands,
        what_is_told_lands_or_not,
        other_memory_is_not_written_to,
        landing_ends_where_a_rail_fails,
        closing_ends_landing,
        results_are_right_and_land,
    }
}

/// In both directions: the first messages of a pair have slots before anybody knows where they belong, all others that are long
/// and of which was told when their slots were given land.
fn all_that_is_told_in_time_lands() {
    let [one, other] = pair(&config());
    let (sizes, slots) = (sizes(&one), one.address.slots as usize);
    let count = 15 * sizes.len();
    let lands = |number: usize| number % 5 > 1 && sizes[number % sizes.len()] > slot::STAGED_BYTES;
    let expected = 2 * (slots..count).filter(|number| lands(*number)).count() as u64;
    assert_eq!(exchange(one, other, &sizes, count, true), expected);
}

fn what_is_told_lands_or_not() {
    let [one, other] = pair(&config());
    let sizes = sizes(&one);
    let landed = exchange(one, other, &sizes, 15 * sizes.len(), true);
    println!("{landed} landed");
}

#[expect(unsafe_code, reason = "expect_later's contract: the memory outlives both transports")]
fn other_memory_is_not_written_to() {
    let [mut sender, mut receiver] = pair(&efa_direct(2));
    let payload = vec![7; sender.slot_bytes()];
    let mut memory = vec![1; 40 * payload.len()];
    for (number, part) in memory.chunks_mut(payload.len()).enumerate() {
        // SAFETY: all messages are shown before the memory is looked at.
        unsafe { receiver.expect_later(Rank(0), number, part) };
    }
    stream_of(&mut sender, &mut receiver, 40, &payload);
    assert_eq!(receiver.counts().landed, 0);
    assert_eq!(receiver.counts().regions, 0, "nothing is registered for it");
    close_both(sender, receiver);
    assert!(memory.iter().all(|byte| *byte == 1));
}

/// Until the second of three rails fails messages land, and none does afterwards.
#[expect(unsafe_code, reason = "expect_later's contract: the memory outlives both transports")]
fn landing_ends_where_a_rail_fails() {
    let [mut sender, mut receiver] = pair(&efa_direct(2).over(rails_of_p5(3)));
    let payload: Vec<u8> = (0..sender.slot_bytes()).map(|index| (index / 7) as u8).collect();
    let count = 30;
    let mut buffer = KeptBuffer::new(count * payload.len());
    receiver.keep(buffer.kept());
    let mut landed = Vec::new();
    // In which round the rail fails depends on how many credits go in one message. Of the two last ones the first has none that landed.
    while landed.len() < ROUNDS_MAX && landed.iter().rev().nth(1) != Some(&0) {
        for (number, part) in buffer.bytes_mut().chunks_mut(payload.len()).enumerate() {
            // SAFETY: all messages are shown before the memory is looked at.
            unsafe { receiver.expect_later(Rank(0), number, part) };
        }
        let before = receiver.counts().landed;
        stream_of(&mut sender, &mut receiver, count, &payload);
        landed.push(receiver.counts().landed - before);
    }
    assert!(landed[0] > 0 && landed.ends_with(&[0, 0]), "{landed:?}");
    close_both(sender, receiver);
}

/// A receiver closes while messages are on the way to places that it gave, as after an error; its memory is its own from then on.
#[expect(
    unsafe_code,
    reason = "the contracts of try_send and expect_later: the memory outlives both transports"
)]
fn closing_ends_landing() {
    for taken_at_last in [10, 17, 23] {
        let [mut sender, mut receiver] = pair(&efa_direct(2));
        let payload = vec![7; sender.slot_bytes()];
        let mut buffer = KeptBuffer::new(64 * payload.len());
        receiver.keep(buffer.kept());
        for (number, part) in buffer.bytes_mut().chunks_mut(payload.len()).enumerate() {
            // SAFETY: nobody looks at the memory before the receiver is closed.
            unsafe { receiver.expect_later(Rank(0), number, part) };
        }
        let deadline = Instant::now() + DEADLINE;
        let mut taken = 0;
        let (mut sent, mut completed) = (0, Vec::new());
        let mut send = |sender: &mut FabricTransport| -> Result<bool, TransportError> {
            // SAFETY: the payload stays until the sender is closed.
            while unsafe { sender.try_send(Rank(1), header(&payload), &raw const payload[..], SendToken(0)) }?
            {
                sent += 1;
            }
            sender.poll(&mut completed)?;
            Ok(completed.len() < sent)
        };
        while taken < taken_at_last {
            assert!(Instant::now() < deadline, "{taken} messages in {DEADLINE:?}");
            send(&mut sender).unwrap();
            receiver.poll(&mut Vec::new()).unwrap();
            if receiver.arrived(Rank(0)).unwrap().is_some() {
                receiver.release(Rank(0)).unwrap();
                taken += 1;
            }
        }
        assert!(receiver.counts().landed > 0);
        receiver.try_close().unwrap();
        buffer.bytes_mut().fill(1);
        // What was under way ends, one way or the other.
        while send(&mut sender).is_ok_and(|is_sending| is_sending) {
            assert!(Instant::now() < deadline, "something is under way after {DEADLINE:?}");
        }
        sender.try_close().unwrap();
        assert!(buffer.bytes().iter().all(|byte| *byte == 1), "something came late");
    }
}

/// Every collective by each of its algorithms, on memory that stays, in place and not.
fn results_are_right_and_land() {
    let config = FabricConfig { world_size: WORLD_SIZE, ..config() };
    let mut ranks = world(&config);
    for collective in Collective::ALL.into_iter().filter(|it| *it != Collective::Barrier) {
        for &algorithm in Algorithm::of(collective) {
            let segment_len = SEGMENT_BYTES / size_of::<u64>();
            let credits = ranks[0].credits();
            let shape = Shape { collective, world_size: WORLD_SIZE, count: COUNT, segment_len, credits };
            for is_in_place in [false, true] {
                let before: u64 = ranks.iter().map(|rank| rank.counts().landed).sum();
                std::thread::scope(|scope| {
                    let run = |(rank, transport)| {
                        scope.spawn(move || run_rank(algorithm, shape, Rank(rank), transport, is_in_place))
                    };
                    let threads: Vec<_> = (0..).zip(ranks.iter_mut()).map(run).collect();
                    threads.into_iter().for_each(|thread| thread.join().unwrap());
                });
                let after: u64 = ranks.iter().map(|rank| rank.counts().landed).sum();
                println!("{collective:?} by {algorithm}, in place {is_in_place}: {} landed", after - before);
                if matches!(collective, Collective::AllGather | Collective::Broadcast { .. }) {
                    assert!(after > before, "of {collective:?} by {algorithm} nothing landed");
                }
            }
        }
    }
    ranks.iter_mut().for_each(FabricTransport::quiesced);
    ranks.iter_mut().for_each(|rank| rank.try_close().unwrap());
}

/// Two calls on the same memory; the results are those of sums of small numbers, which have one right value.
fn run_rank(
    algorithm: Algorithm,
    shape: Shape,
    rank: Rank,
    transport: &mut FabricTransport,
    is_in_place: bool,
) {
    let Shape { collective, world_size, count, .. } = shape;
    let schedule = build(algorithm, shape);
    let (input, output) =
        (collective.input(rank, world_size, count), collective.output(rank, world_size, count));
    let given = |rank: Rank, element: usize| (u64::from(rank.0) + 3) * (element as u64 + 1);
    let is_given = |rank: Rank, element: usize| collective.input(rank, world_size, count).contains(&element);
    let plan = Plan::new(schedule, rank).unwrap();
    let len = collective.vector_len(world_size, count);
    let mut buffer = KeptBuffer::new(len * size_of::<u64>());
    transport.keep(buffer.kept());
    let mut executor = Executor::new(Duration::ZERO);
    for sequence in 0..2 {
        let vector: &mut [u64] = bytemuck::cast_slice_mut(buffer.bytes_mut());
        let own: Vec<u64> = input.clone().map(|element| given(rank, element)).collect();
        let buffers = if !is_in_place {
            Buffers::out_of_place(&own, &mut vector[output.clone()])
        } else {
            vector[input.clone()].copy_from_slice(&own);
            match (input.len(), output.len()) {
                (given, 0) if given == len => Buffers::input_only(vector),
                (0, _) => Buffers::output_only(&mut vector[output.clone()]),
                (_, got) if got == len => Buffers::input_within(vector, input.clone()),
                _ => Buffers::output_within(vector, output.clone()),
            }
        };
        let call = Call { sequence, op: ReduceOp::Sum, buffers, patience: DEADLINE };
        executor.run(&plan, call, transport, &mut || None).unwrap();
        let vector: &[u64] = bytemuck::cast_slice(buffer.bytes());
        for element in output.clone() {
            let sum: u64 = (0..world_size)
                .map(Rank)
                .filter(|it| is_given(*it, element))
                .map(|it| given(it, element))
                .sum();
            assert_eq!(vector[element], sum, "element {element} of {collective:?} by {algorithm} on {rank}");
        }
    }
}

const WORLD_SIZE: u32 = 3;
/// Several windows of messages, of which each is cut for two rails.
const COUNT: usize = 1_000_003;
const SEGMENT_BYTES: usize = 160 << 10;
