"""Collectives between several nodes over TCP, one rank or more on each: efarun and its peers, round after round.

The programs, settings and tables are those of two nodes (`collectives`), a run's minutes those of one (`host`). The nodes are
namespaces of this machine, whose cores all ranks share: with more ranks than cores a figure says how well a contender gives way
while it waits as much as how well it sends. So Open MPI takes part with `mpi_yield_when_idle`, too.
"""

import os
from dataclasses import dataclass

from .collectives import Band, Result, bands_of
from .contenders import Contender, all_contenders
from .host import Unit

DEFAULT_COLLECTIVES = ("all_reduce", "broadcast", "all_gather", "reduce_scatter", "reduce", "barrier")
# By one factor, so that what is called as often is one job.
SIZES_BYTES = [8 * 16**power for power in range(6)]
MINUTES, QUICK_MINUTES = 12.0, 1.0


@dataclass(frozen=True)
class Layout:
    """So many ranks on each of so many nodes."""

    nodes: int
    per_node: int

    @property
    def title(self) -> str:
        return f"{self.nodes} nodes of {self.per_node} rank{'' if self.per_node == 1 else 's'}"

    @property
    def name(self) -> str:
        return f"{self.nodes}x{self.per_node}"

    @property
    def is_crowded(self) -> bool:
        return self.nodes * self.per_node > len(os.sched_getaffinity(0))


def layouts_of(text: str) -> list[Layout]:
    """`4x1,2x2`: nodes and ranks on each. Raises ValueError."""
    found = [Layout(*(int(word) for word in one.split("x", 1))) for one in text.split(",")]
    if any(one.nodes < 2 or one.per_node < 1 for one in found):
        raise ValueError("two nodes and one rank are the least")
    return found


def contenders(layout: Layout) -> list[Contender]:
    """Everyone, with those settings marked as usual that give way where cores are shared."""
    return [c for c in all_contenders() if c.setting.usual or (layout.is_crowded and c.setting.name == "tcp, yield")]


def bands(sizes_bytes: list[int], layout: Layout) -> list[Band]:
    """Sizes by number of calls."""
    return bands_of(sizes_bytes, CROWDED_CALLS if layout.is_crowded else None)


def units(layouts: list[Layout], collectives: list[str]) -> list[Unit]:
    """One layout after the other."""
    return [Unit(layout, layout.title, name) for layout in layouts for name in collectives]


def titled(results: dict[Layout, Result]) -> list[tuple[str, Result]]:
    """Each with what its tables' titles end in."""
    return [(f", {layout.title}", result) for layout, result in results.items()]


# A call takes a time slice or more with whoever does not give way.
CROWDED_CALLS = ((32 << 10, 200), (1 << 62, 20))
LAYOUTS = (Layout(4, 1), Layout(2, 2))
