//! Programs that were built for MPI libraries, and what speaks PMI besides, under efarun.

mod beyond;
mod bytes;
mod failures;
mod mpich;
mod open_mpi;
mod port;
mod python;
mod sessions;
mod spawn;
mod support;
mod unruly;
mod worlds;
