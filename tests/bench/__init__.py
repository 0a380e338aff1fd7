"""Measures efarun beside MPICH and Open MPI, in one run on one machine. `scripts/bench` is its command."""
