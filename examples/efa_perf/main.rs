//! `efa-perf`: measures and checks efarun's collectives, with nccl-tests' flags, columns and footer.
//!
//! Run it under efarun: `efarun -n 8 efa-perf all_reduce -b 8 -e 64M -f 2`. The command line is [`args`], sizes are
//! [`sweep`], inputs with a known result [`data`]; [`measure`] runs the calls, [`report`] holds what came out, and
//! [`table`] writes it. Only rank 0 writes. The exit code is 1 when a single element on any rank was wrong.

mod args;
mod data;
mod measure;
mod output;
mod report;
mod sweep;
mod table;

use std::process::ExitCode;

use clap::Parser;
use efarun_rt::coll::select::Choice;
use efarun_rt::{ElementType, ReduceOp, World};

use crate::args::{Args, ArgsError};
use crate::data::Sample;
use crate::measure::{Collectives, Effort, Measurement};
use crate::output::{Output, OutputError};
use crate::report::{Config, Report, Row};
use crate::sweep::{Growth, Sweep};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum PerfError {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error(transparent)]
    World(#[from] efarun_rt::Error),
    #[error(transparent)]
    Output(#[from] OutputError),
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(report) if report.out_of_bounds == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Report, PerfError> {
    let sweep = args.sweep()?;
    let mut world = match args.algo {
        // With that to EFARUN_ALGORITHM, where it is set.
        Choice::Auto => World::init()?,
        fixed => World::builder().algorithm(fixed).init()?,
    };
    let is_rank_zero = world.rank().0 == 0;
    if is_rank_zero {
        args.without_effect().iter().for_each(|note| complain(&format!("note: {note}")));
    }
    let mut output = Output::new(args.json.as_deref(), is_rank_zero)?;
    let config = config(args, sweep, &world);
    output.header(&config)?;
    let effort = Effort {
        sweep,
        iters: args.iters,
        warmup_iters: args.warmup_iters,
        check_iters: args.check_iters,
        average: args.average,
        bus_factor: args.collective.bus_factor(world.world_size()),
    };
    let mut rows = Vec::new();
    for element in &args.types.0 {
        for op in &args.ops.0 {
            measure_type(&mut world, effort, *element, *op, &mut |row| {
                output.row(&row)?;
                rows.push(row);
                Ok(())
            })?;
        }
    }
    world.close()?;
    let report = Report::new(config, rows);
    output.footer(&report)?;
    Ok(report)
}

fn config(args: &Args, sweep: Sweep, world: &World) -> Config {
    let (step_bytes, step_factor) = match sweep.growth {
        Growth::Add(bytes) => (Some(bytes), None),
        Growth::Multiply(factor) => (None, Some(factor)),
    };
    Config {
        version: env!("CARGO_PKG_VERSION"),
        collective: args.collective.name(),
        algo: args.algo.to_string(),
        nodes: world.node_count(),
        ranks: world.world_size(),
        transports: world.transport_report().iter().map(ToString::to_string).collect(),
        min_bytes: sweep.first_bytes,
        max_bytes: sweep.last_bytes,
        step_bytes,
        step_factor,
        warmup_iters: args.warmup_iters,
        iters: args.iters,
        check_iters: args.check_iters,
    }
}

type OnRow<'a> = &'a mut dyn FnMut(Row) -> Result<(), PerfError>;

/// From the element type as data to the type.
fn measure_type(
    world: &mut World,
    effort: Effort,
    element: ElementType,
    op: ReduceOp,
    on_row: OnRow,
) -> Result<(), PerfError> {
    match element {
        ElementType::U8 => Measurement::<_, u8>::new(world, effort, op).run(on_row),
        ElementType::I32 => Measurement::<_, i32>::new(world, effort, op).run(on_row),
        ElementType::I64 => Measurement::<_, i64>::new(world, effort, op).run(on_row),
        ElementType::F32 => Measurement::<_, f32>::new(world, effort, op).run(on_row),
        ElementType::F64 => Measurement::<_, f64>::new(world, effort, op).run(on_row),
        other => unreachable!("{other} is not among the types that -d takes"),
    }
}

impl Collectives for World {
    type Error = efarun_rt::Error;

    fn rank(&self) -> u32 {
        World::rank(self).0
    }

    fn world_size(&self) -> u32 {
        World::world_size(self)
    }

    fn barrier(&mut self) -> Result<(), Self::Error> {
        World::barrier(self)
    }

    fn all_reduce<T: Sample>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), Self::Error> {
        World::all_reduce(self, data, op)
    }

    fn all_reduce_into<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Self::Error> {
        World::all_reduce_into(self, input, output, op)
    }
}

/// One line on standard error.
#[expect(clippy::print_stderr, reason = "the one place where efa-perf speaks to its user beside the results")]
fn complain(line: &str) {
    eprintln!("efa-perf: {line}");
}
