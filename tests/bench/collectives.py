"""Collectives between hosts over TCP, one rank each unless said otherwise: efarun and its peers, round after round.

Given which contenders, collectives and sizes; answers for each the times of every round. Rounds are interleaved (A B
C D, A B C D, …) within a few sizes of one collective, so that a machine that slows down slows all of them. A
contender that hangs or fails is recorded with its last words and runs no more.
"""

import json
import statistics
from dataclasses import dataclass, field

from . import job
from .contenders import Contender
from .testbed import Testbed

COLLECTIVES = ("all_reduce", "broadcast", "all_gather", "reduce_scatter", "reduce", "barrier")
DEFAULT_COLLECTIVES = COLLECTIVES[:4]


@dataclass(frozen=True)
class Band:
    """Sizes that are timed over the same number of calls, in one job."""

    sizes_bytes: tuple[int, ...]
    iters: int


@dataclass
class Series:
    """What one contender did in one collective: microseconds per call, by size, in the order of rounds."""

    times_us: dict[int, list[float]] = field(default_factory=dict)
    failure: str | None = None
    has_hung: bool = False

    def median(self, size_bytes: int) -> float | None:
        times = self.times_us.get(size_bytes)
        return statistics.median(times) if times else None


@dataclass
class Result:
    """A whole run."""

    sizes_bytes: list[int]
    rounds: int
    bands: list[Band]
    series: dict[str, dict[str, Series]]  # collective, contender's key
    contenders: dict[str, Contender]


@dataclass(frozen=True)
class Programs:
    """Our binaries under measurement."""

    efarun: str
    efa_perf: str
    ssh_floor: str
    rank_flood: str
    socket_floor: str
    memory_floor: str


def bands_of(sizes_bytes: list[int], calls: tuple[tuple[int, int], ...] | None = None) -> list[Band]:
    """Cuts sizes where the number of calls changes, so that each size is timed over some tens of milliseconds. `calls` has
    pairs of a size and how many calls up to it."""
    bands: dict[int, list[int]] = {}
    for size in sizes_bytes:
        iters = next(iters for limit, iters in calls or ITERS if size <= limit)
        bands.setdefault(iters, []).append(size)
    return [Band(tuple(sizes), iters) for iters, sizes in bands.items()]


def program_of(contender: Contender, programs: Programs, collective: str, size: int, last: int, factor: int, iters: int):
    """The measuring program's command line: the same flags for ours and theirs."""
    flags = ["-b", str(size), "-e", str(last), "-f", str(factor), "-n", str(iters), "-w", "1", "-c", "1"]
    if contender.release:
        return [contender.release.perf, collective, *flags]
    return [programs.efa_perf, collective, *flags, "--json", "-"]


def parse(contender: Contender, collective: str, stdout: str) -> dict[int, float]:
    """Time by size from a program's output. Raises JobFailed when a result was wrong or nothing is there."""
    if contender.release:
        rows = [json.loads(line) for line in stdout.splitlines() if line.startswith("{")]
        times = {row["size_bytes"]: row["time_us"] for row in rows}
        wrong = sum(row["wrong"] for row in rows)
    else:
        report = json.loads(stdout)
        # MPI_Bcast has one buffer: its like is our call in place.
        half = "in_place" if collective == "broadcast" else "out_of_place"
        times = {row["size_bytes"]: row[half]["time_us"] for row in report["results"]}
        wrong = report["out_of_bounds"]
    if wrong:
        raise job.JobFailed(f"{wrong} elements were wrong")
    if not times:
        raise job.JobFailed("no row was printed")
    return times


class Measuring:
    """Runs jobs on a testbed's hosts, or the first few, with so many ranks on each, and files what they say."""

    def __init__(self, testbed: Testbed, programs: Programs, progress, hosts: int | None = None, per_host: int = 1):
        self.testbed = testbed
        self.hosts = testbed.hosts[:hosts]
        self.per_host = per_host
        self.programs = programs
        self.progress = progress

    def round(self, contenders: list[Contender], collective: str, band: Band, series: dict[str, Series]):
        """Every contender once, one after the other."""
        for contender in contenders:
            mine = series[contender.key]
            if mine.failure is not None:
                continue
            self.progress(f"{collective} {contender.key} from {band.sizes_bytes[0]} B")
            try:
                times = self._job(contender, collective, band)
            except job.JobFailed as failure:
                mine.failure = str(failure)
                mine.has_hung = isinstance(failure, job.JobHung)
                if mine.has_hung:
                    self.testbed.remake()
                continue
            for size in times:
                mine.times_us.setdefault(size, []).append(times[size])

    def _job(self, contender: Contender, collective: str, band: Band) -> dict[int, float]:
        sizes = band.sizes_bytes[:1] if collective == "barrier" else band.sizes_bytes
        factor = sizes[1] // sizes[0] if len(sizes) > 1 else 2
        even = all(after == before * factor for before, after in zip(sizes, sizes[1:]))
        times: dict[int, float] = {}
        for first, last in [(sizes[0], sizes[-1])] if even else [(size, size) for size in sizes]:
            program = program_of(contender, self.programs, collective, first, last, factor, band.iters)
            argv = contender.argv(self.hosts, self.per_host, program, self.programs.efarun)
            output = job.run(self.testbed.command("head", argv), contender.env(), DEADLINE_S)
            parsed = parse(contender, collective, output.stdout)
            if collective == "barrier":
                # Its row has the size that its program says, which is none.
                times[first] = next(iter(parsed.values()))
            else:
                # What was cut to a block per rank has a size of its own, and no row here.
                times |= {size: parsed[size] for size in parsed if size in sizes}
        return times


def best_peer(series: dict[str, Series], contenders: dict[str, Contender], size: int, family: str | None = None):
    """The fastest setting at a size, of one peer or of all: (median, key), or None."""
    found = [
        (median, key)
        for key, one in series.items()
        if contenders[key].family != "efarun"
        and (family is None or contenders[key].family == family)
        and (median := one.median(size)) is not None
    ]
    return min(found) if found else None


ITERS = ((32 << 10, 1000), (1 << 20, 200), (1 << 62, 20))
DEADLINE_S = 60
