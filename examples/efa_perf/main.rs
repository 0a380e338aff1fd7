//! `efa-perf`: measures and checks efarun's collectives, with nccl-tests' flags, columns and footer.
//!
//! Run it under efarun: `efarun -n 8 efa-perf all_reduce -b 8 -e 64M -f 2`. The command line is [`cli`]; what follows
//! from it, [`plan`]; sizes are [`sweep`], operations [`collective`], inputs with a known result [`data`]; [`run`] has
//! [`measure`] make the calls on a [`world`], or [`gpu`] on GPU memory, and [`bound`] say what the machine could do; [`report`] holds what came
//! out, and [`output`] writes it as [`table`], JSON and [`plot`]. [`explain`] says what would run instead. Only rank 0
//! writes.

mod bound;
mod cli;
mod collective;
mod data;
mod explain;
mod gpu;
mod instances;
mod measure;
mod output;
mod plan;
mod plot;
mod report;
mod run;
mod site;
mod sweep;
mod table;
mod units;
mod world;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Args;
use crate::run::Outcome;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(refusal) = args.check() {
        complain(&format!("error: {refusal}"));
        return ExitCode::from(USAGE);
    }
    let outcome = if args.explain { explain::run(&args) } else { run::run(&args) };
    match outcome {
        Ok(Outcome::Right) => ExitCode::SUCCESS,
        Ok(Outcome::Wrong | Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::Refused) => ExitCode::from(USAGE),
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// One line on standard error.
#[expect(clippy::print_stderr, reason = "the one place where efa-perf speaks to its user beside the results")]
fn complain(line: &str) {
    eprintln!("efa-perf: {line}");
}

/// What clap exits with, too.
const USAGE: u8 = 2;
