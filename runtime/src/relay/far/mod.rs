//! Messages between single ranks of several nodes.
//!
//! A group of messages is one launch of a kernel of its own (`cuda/kernels/far_messages.cuh`), in which no message waits for
//! another: a peer may send and receive one behind the other what this rank does at the same time. Messages within the node can be passed
//! by the same launch, for the same reason. [`messages`] says how they are
//! cut, and [`parameters`] what the kernel is told. Each lane of the relay's has a part in it on the host: [`lane`] is what it knows,
//! [`doors`] how far its channels are, and [`session`] what it does.

mod doors;
pub(crate) mod lane;
pub(crate) mod messages;
pub(crate) mod parameters;
pub(crate) mod session;
#[cfg(test)]
mod tests;
