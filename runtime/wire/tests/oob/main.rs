//! The out-of-band primitives over whole jobs in one thread: hubs and clients joined by queues that the test empties
//! in any order it likes.

mod behaviour;
mod model;
mod net;
mod refusals;
