"""Cold launches of a no-op on 2 to 64 hosts: efarun, its peers, and the floor under all of them.

Each *start* is one command, timed from outside until it has ended; rounds are interleaved. Cold means that nothing
runs beforehand and no process is left from the launch before; files that an earlier launch put into a cache on the
hosts are there, except where a start says *first ever*. The floor is as many bare SSH sessions as there are hosts,
at once, each running `true`.
"""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from . import job
from .contenders import Contender, all_contenders
from .testbed import Testbed

# How many hosts, and of so many rounds: a launch on 64 hosts takes two cores seconds.
HOSTS = {2: 1.0, 4: 1.0, 16: 0.5, 64: 0.25}
RANKS_PER_HOST = 2
NO_OP = ["true"]


@dataclass
class Start:
    """One way to start the no-op. `before` is run on every host first, unmeasured."""

    name: str
    group: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    before: list[str] | None = None
    seconds: list[float] = field(default_factory=list)
    tries: int = 0
    hangs: int = 0
    failure: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


def starts(efarun: str, floor: str, scratch: Path, hosts: list[str], peers: set[str]) -> list[Start]:
    """Every way there is, of the families in `peers` and our own."""
    quick_ssh = _wrapper(scratch, "ssh-curve25519", f"exec ssh -o KexAlgorithms={QUICK_EXCHANGE} \"$@\"")
    system_floor = _wrapper(scratch, "ssh-floor", _parallel(hosts, "ssh"))
    quick_floor = _wrapper(scratch, "ssh-floor-curve25519", _parallel(hosts, quick_ssh))
    first = ["rm", "-rf", "--"]
    ours = next(c for c in all_contenders() if c.release is None).argv(hosts, RANKS_PER_HOST, [], efarun)
    found = [
        Start("the measuring itself: `true` on the head", "floor", ["true"]),
        Start("bare sessions by efarun's own SSH", "floor", [floor, *hosts]),
        Start("bare sessions by `ssh`", "floor", [system_floor]),
        Start("bare sessions by `ssh`, curve25519", "floor", [quick_floor]),
        Start("efarun", "efarun", [*ours, *NO_OP]),
        Start("efarun, first ever on these hosts", "efarun", [*ours, *NO_OP], before=first),
        Start("efarun by `ssh`", "efarun", [*ours, "--launch-agent", "ssh", *NO_OP]),
        Start("efarun by `ssh`, curve25519", "efarun", [*ours, "--launch-agent", quick_ssh, *NO_OP]),
    ]
    seen: set[str] = set()
    for contender in all_contenders():
        if contender.release is None or contender.family in seen or contender.family not in peers:
            continue
        seen.add(contender.family)
        found.append(_peer(contender, hosts, contender.title, []))
        found.append(_peer(contender, hosts, f"{contender.title}, curve25519", AGENT_OPTIONS[contender.family], quick_ssh))
    return found


def measure(testbed: Testbed, all_starts: list[Start], rounds: int, progress) -> None:
    """Fills the starts with times, round after round."""
    caches = _cache_folders(testbed)
    deadline_s = DEADLINE_S + len(testbed.hosts) / 2
    for number in range(rounds + 1):
        progress("warming up" if number == 0 else f"round {number} of {rounds}")
        for start in all_starts:
            if start.failure is not None:
                continue
            if start.before:
                for host in testbed.hosts:
                    job.run(testbed.command(host, [*start.before, *caches]), {}, deadline_s)
            start.tries += 1
            try:
                seconds = job.run(testbed.command("head", start.argv), start.env, deadline_s).seconds
            except job.JobHung as hung:
                # Some launches of Open MPI 5 do: those that end are timed all the same, and the others counted.
                start.hangs += 1
                if not start.seconds and start.hangs == HANGS_MAX:
                    start.failure = str(hung)
                testbed.remake()
                _fill_caches(testbed, all_starts)
                continue
            except job.JobFailed as failure:
                start.failure = str(failure)
                continue
            # The first of each reads programs from the disk.
            if number > 0:
                start.seconds.append(seconds)


def _fill_caches(testbed: Testbed, all_starts: list[Start]) -> None:
    """Fresh hosts have no copy of efarun; one launch puts it there."""
    start = next(start for start in all_starts if start.group == "efarun")
    job.run(testbed.command("head", start.argv), start.env, DEADLINE_S + len(testbed.hosts) / 2)


def _peer(contender: Contender, hosts: list[str], name: str, option: list[str], agent: str | None = None) -> Start:
    argv = contender.argv(hosts, RANKS_PER_HOST, [], "")
    # Settings of MPI itself say nothing to `true`, and an option of the launcher's goes where they were.
    argv = argv[: len(argv) - len(contender.setting.argv)]
    return Start(name, contender.family, [*argv, *option, *([agent] if agent else []), *NO_OP], contender.env())


def _cache_folders(testbed: Testbed) -> list[str]:
    """Where efarun keeps itself on the hosts: the home folder has one path everywhere."""
    home = job.run(testbed.command("head", ["sh", "-c", "echo $HOME"]), {}, DEADLINE_S).stdout.strip()
    return [f"{home}/.cache/efarun"]


def _parallel(hosts: list[str], ssh: str) -> str:
    sessions = " ".join(f"{ssh} {host} true & p{host}=$!;" for host in hosts)
    return sessions + " ".join(f"wait $p{host} || exit 1;" for host in hosts)


def _wrapper(scratch: Path, name: str, body: str) -> str:
    path = scratch / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


# The default exchange of OpenSSH is a post-quantum one, which takes longer.
QUICK_EXCHANGE = "curve25519-sha256"
AGENT_OPTIONS = {
    "mpich": ["-launcher", "ssh", "-launcher-exec"],
    "openmpi5": ["--prtemca", "plm_ssh_agent"],
    "openmpi4": ["--mca", "plm_rsh_agent"],
}
# The slowest launch on few hosts takes a tenth of it; more hosts have more.
DEADLINE_S = 8
HANGS_MAX = 4
