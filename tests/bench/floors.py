"""Large collectives of two ranks beside what the machine allows: the same bytes moved by programs that do nothing else.

On one host `memory_floor`, two threads that read both inputs where they lie and write the sum past the caches, beside
all_reduce out of place. Between two hosts `socket_floor`, two processes that send each other as many bytes at once over one
connection, beside all_gather in place, of whose result each rank has one half. Round after round, in turn.
"""

import json
import statistics
from dataclasses import dataclass, field

from . import job
from .collectives import Programs
from .report import size_words, time_words
from .testbed import Testbed

MEMORY_BYTES = (16 << 20, 64 << 20)
# What each side sends.
SOCKET_BYTES = (1 << 20, 4 << 20, 16 << 20)


@dataclass
class Row:
    """One size: ours by kind of buffer, and the floor; microseconds of each round."""

    what: str
    size_bytes: int
    floor_us: list[float] = field(default_factory=list)
    ours_us: dict[str, list[float]] = field(default_factory=dict)


def rows() -> list[Row]:
    """What is measured."""
    memory = [Row("all_reduce, one host", size) for size in MEMORY_BYTES]
    return memory + [Row("all_gather, two hosts", 2 * size) for size in SOCKET_BYTES]


def measure(testbed: Testbed, programs: Programs, all_rows: list[Row], rounds: int, progress) -> None:
    """Fills the rows."""
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for row in all_rows:
            (_on_one_host if row.what.endswith("one host") else _on_two_hosts)(testbed, programs, row)


def _on_one_host(_testbed: Testbed, programs: Programs, row: Row) -> None:
    floor = [programs.memory_floor, "--sizes", str(row.size_bytes), "--calls", str(CALLS)]
    row.floor_us.append(_column(job.run(floor, {}, DEADLINE_S).stdout, row.size_bytes))
    for kind, flags in (("heap", []), ("World::alloc", ["--arena"])):
        start = [programs.efarun, "-n", "2", "--oversubscribe", "--bind-to", "core"]
        argv = [*start, programs.efa_perf, "all_reduce", *_size(row), *flags]
        row.ours_us.setdefault(kind, []).append(_ours(job.run(argv, {}, DEADLINE_S).stdout, "out_of_place"))


def _on_two_hosts(testbed: Testbed, programs: Programs, row: Row) -> None:
    each = row.size_bytes // 2
    address = f"{testbed.address(testbed.hosts[0])}:{PORT}"
    flags = ["--max-bytes", str(each)]
    listen = testbed.command(testbed.hosts[0], [programs.socket_floor, "listen", address, *flags])
    connect = testbed.command(testbed.hosts[1], [programs.socket_floor, "connect", address, *flags])
    with job.beside(listen):
        row.floor_us.append(_column(job.run(connect, {}, DEADLINE_S).stdout, each))
    argv = [programs.efarun, "-H", ",".join(testbed.hosts[:2]), "-N", "1", programs.efa_perf, "all_gather", *_size(row)]
    output = job.run(testbed.command("head", argv), {}, DEADLINE_S)
    row.ours_us.setdefault("heap", []).append(_ours(output.stdout, "in_place"))


def _size(row: Row) -> list[str]:
    return ["-b", str(row.size_bytes), "-e", str(row.size_bytes), "-n", str(CALLS), "-w", "2", "-c", "1", "--json", "-"]


def _ours(stdout: str, half: str) -> float:
    report = json.loads(stdout)
    if report["out_of_bounds"]:
        raise job.JobFailed(f"{report['out_of_bounds']} elements were wrong")
    return report["results"][0][half]["time_us"]


def _column(table: str, size_bytes: int) -> float:
    """The second column of the row that begins with a size."""
    for line in table.splitlines():
        words = line.split()
        if words and words[0] == str(size_bytes):
            return float(words[1])
    raise job.JobFailed(f"there is no row of {size_bytes} bytes in: {table}")


def markdown(all_rows: list[Row], rounds: int, facts_line: str) -> str:
    """One row per size and kind of buffer."""
    lines = [
        facts_line,
        "",
        f"Median of {rounds} rounds.",
        "",
        "| | size | buffers | ours, us (min to max) | by programs that do nothing else, us | share of their rate |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for row in all_rows:
        floor = statistics.median(row.floor_us)
        for kind, times in row.ours_us.items():
            ours = statistics.median(times)
            spread = f"{time_words(ours)} ({time_words(min(times))} to {time_words(max(times))})"
            cells = [row.what, size_words(row.size_bytes), kind, spread, time_words(floor), f"{floor / ours:.0%}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def to_json(all_rows: list[Row], rounds: int, facts: dict[str, str]) -> dict:
    """Every time of every round."""
    found = [{"what": r.what, "size_bytes": r.size_bytes, "floor_us": r.floor_us, "ours_us": r.ours_us} for r in all_rows]
    return {"facts": facts, "rounds": rounds, "rows": found}


CALLS = 20
DEADLINE_S = 60
PORT = 7117
