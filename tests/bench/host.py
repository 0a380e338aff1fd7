"""Collectives between processes of this machine: efarun and its peers, round after round.

The same programs, rounds and tables as between hosts (`collectives`), with other settings of the peers: what their
documentation offers for shared memory. Where every rank has a core, all contenders bind each to one; where ranks share
cores, nothing is bound and Open MPI yields while it waits, without which it takes a time slice per call.
"""

import os
from dataclasses import dataclass

from .collectives import COLLECTIVES, Band, Result, bands_of
from .contenders import Contender, Setting, mca
from .peers import RELEASES

DEFAULT_COLLECTIVES = ("all_reduce", "barrier", "broadcast", "reduce")
SIZES_BYTES = [8 << power for power in range(24)]
# Three that are no powers of two, and cross what algorithms change at: 12 B, 3000 B and 3 MB.
ODD_SIZES_BYTES = [12, 3000, 3_000_000]
QUICK_SIZES_BYTES = [8 << power for power in range(0, 24, 3)] + [64 << 20]
RANKS = (2, 4, 8)
assert set(DEFAULT_COLLECTIVES) <= set(COLLECTIVES)


class Here:
    """This machine, in the place of a testbed."""

    hosts = ["localhost"]

    def command(self, _host: str, argv: list[str]) -> list[str]:
        return argv

    def remake(self):
        """There is nothing to make afresh: a job that hung was ended with all of its session."""


@dataclass(frozen=True)
class LocalContender(Contender):
    """A family at one setting, for ranks of this machine."""

    ranks: int = 2
    cores: int = 2

    def argv(self, hosts: list[str], per_host: int, program: list[str], efarun: str) -> list[str]:
        total = ["-n", str(self.ranks)]
        binding = "core" if self.ranks <= self.cores else "none"
        if self.family == "efarun":
            return [efarun, *total, "--oversubscribe", "--bind-to", binding, *self.setting.argv, *program]
        if self.family == "mpich":
            start = [self.release.program("mpiexec"), *total, "-bind-to", binding]
        else:
            start = [self.release.program("mpirun"), "--prefix", str(self.release.prefix), *total]
            start += ["--bind-to", binding]
            if self.ranks > self.cores:
                start += ["--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]
        return [*start, *self.setting.argv, *program]


SM4, SM5 = ("pml=ob1", "btl=self,vader"), ("pml=ob1", "btl=self,sm")
DYNAMIC = "coll_tuned_use_dynamic_rules=1"

SETTINGS: dict[str, list[Setting]] = {
    "efarun": [Setting("default", usual=True)],
    "mpich": [
        Setting("default", usual=True),
        Setting("ofi", env={"MPIR_CVAR_CH4_NETMOD": "ofi"}, usual=True),
        Setting("ucx, shared memory", env={"MPIR_CVAR_CH4_NETMOD": "ucx", "UCX_TLS": "self,sm"}),
    ],
    "openmpi5": [
        mca("shared memory", *SM5, usual=True),
        mca("shared memory, xhc", *SM5, "coll_xhc_priority=100", usual=True),
        mca("shared memory, han", *SM5, "coll_han_priority=100"),
        mca("shared memory, Rabenseifner", *SM5, DYNAMIC, "coll_tuned_allreduce_algorithm=6", only=("all_reduce",)),
        mca("shared memory, recursive doubling", *SM5, DYNAMIC, "coll_tuned_allreduce_algorithm=3", only=("all_reduce",)),
    ],
    "openmpi4": [
        mca("shared memory", *SM4, usual=True),
        mca("shared memory, single copy", *SM4, "btl_vader_single_copy_mechanism=cma", usual=True),
        mca("shared memory, two copies", *SM4, "btl_vader_single_copy_mechanism=none"),
        mca("shared memory, Rabenseifner", *SM4, DYNAMIC, "coll_tuned_allreduce_algorithm=6", only=("all_reduce",)),
    ],
}


def contenders(ranks: int) -> list[Contender]:
    """efarun first, then every peer at every setting."""
    cores = len(os.sched_getaffinity(0))
    ours = [LocalContender("efarun", "efarun", setting, ranks=ranks, cores=cores) for setting in SETTINGS["efarun"]]
    peers = [
        LocalContender(release.family, release.title, setting, release, ranks, cores)
        for release in RELEASES
        for setting in SETTINGS[release.family]
    ]
    return ours + peers


def bands(sizes_bytes: list[int], ranks: int) -> list[Band]:
    """Sizes by number of calls; those that are no powers of two apart from those that are, so that each band goes by
    one factor and is one job."""
    calls = CALLS if ranks <= len(os.sched_getaffinity(0)) else CROWDED_CALLS
    even = [size for size in sizes_bytes if size & (size - 1) == 0]
    odd = [size for size in sizes_bytes if size & (size - 1) != 0]
    return bands_of(even, calls) + bands_of(odd, calls)


def titled(results: dict[int, Result]) -> list[tuple[str, Result]]:
    """Each with what its tables' titles end in."""
    return [(f", {ranks} ranks", result) for ranks, result in results.items()]


# How many calls up to a size: at 0.2 us per call fewer than these take as long as the ranks' coming together.
CALLS = ((4 << 10, 20_000), (64 << 10, 4_000), (1 << 20, 400), (1 << 62, 20))
# Where ranks share cores a call takes a time slice with some peers, and tens of microseconds with the others.
CROWDED_CALLS = ((32 << 10, 1_000), (1 << 20, 200), (1 << 62, 10))
