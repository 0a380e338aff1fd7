"""What ranks of one machine write flat out, through efarun to a file, beside `cat` of as many pipes to the same file.

Every row is run in turn, round after round; a row's figure is what arrived in the file divided by the time from the
start of the command to its end. What arrived is counted, so that nothing lost looks fast.
"""

import os
import shlex
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from . import job

RANKS = 8
LINE_BYTES = 64
RANK_MIB = 96
# What C's stdio writes to a pipe at a time, and what a program with a large buffer does.
BLOCKS_BYTES = (4096, 65536)


@dataclass
class Way:
    """One way to bring lines into a file."""

    name: str
    block_bytes: int
    argv: list[str]
    # What each line has in addition to what was written.
    prefix_bytes: int = 0
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def ways(efarun: str, flood: str, rank_mib: int) -> list[Way]:
    """efarun as it is and with tags, and `cat`, for each size of writes."""
    found = []
    for block in BLOCKS_BYTES:
        written = [flood, str((rank_mib << 20) // LINE_BYTES), "same", str(block)]
        one = "EFARUN_RANK=0 " + shlex.join(written)
        run = [efarun, "-n", str(RANKS), "--oversubscribe"]
        found.append(Way("`cat` of 8 pipes", block, ["bash", "-c", "exec cat" + f" <({one})" * RANKS]))
        found.append(Way("efarun", block, [*run, *written]))
        found.append(Way("efarun `--tag-output`", block, [*run, "--tag-output", *written], len("[1,0]<stdout>:")))
    return found


def measure(all_ways: list[Way], rank_mib: int, folder: Path, rounds: int, progress) -> None:
    """Fills the ways with rates, in bytes of the ranks' own per second. The folder should be in memory."""
    path = folder / "output"
    for number in range(rounds + 1):
        progress("warming up" if number == 0 else f"round {number} of {rounds}")
        for way in all_ways:
            with open(path, "wb") as file:
                seconds = job.run(way.argv, {}, DEADLINE_S, stdout=file).seconds
            lines = RANKS * (rank_mib << 20) // LINE_BYTES
            expected = lines * (LINE_BYTES + way.prefix_bytes)
            if os.path.getsize(path) != expected:
                raise SystemExit(f"bench: {way.name} brought {os.path.getsize(path)} bytes instead of {expected}")
            if number > 0:
                way.rates.append(lines * LINE_BYTES / seconds)
    path.unlink()


def markdown(all_ways: list[Way], rank_mib: int, rounds: int, facts_line: str) -> str:
    """One row per way."""
    lines = [
        facts_line,
        "",
        f"{RANKS} ranks of this machine write {rank_mib} MiB of lines each, flat out, to a file in memory; median of {rounds} rounds.",
        "",
        "| way | bytes per write | MB/s (min to max) | by `cat` |",
        "|---|---:|---:|---:|",
    ]
    for way in all_ways:
        cat = next(other for other in all_ways if other.block_bytes == way.block_bytes)
        rates = f"{way.median / 1e6:.0f} ({min(way.rates) / 1e6:.0f} to {max(way.rates) / 1e6:.0f})"
        lines.append(f"| {way.name} | {way.block_bytes} | {rates} | {way.median / cat.median:.2f} |")
    return "\n".join(lines) + "\n"


def to_json(all_ways: list[Way], rank_mib: int, rounds: int, facts: dict[str, str]) -> dict:
    """Every rate of every round, in bytes per second."""
    rows = [{"name": w.name, "block_bytes": w.block_bytes, "argv": w.argv, "rates": w.rates} for w in all_ways]
    return {"facts": facts, "ranks": RANKS, "rank_mib": rank_mib, "rounds": rounds, "ways": rows}


DEADLINE_S = 60
