//! A schedule with one step missing is noticed by the executor's result, by the checker and by the simulator.

use std::collections::{HashMap, HashSet};
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use efarun_wire::Rank;

use super::scripted::Without;
use super::world::{Setting, all_algorithms, built, expected, inputs, run};
use crate::coll::check::check;
use crate::coll::schedule::{Schedule, Step};
use crate::coll::sim::{Model, simulate};
use crate::transport::double::Manners;

const CREDITS: usize = 2;
const MODEL: Model = Model { latency_s: 1e-6, message_s: 0.0, byte_s: 1e-9, memory_byte_s: 1e-10 };

/// World sizes, counts and segment lengths: chunks that differ, empty ones, one segment and many.
const SHAPES: [(u32, usize, usize); 7] =
    [(1, 3, 2), (2, 1, 1), (2, 9, 2), (3, 24, 1), (4, 2, 1), (5, 13, 2), (6, 20, 3)];

fn schedules() -> impl Iterator<Item = Box<dyn Schedule>> {
    SHAPES.into_iter().flat_map(|(world_size, count, segment_len)| {
        all_algorithms(world_size)
            .map(move |algorithm| built(algorithm, world_size, count, segment_len, CREDITS))
    })
}

fn steps(schedule: &dyn Schedule) -> impl Iterator<Item = (Rank, usize, Step)> {
    let of_rank = move |rank| schedule.steps(rank).enumerate().map(move |(index, step)| (rank, index, step));
    (0..schedule.world_size()).map(Rank).flat_map(of_rank)
}

#[test]
fn checker_and_simulator_miss_any_step() {
    for schedule in schedules() {
        assert_eq!(check(&*schedule, CREDITS), Ok(()));
        assert!(simulate(&*schedule, 4, CREDITS, &MODEL).is_ok());
        for (rank, index, step) in steps(&*schedule) {
            let broken = Without { inner: &*schedule, rank, index };
            let place = format!("{step:?}, step {index} of rank {rank} of {schedule:?}");
            assert!(check(&broken, CREDITS).is_err(), "the checker does not miss {place}");
            assert!(simulate(&broken, 4, CREDITS, &MODEL).is_err(), "the simulator does not miss {place}");
        }
    }
}

/// Each kind of step of each rank: its first and its last.
fn sample(schedule: &dyn Schedule) -> HashSet<(Rank, usize)> {
    let mut first = HashSet::new();
    let mut sample = HashSet::new();
    let mut last = HashMap::<(Rank, Discriminant<Step>), usize>::new();
    for (rank, index, step) in steps(schedule) {
        if first.insert((rank, discriminant(&step))) {
            sample.insert((rank, index));
        }
        last.insert((rank, discriminant(&step)), index);
    }
    sample.extend(last.into_iter().map(|((rank, _), index)| (rank, index)));
    sample
}

#[test]
fn the_executor_misses_a_step_of_every_kind() {
    for schedule in schedules() {
        let schedule = &*schedule;
        let value = |rank: u32, index: usize| i64::from(rank + 1) * 1000 + index as i64;
        let inputs = inputs(schedule, value);
        let expected = expected(schedule, &inputs, |left, right| left + right);
        let is_right = |schedule: &dyn Schedule, patience: Duration| {
            let manners = Manners { credits: CREDITS, is_late: true, ..Manners::default() };
            let results = run(schedule, &inputs, Setting { manners, patience, ..Setting::default() });
            results.iter().zip(&expected).all(|(result, expected)| result.as_ref() == Ok(expected))
        };
        assert!(is_right(schedule, Duration::from_secs(20)));
        for (rank, index) in sample(schedule) {
            let step = schedule.steps(rank).nth(index);
            let is_missed = !is_right(&Without { inner: schedule, rank, index }, Duration::from_millis(100));
            assert!(is_missed, "{step:?}, step {index} of rank {rank} of {schedule:?}");
        }
    }
}
