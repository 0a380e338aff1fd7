//! A soft EFA device: libfabric's real EFA provider, on a machine that has no EFA card.
//!
//! The shared library takes the place of libibverbs and libefa under the provider (`LD_PRELOAD`), so that all of the
//! provider's own code runs: its protocols, its reorder windows, its handling of errors. What is soft is the card.
//! README.md tells who wants to use it how; this page tells who wants to change it where.
//!
//! # Decisions, and the shell around them
//!
//! Pure, seeded and tested without a socket:
//!
//! - [`profile`]: what an instance type's devices can do, and how much of it.
//! - [`manners`]: what the protocol permits (any order, twice, late), and the choices, all from one seed.
//! - [`fault`]: what breaks, where, and from when on.
//! - [`nic`]: the device. Work requests, frames and the time go in; frames, completions and wishes come out. It copies
//!   memory through a trait and knows links by number only.
//! - [`address`], [`status`]: GIDs that tell their host; EFA's completion codes.
//! - [`sysfs`]: what tools see under /sys, as data; and its writer.
//! - [`settings`]: all of that, from the environment.
//!
//! The shell:
//!
//! - [`medium`]: links. Within a host two rings in a memfd, handed over a Unix socket; between hosts TCP.
//! - [`engine`]: one lock around all devices of the process, its links and doors, and the thread that is the device
//!   while the program does not poll.
//! - [`ledger`]: counters that processes of a host share, and the files that show them.
//! - [`exports`], [`abi`]: verbs' functions and structs.
//!
//! Device memory is the one thing that is reached through somebody else: the driver that the program has loaded
//! (`engine/cuda.rs`), asked by the process that owns the memory.
//!
//! # What holds
//!
//! - An operation's bytes cross to the other process and are placed by *its* device, be it in its program's polling or
//!   in its thread: no process reaches into another, so that hosts may be namespaces, containers or machines.
//! - Nothing has a name that outlives its process: queue pairs are numbered by abstract sockets, rings are memfds. A
//!   process that is killed leaves nothing, and holds nothing that another waits for.
//! - The end of a peer is the end of its socket; silence is a deadline. The provider is told EFA's codes for both.
//! - Each link has one writer and one reader per direction; frames carry where their bytes belong. Order on a link means
//!   nothing to the device, which is why manners may change it at will.
#![deny(unsafe_code)]

pub mod abi;
pub mod address;
pub mod engine;
pub mod exports;
pub mod fault;
pub mod ledger;
pub mod manners;
pub mod medium;
pub mod nic;
pub mod profile;
pub mod report;
pub mod settings;
pub mod status;
pub mod sysfs;
