//! A run from its World to its results.
//!
//! What makes no run is found out on all ranks alike, before anything is measured: rank 0 says it, and all close their
//! Worlds in peace, so that the message is not lost among complaints of ranks that were left.

use std::fs;

use efarun_rt::coll::select::Choice;
use efarun_rt::{ElementType, ReduceOp, World};
use half::{bf16, f16};

use crate::bound::{Bound, GivenLink};
use crate::cli::{Args, ArgsError, RotationChoice};
use crate::collective::Operation;
use crate::complain;
use crate::data::{GuardedBuffer, Sample};
use crate::gpu::{self, Gpu};
use crate::measure::rotation::{Rotation, last_level_cache_bytes};
use crate::measure::{Effort, Measurement};
use crate::output::{Output, OutputError};
use crate::plan::Plan;
use crate::report::{Config, Report, Row};
use crate::site;
use crate::sweep::Growth;
use crate::units;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every checked element was right.
    Right,
    /// At least one was wrong.
    Wrong,
    /// The command line makes no run; it was said why.
    Refused,
    /// Something that the run needs is not to be had; it was said what.
    Failed,
}

/// Why a run has no end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PerfError {
    /// The World failed.
    #[error(transparent)]
    World(#[from] efarun_rt::Error),
    /// Results could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Measures what the command line asks for.
///
/// # Errors
///
/// When the World fails, or results cannot be written.
pub(crate) fn run(args: &Args) -> Result<Outcome, PerfError> {
    match args.gpus {
        Some(count) if count > 1 => gpu::run_threads(args, count),
        _ => run_in(args, join(args)?),
    }
}

/// As [`run`], in a World that is there.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn run_in(args: &Args, mut world: World) -> Result<Outcome, PerfError> {
    let is_rank_zero = world.rank().0 == 0;
    let prepared = match prepare(args, &mut world)? {
        Ok(prepared) => prepared,
        Err(refusal) => return give_up(world, &refusal, Outcome::Refused),
    };
    if is_rank_zero {
        prepared.plan.notes.iter().for_each(|note| complain(&format!("note: {note}")));
    }
    let gpu = match args.gpus.map(|_| Gpu::of(args, &mut world, &prepared.plan)).transpose()? {
        Some(Ok(gpu)) => Some(gpu),
        Some(Err(error)) => return give_up(world, &error, Outcome::Failed),
        None => None,
    };
    let output = Output::new(args.json.as_deref(), args.plot.as_deref(), is_rank_zero);
    let mut failures = [u8::from(output.is_err())];
    world.all_reduce(&mut failures, ReduceOp::Max)?;
    let mut output = match output {
        Ok(output) if failures == [0] => output,
        Ok(_) => return give_up(world, &"rank 0 cannot write its results", Outcome::Failed),
        Err(error) => return give_up(world, &error, Outcome::Failed),
    };
    let bound = if args.bound {
        let given = GivenLink { gbit_per_s: args.link_gbps, latency_us: args.link_us };
        let is_cold = matches!(prepared.effort.rotation, Rotation::Exceed { .. });
        let site = site::of(&world);
        match Bound::find(&mut world, &site, given, is_cold)? {
            Ok(bound) => bound,
            Err(error) => return give_up(world, &error, Outcome::Failed),
        }
    } else {
        None
    };
    let mut config = config(args, &prepared.effort, bound.as_ref(), &world);
    config.transports.splice(..0, gpu.iter().map(|gpu| gpu.description().to_owned()));
    let rows = measure((&mut world, gpu.as_ref()), &prepared, bound.as_ref(), &config, &mut output)?;
    drop(gpu);
    world.close()?;
    let report = Report::new(config, rows);
    let outcome = if report.out_of_bounds == 0 { Outcome::Right } else { Outcome::Wrong };
    output.finish(&report)?;
    Ok(outcome)
}

