//! The process manager's side of PMIx: what Open MPI asks whoever started it, so that ranks on several nodes become one
//! `MPI_COMM_WORLD`.
//!
//! PMIx is a library's interface and not a protocol: what a rank's libpmix says to its server's changes with the release,
//! and is libpmix's own business. So a server is libpmix too, opened at run time from where the program's own MPI has it
//! ([`candidates`]), in a process beside the agent: the **helper** ([`helper`]). Open MPI 4 has it inside its libopen-pal.
//!
//! The agent orders and the helper reports ([`protocol`]). What a node's libpmix has to say to those of other nodes goes
//! through the agent's [`Relay`], which is pure, and the job's out-of-band layer, as [`exchange`](crate::exchange) says. What libpmix is told of the job is
//! [`description`]; all that is unsafe is in [`library`].
//!
//! Not served: groups, allocation, monitors, credentials, fabrics, events between nodes. Ranks that ask for these are told "not
//! supported", and the agent names what they called, once.

pub mod candidates;
mod description;
mod helper;
mod library;
pub mod protocol;
mod relay;

pub use helper::{ARGUMENT, helper_main};
pub use relay::{Action, Relay};

#[cfg(test)]
mod tests;
