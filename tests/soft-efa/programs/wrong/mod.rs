//! Consumers that rely on what EFA does not promise. Each works on a well-behaved network and fails on a soft device
//! with its manners on, by which they prove what the manners are good for.

mod last_byte;
mod no_receive;
mod order;
mod reuse;

pub(crate) use last_byte::last_byte;
pub(crate) use no_receive::no_receive;
pub(crate) use order::order;
pub(crate) use reuse::reuse;