/// This rank's World, with the algorithms that were asked for.
pub(crate) fn join(args: &Args) -> Result<World, efarun_rt::Error> {
    match args.algo {
        // With that to EFARUN_ALGORITHM, where it is set.
        Choice::Auto => World::init(),
        chosen => World::builder().algorithm(chosen).init(),
    }
}

/// Says why from rank 0, and waits until all ranks have come to the same end.
pub(crate) fn give_up(
    world: World,
    why: &dyn std::fmt::Display,
    outcome: Outcome,
) -> Result<Outcome, PerfError> {
    if world.rank().0 == 0 {
        complain(&format!("error: {why}"));
    }
    world.close()?;
    Ok(outcome)
}

struct Prepared {
    plan: Plan,
    effort: Effort,
    /// Whether buffers are the World's.
    arena: bool,
}

/// The plan, and the memory for it. The inner result is the same on all ranks.
fn prepare(args: &Args, world: &mut World) -> Result<Result<Prepared, ArgsError>, PerfError> {
    let world_size = world.world_size();
    let local_ranks = world.topology().local_ranks(world.rank()).len() as u64;
    let mut least = [
        (free_memory_bytes().unwrap_or(u64::MAX) / local_ranks) as i64 & i64::MAX,
        last_level_cache_bytes().unwrap_or(0) as i64,
    ];
    let mut cache_bytes = [least[1]];
    world.all_reduce(&mut least, ReduceOp::Min)?;
    world.all_reduce(&mut cache_bytes, ReduceOp::Max)?;
    let [free_bytes, smallest_cache_bytes] = least.map(|bytes| bytes as u64);
    let rotation = match args.rotate {
        None => Rotation::WithinLargest,
        Some(RotationChoice::Count(count)) => Rotation::Count(count),
        Some(RotationChoice::Auto) if smallest_cache_bytes == 0 => return Ok(Err(ArgsError::UnknownCache)),
        Some(RotationChoice::Auto) => Rotation::Exceed { bytes: 2 * cache_bytes[0] as u64 },
    };
    let effort = |plan: Plan, sweep| Prepared {
        plan,
        effort: Effort {
            sweep,
            iters: args.iters,
            warmup_iters: args.warmup_iters,
            check_iters: args.check_iters,
            average: args.average,
            percentiles: args.percentiles || args.json.is_some(),
            rotation,
        },
        arena: args.arena,
    };
    let prepared = Plan::new(args, world_size).and_then(|plan| Ok(effort(plan, args.sweep()?)));
    Ok(prepared.and_then(|prepared| {
        let needed_bytes = prepared.buffer_bytes(world_size);
        if needed_bytes > free_bytes {
            return Err(ArgsError::Memory { needed_bytes, free_bytes });
        }
        Ok(prepared)
    }))
}

impl Prepared {
    /// What a rank's two buffers take, in the part that needs most.
    fn buffer_bytes(&self, world_size: u32) -> u64 {
        let of_part = |part: &crate::plan::Part| {
            let element_bytes = part.element.size_bytes();
            2 * (self.effort.buffer_len(part.collective, element_bytes, world_size) * element_bytes) as u64
        };
        self.plan.parts.iter().map(of_part).max().unwrap_or(0)
    }
}

fn measure(
    (world, gpu): (&mut World, Option<&Gpu>),
    prepared: &Prepared,
    bound: Option<&Bound>,
    config: &Config,
    output: &mut Output,
) -> Result<Vec<Row>, PerfError> {
    let mut rows = Vec::new();
    // A table per collective, over all its types.
    for parts in prepared.plan.parts.chunk_by(|left, right| left.collective == right.collective) {
        let collective = parts[0].collective;
        let config = Config { collective: collective.name(), ..config.clone() };
        output.header(&config)?;
        let first = rows.len();
        for part in parts {
            for operation in &part.operations {
                let on = (&mut *world, gpu);
                measure_operation(
                    on,
                    (prepared.effort, prepared.arena),
                    part.element,
                    *operation,
                    &mut |mut row: Row| {
                        if let Some(bound) = bound {
                            row.set_bound(bound.us(collective, row.size_bytes));
                        }
                        output.row(&config, &row)?;
                        rows.push(row);
                        Ok(())
                    },
                )?;
            }
        }
        output.footer(&Report::new(config, rows[first..].to_vec()))?;
    }
    Ok(rows)
}

