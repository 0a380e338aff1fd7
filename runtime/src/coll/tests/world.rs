//! A world of threads: one executor per rank, on transport doubles.

use std::time::Duration;

use efarun_wire::Rank;

use super::scripted::Without;
use crate::coll::buffers::Buffers;
use crate::coll::collective::{Collective, Contributors};
use crate::coll::executor::{Call, ExecError, Executor};
use crate::coll::plan::Plan;
use crate::coll::schedule::Schedule;
use crate::coll::select::{Algorithm, build};
use crate::coll::shape::Shape;
use crate::element::{Element, ReduceOp};
use crate::transport::Transport;
use crate::transport::double::{Manners, doubles};

/// The largest world of those that are tried one by one; an interpreter that watches every byte takes hours for more.
pub(super) const LARGEST_WORLD: u32 = if cfg!(miri) { 2 } else { 17 };

/// An odd count of many segments.
pub(super) const ODD_COUNT: usize = if cfg!(miri) { 5 } else { 61 };

/// Cases of what is tried at random.
pub(super) const fn cases(count: u32) -> u32 {
    if cfg!(miri) { 3 } else { count }
}

/// How a world runs a schedule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub(super) op: ReduceOp,
    pub(super) is_in_place: bool,
    /// Whether a plan keeps the steps.
    pub(super) keeps_steps: bool,
    pub(super) manners: Manners,
    pub(super) patience: Duration,
}

impl Default for Setting {
    fn default() -> Self {
        Setting {
            op: ReduceOp::Sum,
            is_in_place: false,
            keeps_steps: true,
            manners: Manners::default(),
            patience: Duration::from_secs(20),
        }
    }
}

/// Every collective, with first, middle and last rank as the root, and each of its algorithms.
pub(super) fn all_algorithms(world_size: u32) -> impl Iterator<Item = (Collective, Algorithm)> {
    let mut roots = vec![0, world_size / 2, world_size - 1];
    roots.dedup();
    let rooted = move |collective| match collective {
        Collective::Broadcast { .. } => {
            roots.iter().map(|&root| Collective::Broadcast { root: Rank(root) }).collect()
        }
        Collective::Reduce { .. } => {
            roots.iter().map(|&root| Collective::Reduce { root: Rank(root) }).collect()
        }
        other => vec![other],
    };
    let with_algorithms = |collective| Algorithm::of(collective).iter().map(move |&name| (collective, name));
    Collective::ALL.into_iter().flat_map(rooted).flat_map(with_algorithms)
}

/// Builds a schedule.
pub(super) fn built(
    (collective, algorithm): (Collective, Algorithm),
    world_size: u32,
    count: usize,
    segment_len: usize,
    credits: usize,
) -> Box<dyn Schedule> {
    let count = if collective == Collective::Barrier { 0 } else { count };
    build(algorithm, Shape { collective, world_size, count, segment_len, credits })
}

/// What each rank gets, from what each gives, by the meaning of the collective.
pub(super) fn expected<T: Element>(
    schedule: &dyn Schedule,
    inputs: &[Vec<T>],
    reduce: impl Fn(T, T) -> T,
) -> Vec<Vec<T>> {
    let (collective, world_size, count) = (schedule.collective(), schedule.world_size(), schedule.count());
    let given = |rank: Rank, element: usize| {
        inputs[rank.index()][element - collective.input(rank, world_size, count).start]
    };
    let element = |element| match collective.contributors(element, count) {
        Contributors::Only(rank) => given(rank, element),
        Contributors::All => {
            (0..world_size).map(|rank| given(Rank(rank), element)).reduce(&reduce).expect("a rank")
        }
    };
    let outputs = (0..world_size).map(|rank| collective.output(Rank(rank), world_size, count));
    outputs.map(|output| output.map(element).collect()).collect()
}

/// Inputs of the lengths that the schedule's ranks give.
pub(super) fn inputs<T>(schedule: &dyn Schedule, value: impl Fn(u32, usize) -> T) -> Vec<Vec<T>> {
    let input = |rank| schedule.collective().input(Rank(rank), schedule.world_size(), schedule.count());
    (0..schedule.world_size())
        .map(|rank| (0..input(rank).len()).map(|index| value(rank, index)).collect())
        .collect()
}

/// Runs a schedule on all ranks, which have these inputs, and gives each rank's output or error.
pub(super) fn run<T: Element + Default>(
    schedule: &dyn Schedule,
    inputs: &[Vec<T>],
    setting: Setting,
) -> Vec<Result<Vec<T>, ExecError>> {
    let transports = doubles(schedule.world_size(), setting.manners);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for ((rank, mut transport), input) in (0..).zip(transports).zip(inputs) {
            threads.push(scope.spawn(move || {
                let result = run_rank(schedule, Rank(rank), input, &mut transport, setting);
                // An error must have closed the transport: nobody may go on with it.
                assert_eq!(transport.poll(&mut Vec::new()).is_err(), result.is_err());
                result
            }));
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A plan for a schedule that somebody else has.
pub(super) fn plan(schedule: &dyn Schedule, rank: Rank, keeps_steps: bool) -> Result<Plan<'_>, ExecError> {
    let whole = Without { inner: schedule, rank, index: usize::MAX };
    Plan::with_room(Box::new(whole), rank, if keeps_steps { usize::MAX } else { 0 }).map_err(ExecError::from)
}

fn run_rank<T: Element + Default>(
    schedule: &dyn Schedule,
    rank: Rank,
    input: &[T],
    transport: &mut dyn Transport,
    setting: Setting,
) -> Result<Vec<T>, ExecError> {
    let plan = plan(schedule, rank, setting.keeps_steps).inspect_err(|_| transport.close())?;
    let (collective, world_size, count) = (schedule.collective(), schedule.world_size(), schedule.count());
    let output_range = collective.output(rank, world_size, count);
    let input_range = collective.input(rank, world_size, count);
    // Where nothing was written the output differs from every right result: it is of inputs, reversed.
    let filler = input.iter().rev().chain(input).copied().cycle();
    let mut executor = Executor::new(Duration::from_micros(5));
    let mut run = |buffers| {
        let call = Call { sequence: 3, op: setting.op, buffers, patience: setting.patience };
        executor.run(&plan, call, transport, &mut || None)
    };
    if !setting.is_in_place {
        let mut output: Vec<T> = filler.take(output_range.len()).collect();
        if output.len() < output_range.len() {
            // A rank that gives nothing.
            output = vec![T::default(); output_range.len()];
        }
        run(Buffers::out_of_place(input, &mut output))?;
        return Ok(output);
    }
    let vector_len = collective.vector_len(world_size, count);
    let mut vector: Vec<T> = filler.take(vector_len).collect();
    vector.resize(vector_len, T::default());
    vector[input_range.clone()].copy_from_slice(input);
    match (input_range.len(), output_range.len()) {
        (given, got) if given == vector_len && got == vector_len => run(Buffers::in_place(&mut vector))?,
        (given, 0) if given == vector_len => run(Buffers::input_only(&vector))?,
        (0, got) if got == vector_len => run(Buffers::output_only(&mut vector))?,
        (_, got) if got == vector_len => run(Buffers::input_within(&mut vector, input_range))?,
        _ => run(Buffers::output_within(&mut vector, output_range.clone()))?,
    }
    Ok(vector[output_range].to_vec())
}
