//! What is measured and counted, on a world that does right or wrong by order.

use super::double::{Fault, on_every_rank};
use super::*;
use crate::sweep::Growth;
use efarun_rt::{ElementType, Rank};
use half::{bf16, f16};

const WORLD: u32 = 3;

fn effort() -> Effort {
    Effort {
        sweep: Sweep { first_bytes: 48, last_bytes: 768, growth: Growth::Multiply(4) },
        iters: 3,
        warmup_iters: 2,
        check_iters: 1,
        average: Average::Max,
        percentiles: false,
        rotation: Rotation::WithinLargest,
    }
}

/// Rank 0's rows, and how many calls it made.
fn rows_of<T: Sample>(operation: Operation, effort: Effort, fault: Option<Fault>) -> (Vec<Row>, u32) {
    let measure = |world: &mut super::double::Double| {
        let mut rows = Vec::new();
        let measured: Result<(), ()> = Measurement::<_, T>::new(world, effort, operation).run(|row| {
            rows.push(row);
            Ok(())
        });
        assert_eq!(measured, Ok(()));
        (rows, world.calls())
    };
    on_every_rank(WORLD, fault, measure).swap_remove(0)
}

fn operations() -> Vec<Operation> {
    Collective::ALL
        .iter()
        .flat_map(|collective| collective.operations(&[ReduceOp::Sum], &[Rank(1)]))
        .collect()
}

fn wrong(rows: &[Row]) -> Vec<(Option<u64>, Option<u64>)> {
    rows.iter().map(|row| (row.out_of_place.wrong, row.in_place.and_then(|half| half.wrong))).collect()
}

#[test]
fn every_size_is_a_row_and_right_results_are_not_wrong() {
    for operation in operations().into_iter().filter(|operation| operation.collective().has_data()) {
        let (rows, _) = rows_of::<f32>(operation, effort(), None);
        let chunks = matches!(operation, Operation::AllGather | Operation::ReduceScatter(_));
        let per_count = if chunks { 12 } else { 4 };
        assert_eq!(
            rows.iter().map(|row| row.size_bytes).collect::<Vec<_>>(),
            [48, 192, 768],
            "{operation:?}"
        );
        assert_eq!(
            rows.iter().map(|row| row.count).collect::<Vec<_>>(),
            [48, 192, 768].map(|s| s / per_count)
        );
        assert_eq!(wrong(&rows), [(Some(0), Some(0)); 3], "{operation:?}");
        assert!(rows.iter().all(|row| row.out_of_place.time_us > 0.0));
    }
}

#[test]
fn every_type_and_reduction_is_right_when_done_right() {
    let effort = Effort { iters: 1, warmup_iters: 0, ..effort() };
    let mut types = 0;
    macro_rules! all_right {
        ($($type:ty),*) => {$(
            types += 1;
            for op in ReduceOp::ALL {
                for operation in [Operation::AllReduce(op), Operation::Reduce(op, Rank(2)), Operation::ReduceScatter(op)] {
                    let (rows, _) = rows_of::<$type>(operation, effort, None);
                    assert!(wrong(&rows).iter().all(|halves| *halves == (Some(0), Some(0))), "{operation:?}");
                }
            }
        )*};
    }
    all_right!(i8, u8, i16, u16, i32, u32, i64, u64, f16, bf16, f32, f64);
    assert_eq!(types, ElementType::ALL.len());
}

#[test]
fn one_wrong_element_on_one_rank_is_one_in_its_half_of_its_row() {
    let operations = operations().into_iter().filter(|operation| operation.collective().has_data());
    for operation in operations {
        let collective = operation.collective();
        let output_len = collective.lens(192, 4, WORLD).unwrap().output;
        for (place, expected) in [(Place::Out, (Some(1), Some(0))), (Place::In, (Some(0), Some(1)))] {
            for element in [0, output_len / 2, output_len - 1] {
                let fault = Fault { collective, place, rank: Rank(1), output_len, element };
                let (rows, _) = rows_of::<i32>(operation, effort(), Some(fault));
                assert_eq!(wrong(&rows), [(Some(0), Some(0)), expected, (Some(0), Some(0))], "{fault:?}");
            }
        }
    }
}

#[test]
fn a_barrier_that_does_not_wait_is_wrong() {
    let fault = Fault {
        collective: Collective::Barrier,
        place: Place::Out,
        rank: Rank(0),
        output_len: 0,
        element: 0,
    };
    let (rows, _) = rows_of::<u8>(Operation::Barrier, effort(), None);
    assert_eq!(wrong(&rows), [(Some(0), None)]);
    assert_eq!((rows[0].size_bytes, rows[0].count), (0, 0));
    let (rows, _) = rows_of::<u8>(Operation::Barrier, effort(), Some(fault));
    // Each of three ranks is late once, and the two others are not kept; one that the machine delays is not seen.
    assert!((1..=6).contains(&rows[0].out_of_place.wrong.unwrap()), "{rows:?}");
}

#[test]
fn without_checks_nothing_is_claimed() {
    for operation in operations() {
        let (rows, _) = rows_of::<f32>(operation, Effort { check_iters: 0, ..effort() }, None);
        assert!(wrong(&rows).iter().all(|halves| *halves == (None, None)));
    }
}

#[test]
fn calls_are_warm_up_and_per_half_those_of_each_pass() {
    let sizes = 3;
    let warmup = 2 * 5;
    // A call that nobody times, the barrier, the timed ones, and the averaging of the ranks' times.
    let mean = 1 + 1 + 3 + 1;
    let unchecked = Effort { check_iters: 0, ..effort() };
    let (_, calls) = rows_of::<f32>(Operation::AllReduce(ReduceOp::Sum), unchecked, None);
    assert_eq!(calls, warmup + sizes * 2 * mean);
    let (rows, calls) =
        rows_of::<f32>(Operation::AllReduce(ReduceOp::Sum), Effort { percentiles: true, ..unchecked }, None);
    assert_eq!(calls, warmup + sizes * 2 * 2 * mean);
    let halves = || rows.iter().flat_map(Row::halves);
    assert!(halves().all(|half| half.p50_us > Some(0.0) && half.p99_us >= half.p50_us));
}

#[test]
fn buffers_have_room_for_all_windows_of_every_size() {
    for rotation in [Rotation::WithinLargest, Rotation::Count(5), Rotation::Exceed { bytes: 10_000 }] {
        let effort = Effort { rotation, ..effort() };
        for operation in operations() {
            // A window beyond the buffer would panic.
            let (rows, _) = rows_of::<u8>(operation, effort, None);
            assert!(rows.iter().flat_map(Row::halves).all(|half| half.wrong == Some(0)));
        }
    }
    let effort = Effort { rotation: Rotation::Count(5), ..effort() };
    assert_eq!(effort.buffer_len(Collective::AllReduce, 4, WORLD), 5 * 192);
}