type OnRow<'a> = &'a mut dyn FnMut(Row) -> Result<(), PerfError>;

/// From the element type as data to the type.
fn measure_operation(
    (world, gpu): (&mut World, Option<&Gpu>),
    (effort, arena): (Effort, bool),
    element: ElementType,
    operation: Operation,
    on_row: OnRow,
) -> Result<(), PerfError> {
    macro_rules! of {
        ($type:ty) => {
            match gpu {
                Some(gpu) => gpu::Measurement::<$type>::new(world, gpu, effort, operation)?.run(on_row),
                None if arena => {
                    let buffers = [shared(world, effort, operation)?, shared(world, effort, operation)?];
                    Measurement::<_, $type>::on(world, effort, operation, buffers).run(on_row)
                }
                None => Measurement::<_, $type>::new(world, effort, operation).run(on_row),
            }
        };
    }
    match element {
        ElementType::I8 => of!(i8),
        ElementType::U8 => of!(u8),
        ElementType::I16 => of!(i16),
        ElementType::U16 => of!(u16),
        ElementType::I32 => of!(i32),
        ElementType::U32 => of!(u32),
        ElementType::I64 => of!(i64),
        ElementType::U64 => of!(u64),
        ElementType::F16 => of!(f16),
        ElementType::Bf16 => of!(bf16),
        ElementType::F32 => of!(f32),
        ElementType::F64 => of!(f64),
        other => unreachable!("{other} is not among the types that -d takes"),
    }
}

/// A buffer that the World makes.
fn shared<T: Sample>(
    world: &mut World,
    effort: Effort,
    operation: Operation,
) -> Result<GuardedBuffer<T>, efarun_rt::Error> {
    let len = effort.buffer_len(operation.collective(), size_of::<T>(), world.world_size());
    world.alloc(GuardedBuffer::<T>::memory_len(len)).map(GuardedBuffer::on)
}

fn config(args: &Args, effort: &Effort, bound: Option<&Bound>, world: &World) -> Config {
    let (step_bytes, step_factor) = match effort.sweep.growth {
        Growth::Add(bytes) => (Some(bytes), None),
        Growth::Multiply(factor) => (None, Some(factor)),
    };
    let rotate = match effort.rotation {
        Rotation::WithinLargest => None,
        Rotation::Count(count) => Some(format!("{count} buffers in turn")),
        Rotation::Exceed { bytes } => Some(format!(
            "auto, more than {} of buffers in turn, twice the last-level cache",
            units::bytes(bytes)
        )),
    };
    Config {
        version: env!("CARGO_PKG_VERSION"),
        collective: args.target.name(),
        algo: args.algo.to_string(),
        nodes: world.node_count(),
        ranks: world.world_size(),
        transports: world.transport_report().iter().map(ToString::to_string).collect(),
        min_bytes: effort.sweep.first_bytes,
        max_bytes: effort.sweep.last_bytes,
        step_bytes,
        step_factor,
        warmup_iters: args.warmup_iters,
        iters: args.iters,
        check_iters: args.check_iters,
        average: args.average.to_string(),
        rotate,
        buffers: args.arena.then(|| "the World's, which ranks of a node reach in each other".to_owned()),
        shows_percentiles: args.percentiles,
        link: bound.map(|bound| bound.link().clone()),
        shows_bound: args.bound,
    }
}

/// What this node can give to processes without swapping.
fn free_memory_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
