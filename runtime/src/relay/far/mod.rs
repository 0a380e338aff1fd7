//! Messages between single ranks of several nodes.
//!
//! A group of messages is one launch of a kernel of its own (`cuda/kernels/far_messages.cuh`), in which no message waits for
//! another: a peer may send and receive one behind the other what this rank does at the same time. [`messages`] says how they are
//! cut, [`parameters`] what the kernel is told.

pub(crate) mod messages;
pub(crate) mod parameters;
