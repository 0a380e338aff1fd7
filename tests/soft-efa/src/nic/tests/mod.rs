//! Two devices, a wire in between that is a list, and memory that is an array.

mod bench;
mod errors;
mod manners;
mod operations;
