//! Programs that were built for MPICH, and what speaks PMI besides, under efarun.

mod mpich;
mod open_mpi;
mod support;
mod unruly;
