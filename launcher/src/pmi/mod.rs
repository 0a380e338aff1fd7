//! The process manager's side of PMI-1 and PMI-2: what MPICH, Intel MPI, MVAPICH and their like ask whoever started
//! them, so that ranks on several nodes become one `MPI_COMM_WORLD`.
//!
//! [`Server`] is one node's server. It is given the bytes that ranks write to the sockets that PMI_FD names, what other
//! nodes' servers contribute and ask ([`exchange`](crate::exchange)), and how ranks end; it gives [`Action`]s. It does no I/O and knows no clock: the
//! agent moves the bytes and carries the actions out.
//!
//! - What describes the job (size, mapping of ranks to nodes, universe size, program number) is answered here, and so is
//!   every key that this node knows. What ranks `put` travels with the next barrier, all of a node's in one message; a
//!   key that is asked for before that is looked for on the other nodes, one after the other.
//! - A barrier, over the world or over some ranks, is one allgather of the job's out-of-band layer under an id of
//!   `peers::ID_PREFIX`. One whose ranks are all on this node does not leave it.
//! - Published names are kept by the server of node 0.
//! - A program may initialise PMI again after it has finalised it, and so may another program after it in the same rank
//!   (`sh -c 'a; b'`): each time is a *generation* with keys and a name of its own.
//! - What ranks send is untrusted. A rank that does not follow the protocol between its init and its finalise, or that
//!   ends there with code 0, is [`Action::Broke`]: the others cannot go on without it. Before and after that it only loses
//!   its socket.
//! - A rank may ask for further worlds of the job. A server has clients of several, and keys are a world's own.
//! - A rank that was given a port instead of a descriptor says who it is first ([`Greeting`]).

mod barriers;
mod between;
mod client;
mod ends;
mod framing;
mod greeting;
mod groups;
mod keys;
mod peers;
mod pmi1;
mod pmi2;
mod process_mapping;
mod request;
mod server;
mod spawning;

pub use greeting::{Greeted, Greeting, Ids};
pub use server::{Action, Server};

#[cfg(test)]
mod tests;
