//! efarun's runtime library: the World that a rank belongs to, and the collectives on it.
//!
//! A rank makes a [`World`] and calls collectives on it. Under `efarun` everything it needs is inherited from its
//! agent; without a launcher it meets the other ranks at `EFARUN_BOOTSTRAP`. There are no globals: two Worlds in one
//! process are legal.
//!
//! Inside, a collective is a [`coll::schedule::Schedule`], plain data made by a pure generator; the
//! [`coll::executor`] is the only code that runs one, on any [`transport::Transport`].
#![deny(unsafe_code)]

pub mod bootstrap;
pub mod coll;
pub mod config;
pub mod cuda;
pub mod element;
pub mod error;
pub mod fabric;
mod leaf;

pub mod nvlink;
pub mod relay;
pub mod topology;
pub mod transport;
pub mod warning;
pub mod world;

pub use coll::select::{Algorithm, Choice};
pub use element::{Element, ElementType, ReduceOp};
pub use error::Error;
pub use world::{Elsewhere, Options, SharedBuffer, World};

pub use efarun_wire::Rank;
