//! `efa-perf`
mod args;
mod data;
mod measure;
mod report;
mod sweep;
mod table;
fn main() {}
