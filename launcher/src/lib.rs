//! The launcher: `efarun HOSTS… PROGRAM`.
//!
//! The life of a job: [`cli`] turns the command line into a [`job::JobSpec`]; [`hostfile`] names the hosts;
//! [`spawn`] starts an [`agent`] on each of them, over SSH or as a child; each agent has a [`keeper`] beside it that
//! forks ranks and ends them; the agents report their nodes' facts; [`mapping`] places ranks, [`binding`] chooses their cores
//! and [`mod@env`] makes their environment, all pure; the agents launch; [`supervise`] watches until the last rank is reaped, with
//! [`bootstrap`] holding the links and [`output`] writing what ranks wrote; [`exit_code`] says what the shell sees.
//! [`torchrun`] has what is different where the line is torchrun's.
#![deny(unsafe_code)]

pub mod agent;
pub mod binding;
pub mod bootstrap;
pub mod build_id;
pub mod cli;
pub mod env;
pub mod error;
mod exchange;
pub mod exit_code;
#[doc(hidden)]
pub mod fuzzing;
pub mod hostfile;
pub mod job;
pub mod keeper;
pub mod link_io;
pub mod linkage;
pub mod mapping;
pub mod output;
pub mod pmi;
pub mod pmix;
pub mod spawn;
pub mod supervise;
pub mod torchrun;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;
use std::time::Duration;

use crate::exit_code::ExitCause;
use crate::output::Terminal;

/// Runs the command line of this process to its end.
///
/// The first argument `__agent` or `__helper` makes this process one of a node's own; the words are private
/// between builds of the launcher, come before the command line is parsed, and are in no help.
pub fn main_impl() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let dialect = cli::dialect_of(&name);
    match args.next() {
        Some(word) if word == agent::ARGUMENT => agent::agent_main(),
        Some(word) if word == pmix::ARGUMENT => pmix::helper_main(),
        first => head_main(&name, dialect.into_iter().chain(first).chain(args)).into(),
    }
}

fn head_main(name: &OsStr, args: impl Iterator<Item = OsString>) -> ExitCause {
    let mut terminal = Terminal::process();
    let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let around = cli::Surroundings { env: &env, read: &|path| std::fs::read(path) };
    let spec = match cli::parse_called(name, args, around) {
        Ok(cli::Command::Run(spec)) => *spec,
        Ok(cli::Command::Print(text)) => {
            terminal.print(&text);
            return ExitCause::Success;
        }
        Err(error) => {
            terminal.error(&error);
            return error.exit_cause();
        }
    };
    drop(terminal);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(HEAD_THREADS).enable_all().build();
    match runtime {
        Ok(runtime) => {
            let cause = match spec.torchrun {
                Some(_) => runtime.block_on(torchrun::attempts::run(spec)),
                None => runtime.block_on(supervise::run(spec)),
            };
            // The resolver cannot be interrupted, and may be asking for a name that nobody wants to know any more.
            runtime.shutdown_timeout(END_PATIENCE);
            cause
        }
        Err(error) => {
            Terminal::process().error(format!("starting the launcher's threads: {error}"));
            ExitCause::Internal
        }
    }
}

/// The head seals and opens what all nodes say; one thread for that beside the one that decides is enough for
/// thousands of nodes, and leaves the cores of a shared machine to the ranks.
const HEAD_THREADS: usize = 2;

/// How long the head's threads may take to end.
const END_PATIENCE: Duration = Duration::from_secs(1);
