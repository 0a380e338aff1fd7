//! What people read: what ranks wrote, and what the launcher has to say.
//!
//! [`Terminal`] is the one place that writes to standard output and standard error. [`OutputMux`] puts the bytes
//! that ranks wrote through it, whole lines at a time, with Open MPI's tags where asked for ([`LineStyle`]), and into files
//! ([`RankFiles`]), and keeps the last lines of each rank's standard error for the report of a failure.
//!
//! Both are told the time, neither waits for anything but the sink itself. What they buffer is bounded: one unfinished
//! line per stream of at most [`LONGEST_LINE_BYTES`], and a few lines per rank.

mod fd;
mod files;
mod line;
mod mux;
mod style;
mod terminal;

pub use fd::FdSink;
pub use files::{FilesError, RankFiles};
pub use line::LONGEST_LINE_BYTES;
pub use mux::{OutputMux, PARTIAL_LINE_AGE};
pub use style::LineStyle;
pub use terminal::Terminal;
