"""Collectives between processes of this machine: efarun and its peers, round after round.

The same programs, rounds and tables as between hosts (`collectives`), with other settings of the peers: what their
documentation offers for shared memory. Where every rank has a core, all contenders bind each to one; where ranks share
cores, nothing is bound and Open MPI yields while it waits, without which it takes a time slice per call.

A run has so many minutes. It goes round what there is to measure, a collective of one number of ranks at a time, and begins
with nothing for which there is no time left; what was measured in fewer rounds than the rest, or not at all, is named.
"""

import os
import time
from dataclasses import dataclass, field

from .collectives import COLLECTIVES, Band, Result, bands_of
from .contenders import Contender, Setting, mca
from .peers import RELEASES

DEFAULT_COLLECTIVES = ("all_reduce", "barrier", "broadcast", "all_gather", "reduce_scatter", "reduce")
SIZES_BYTES = [8 << power for power in range(24)]
# Three that are no powers of two, and cross what algorithms change at: 12 B, 3000 B and 3 MB.
ODD_SIZES_BYTES = [12, 3000, 3_000_000]
QUICK_SIZES_BYTES = [8 << power for power in range(0, 22, 3)]
# Where ranks share cores: fewer, as a call takes as many times longer as there are ranks to a core.
CROWDED_SIZES_BYTES = [8 << power for power in range(0, 22, 3)]
RANKS = (2, 4, 8)
QUICK_RANKS = (2,)
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
    # Of our measuring program, besides those that theirs has too.
    perf_flags: tuple[str, ...] = ()

    def argv(self, hosts: list[str], per_host: int, program: list[str], efarun: str) -> list[str]:
        total = ["-n", str(self.ranks)]
        binding = "core" if self.ranks <= self.cores else "none"
        if self.family == "efarun":
            program = [*program, *self.perf_flags]
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


def contenders(ranks: int, arena: bool = False) -> list[Contender]:
    """efarun first, on buffers of its own or not, then every peer at every setting."""
    cores = len(os.sched_getaffinity(0))
    own = ("--arena",) if arena else ()
    ours = [
        LocalContender("efarun", "efarun", setting, ranks=ranks, cores=cores, perf_flags=own) for setting in SETTINGS["efarun"]
    ]
    peers = [
        LocalContender(release.family, release.title, setting, release, ranks, cores)
        for release in RELEASES
        for setting in SETTINGS[release.family]
    ]
    return ours + peers


@dataclass
class Unit:
    """What is measured at a time: a collective of some ranks, as `key` tells them and `title` calls them, at every size, by
    every contender."""

    key: object
    title: str
    collective: str
    rounds: int = 0
    longest_s: float = 0.0


@dataclass
class Rounds:
    """Goes round the units until as many rounds are done as are wanted, or no time is left."""

    units: list[Unit]
    wanted: int
    minutes: float
    started: float = field(default_factory=time.monotonic)
    # How long the latest took.
    last_s: float = 0.0

    def __iter__(self):
        for number in range(self.wanted):
            for unit in self.units:
                # The first of all is measured in any case.
                expected_s = SLACK * (unit.longest_s or self.last_s)
                if (number or unit is not self.units[0]) and self.left_s() <= expected_s:
                    continue
                began = time.monotonic()
                yield unit
                self.last_s = time.monotonic() - began
                unit.rounds += 1
                unit.longest_s = max(unit.longest_s, self.last_s)

    def left_s(self) -> float:
        """Until the time is over; never negative."""
        return max(self.started + 60 * self.minutes - time.monotonic(), 0.0)

    def shortfalls(self) -> dict[str, str]:
        """What was measured in fewer rounds than wanted, for whoever reads the tables."""
        few = [unit for unit in self.units if unit.rounds < self.wanted]
        words = [f"{unit.collective} of {unit.title} {unit.rounds}" for unit in few]
        return {"rounds where time was short": "; ".join(words)} if words else {}


def units(ranks: list[int], collectives: list[str]) -> list[Unit]:
    """Those of few ranks first: they are the quickest."""
    return [Unit(count, f"{count} ranks", name) for count in ranks for name in collectives]


def sizes_for(ranks: int, quick: bool) -> list[int]:
    """The sizes that are measured between so many ranks, unless others are asked for."""
    if quick:
        return QUICK_SIZES_BYTES
    crowded = ranks > len(os.sched_getaffinity(0))
    return CROWDED_SIZES_BYTES if crowded else sorted(SIZES_BYTES + ODD_SIZES_BYTES)


def bands(sizes_bytes: list[int], ranks: int, quick: bool) -> list[Band]:
    """Sizes by number of calls; those that are no powers of two apart from those that are, so that each band goes by
    one factor and is one job."""
    crowded = ranks > len(os.sched_getaffinity(0))
    calls = CROWDED_CALLS if crowded else QUICK_CALLS if quick else CALLS
    even = [size for size in sizes_bytes if size & (size - 1) == 0]
    odd = [size for size in sizes_bytes if size & (size - 1) != 0]
    return bands_of(even, calls) + bands_of(odd, calls)


def leave_out_who_hung(result: Result, collective: str):
    """Whoever was not done in one collective is not waited for in the others."""
    for key, one in result.series[collective].items():
        if one.has_hung:
            for other in (each[key] for each in result.series.values() if key in each):
                other.failure = other.failure or f"not tried, as {collective} was not done in time"


def titled(results: dict[int, Result]) -> list[tuple[str, Result]]:
    """Each with what its tables' titles end in."""
    return [(f", {ranks} ranks", result) for ranks, result in results.items()]


# How many calls up to a size. A job takes half a second to begin, so that there are few bands; what is quick is called often,
# as at 0.2 us per call fewer calls than these take as long as the ranks' coming together.
CALLS = ((64 << 10, 10_000), (1 << 20, 400), (1 << 62, 20))
QUICK_CALLS = ((64 << 10, 1000), (1 << 20, 100), (1 << 62, 10))
# Where ranks share cores a call takes a time slice with some peers, and tens of microseconds with the others.
CROWDED_CALLS = ((32 << 10, 500), (1 << 62, 20))
# A round may take longer than the longest so far.
SLACK = 1.2
MINUTES, QUICK_MINUTES = 13.0, 1.5
