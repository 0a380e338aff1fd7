"""MPI_Init to MPI_Finalize of a program that does nothing, by efarun and by each library's own launcher, in turns.

A time is that of the slowest rank, which each measures for itself; beside it stands the whole command's, from outside. The
same binary with the same settings is started by both, on up to four hosts.
"""

import re
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from . import job
from .contenders import Contender
from .report import facts_line
from .testbed import Testbed

RANKS = (2, 8, 32)
HOSTS = 4
SOURCE = Path(__file__).with_name("mpi_init.c")
SETTINGS = {"mpich": "ofi tcp", "openmpi5": "tcp"}


@dataclass
class Way:
    """A library, started by one of the two."""

    contender: Contender
    is_ours: bool
    ranks: int
    argv: list[str]
    env: dict[str, str]
    inside: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def ways(contenders: list[Contender], efarun: str, folder: Path, hosts: list[str], wanted: list[int]) -> list[Way]:
    """Every wanted number of ranks, for each library that there is, by efarun and by its own launcher."""
    found = []
    for contender in contenders:
        if SETTINGS.get(contender.family) != contender.setting.name:
            continue
        program = str(folder / contender.family)
        subprocess.run([contender.release.program("mpicc"), "-O2", "-o", program, str(SOURCE)], check=True)
        for ranks in wanted:
            used = hosts[: min(ranks, HOSTS)]
            own = contender.argv(used, ranks // len(used), [program], "")
            env = contender.env()
            found.append(Way(contender, True, ranks, _ours(contender, efarun, used, ranks, program), {}))
            found.append(Way(contender, False, ranks, own, env))
    return found


def _ours(contender: Contender, efarun: str, hosts: list[str], ranks: int, program: str) -> list[str]:
    """The same settings, which Open MPI's launcher passes on as variables."""
    words = list(contender.setting.argv)
    mca = {f"OMPI_MCA_{words[at + 1]}": words[at + 2] for at in range(0, len(words), 3)}
    prefix = {"OPAL_PREFIX": str(contender.release.prefix)} if contender.family == "openmpi5" else {}
    named = {**contender.setting.env, **mca, **prefix}
    each = [word for name, value in named.items() for word in ("-x", f"{name}={value}")]
    slots = ",".join(f"{host}:{ranks // len(hosts)}" for host in hosts)
    return [efarun, "-H", slots, "-n", str(ranks), *each, program]


def measure(testbed: Testbed, all_ways: list[Way], rounds: int, progress) -> None:
    """Fills the ways with times, round after round; the first, in which files are read from the disk, does not count."""
    for number in range(rounds + 1):
        progress("warming up" if number == 0 else f"round {number} of {rounds}")
        for way in all_ways:
            try:
                output = job.run(testbed.command("head", way.argv), way.env, DEADLINE_S)
            except job.JobFailed as failure:
                way.failures.append(str(failure))
                if isinstance(failure, job.JobHung):
                    testbed.remake()
                continue
            seconds = [float(text) for text in re.findall(rf"^{way.ranks} ranks (\S+) s$", output.stdout, re.MULTILINE)]
            if len(seconds) != way.ranks:
                way.failures.append(f"{len(seconds)} ranks of {way.ranks} said that they were one world")
            elif number > 0:
                way.inside.append(max(seconds))
                way.whole.append(output.seconds)


def markdown(all_ways: list[Way], rounds: int, facts: dict[str, str]) -> str:
    """A row for each library and number of ranks: ours, its own launcher's, and the ratio."""
    lines = [
        facts_line(facts),
        "",
        f"Milliseconds, medians of {rounds} rounds in turns; the ratio is efarun's by the library's own launcher's.",
        "",
        "| library | ranks | MPI_Init to MPI_Finalize: efarun | its own | ratio | whole command: efarun | its own | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for ours, own in zip(all_ways[::2], all_ways[1::2]):
        cells = [*_cells(ours.inside, own.inside), *_cells(ours.whole, own.whole)]
        lines.append(f"| {ours.contender.title} | {ours.ranks} | {' | '.join(cells)} |")
    failed = [way for way in all_ways if way.failures]
    lines += [""] if failed else []
    for way in failed:
        who = "efarun" if way.is_ours else "its own launcher"
        lines.append(f"- {way.contender.title}, {way.ranks} ranks, {who}: {len(way.failures)} failed; {way.failures[0]}")
    return "\n".join(lines) + "\n"


def _cells(ours: list[float], own: list[float]) -> list[str]:
    shown = [f"{1000 * statistics.median(times):.0f}" if times else "-" for times in (ours, own)]
    if not (ours and own):
        return [*shown, "-"]
    ratio = statistics.median(ours) / statistics.median(own)
    return [*shown, f"**{ratio:.2f}**" if ratio > 1 else f"{ratio:.2f}"]


def to_json(all_ways: list[Way], rounds: int, facts: dict[str, str]) -> dict:
    """Every time of every round."""
    def row(way: Way) -> dict:
        return {
            "library": way.contender.title,
            "launcher": "efarun" if way.is_ours else "own",
            "ranks": way.ranks,
            "argv": way.argv,
            "init_to_finalize_s": way.inside,
            "whole_s": way.whole,
            "failures": way.failures,
        }

    return {"facts": facts, "rounds": rounds, "ways": [row(way) for way in all_ways]}


# 32 ranks that spin on two cores take seconds; a launch that hangs is counted as failed.
DEADLINE_S = 40
