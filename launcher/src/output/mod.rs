//! What people read: what ranks wrote, and what the launcher has to say.
//!
//! [`Terminal`] is the one place that writes to standard output and standard error. [`OutputMux`] puts the bytes
//! that ranks wrote through it, whole lines at a time, with Open MPI's tags where asked for ([`LineStyle`]), and into files
//! ([`RankFiles`]), shows lines of several ranks once where asked for, and keeps the last lines of each rank's standard error for the report of a failure.
//!
//! Both are told the time, neither waits for anything but the sink itself. What they buffer is bounded: one unfinished
//! line per stream of at most [`LONGEST_LINE_BYTES`], a few lines per rank, and [`FOLD_BYTES`] where lines are folded.

mod fd;
mod files;
mod fold;
mod line;
mod mux;
mod style;
mod terminal;

pub use fd::FdSink;
pub use files::{FilesError, RankFiles};
pub use fold::FOLD_BYTES;
pub use line::LONGEST_LINE_BYTES;
pub use mux::{OutputMux, PARTIAL_LINE_AGE};
pub use style::LineStyle;
pub use terminal::Terminal;
