//! The launcher: `efarun HOSTS… PROGRAM`.
//!
//! The life of a job: [`cli`] turns the command line into a [`job::JobSpec`]; [`hostfile`] names the hosts;
//! [`spawn`] starts an [`agent`] on each of them, over SSH or as a child; each agent has a [`keeper`] beside it that
//! forks ranks and ends them; the agents report their nodes' facts; [`mapping`] places ranks and [`env`] makes their
//! environment, both pure; the agents launch; [`supervise`] watches until the last rank is reaped, with
//! [`bootstrap`] holding the links and [`output`] writing what ranks wrote; [`exit_code`] says what the shell sees.
#![deny(unsafe_code)]

pub mod agent;
pub mod bootstrap;
pub mod build_id;
pub mod cli;
pub mod env;
pub mod error;
pub mod exit_code;
pub mod hostfile;
pub mod job;
pub mod keeper;
pub mod link_io;
pub mod mapping;
pub mod output;
pub mod spawn;
pub mod supervise;

use std::process::ExitCode;

/// Runs the command line of this process to its end.
///
/// The first argument `__agent` or `__keeper` makes this process one of a node's two; both words are private between
/// builds of the launcher, come before the command line is parsed, and are in no help.
pub fn main_impl() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(word) if word == agent::ARGUMENT => agent::agent_main(),
        Some(word) if word == keeper::ARGUMENT => keeper::keeper_main(),
        _ => ExitCode::SUCCESS,
    }
}
