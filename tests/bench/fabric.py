"""The runtime beside libfabric's own programs, on the same soft EFA devices, in turns.

Two processes of this machine on one device, manners none. One way of 64 B is what `fi_pingpong` calls a transfer, and half of
efarun's all_reduce by tree, in which one rank sends, the other answers. One way of many bytes is what fabtests' bandwidth
programs stream, which receive into the same memory over and over, and efarun's broadcast, whose every byte arrives in the
caller's own memory: any, or such as the World gives (`--arena`), where a p5's cards write to. fabtests are nobody's package: `--fabtests` names the folder where they were built
(`./configure --with-libfabric=… && make` in libfabric's `fabtests/`); without it only `fi_pingpong` is run.

What comes out is that of this machine's processor, which copies; it says nothing about EFA.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from .testbed import ROOT

DEVICES = ("p4d", "p5")
FABTESTS = ("fi_rdm_tagged_pingpong", "fi_rdm_pingpong", "fi_rdm_tagged_bw", "fi_rma_bw")
PROGRAM_LIMIT_S = 60


@dataclass
class Row:
    """One thing that is measured, by one program."""

    what: str
    program: str
    unit: str
    values: list[float] = field(default_factory=list)


class Devices:
    """Soft EFA devices that no other programs see."""

    def __init__(self, device: str):
        self.device = device
        options = ["--device", device, "--manners", "none", "--fabric", f"bench-{os.getpid()}", "--print-env"]
        words = subprocess.run([ROOT / "scripts" / "soft-efa", *options], capture_output=True, text=True, check=True).stdout
        self.env = {**os.environ, **dict(line.split("=", 1) for line in words.splitlines())}

    def run(self, argv: list[str], **more: str) -> str:
        """What a program prints."""
        env = {**self.env, **more}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=PROGRAM_LIMIT_S)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout

    def pair(self, argv: list[str], server_port: str, client_port: str) -> float:
        """Runs one of libfabric's programs as server and client; the last line's fields from the time on."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        server_argv = [*argv, *(word.format(port) for word in server_port.split())]
        server = subprocess.Popen(server_argv, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PROGRAM_LIMIT_S
            while not _listens(int(port)):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(argv)}: the server does not listen")
                time.sleep(0.01)
            said = self.run([*argv, *(word.format(port) for word in client_port.split()), "127.0.0.1"])
            server.wait(timeout=PROGRAM_LIMIT_S)
        finally:
            server.kill()
            server.wait()
        return said.splitlines()[-1]


def lack(fabtests: Path | None) -> str | None:
    """What is not there that is to be measured, with what to do about it."""
    if shutil.which("fi_pingpong") is None:
        return "there is no fi_pingpong: Debian has it in libfabric-bin (`scripts/setup test` installs it)"
    missing = [name for name in FABTESTS if fabtests and not os.access(fabtests / name, os.X_OK)]
    if missing:
        return (
            f"--fabtests {fabtests}: there is no {', '.join(missing)}: name the folder where libfabric's fabtests/ were built "
            "(./configure --with-libfabric=... && make), or leave the flag out to measure beside fi_pingpong alone"
        )
    return None


def measure(efarun: str, efa_perf: str, fabtests: Path | None, rounds: int, calls: int, say) -> dict[str, list[Row]]:
    """Everything on each kind of device, round after round; of short messages so many."""
    tables = {}
    for device in DEVICES:
        devices = Devices(device)
        rows = [(Row(what, program, unit), run) for what, program, unit, run in _contenders(devices, efarun, efa_perf, fabtests, calls)]
        for number in range(rounds):
            say(f"{device}: round {number + 1} of {rounds}")
            for row, run in rows:
                row.values.append(run())
        tables[device] = [row for row, _ in rows]
    return tables


def _contenders(devices: Devices, efarun: str, efa_perf: str, fabtests: Path | None, calls: int):
    def ours(argv: list[str], of_time, **more: str):
        command = [efarun, "-n", "2", "--oversubscribe", "-x", "EFARUN_LOCAL_TRANSPORT", *(word for name in more for word in ("-x", name)), efa_perf, *argv]
        return lambda: of_time(_time_us(devices.run(command, EFARUN_LOCAL_TRANSPORT="network", **more)))

    def theirs(program: str, argv: list[str], column: int):
        own = program == "fi_pingpong"
        path = program if own else str(fabtests / program)
        ports = ("-B {0}", "-P {0}") if own else ("-E={0}", "-E={0}")
        return lambda: float(devices.pair([path, "-p", "efa", *argv], *ports).split()[column])

    one_way, stream = "one way of 64 B", "1 MiB after 1 MiB"
    yield one_way, "fi_pingpong", "us", theirs("fi_pingpong", ["-e", "rdm", "-I", str(calls), "-S", "64"], -2)
    if fabtests:
        on_p4d = devices.device == "p4d"
        ping = ("fi_rdm_tagged_pingpong", "efa") if on_p4d else ("fi_rdm_pingpong", "efa-direct")
        yield one_way, ping[0], "us", theirs(ping[0], ["-f", ping[1], "-S", "64", "-I", str(calls)], -2)
    yield one_way, "efarun", "us", ours(
        ["all_reduce", "-b", "64", "-e", "64", "-n", str(calls)], lambda us: us / 2, EFARUN_ALGORITHM="tree"
    )
    if fabtests:
        if on_p4d:
            for size, name in ((256 << 10, "256 KiB after 256 KiB"), (1 << 20, stream)):
                argv = ["-f", "efa", "-S", str(size), "-I", "300"]
                yield name, "fi_rdm_tagged_bw", "MB/s", theirs("fi_rdm_tagged_bw", argv, -3)
        else:
            argv = ["-f", "efa-direct", "-o", "writedata", "-S", str(1 << 20), "-I", "300"]
            yield stream, "fi_rma_bw -o writedata", "MB/s", theirs("fi_rma_bw", argv, -3)
    for size, name in (("1M", "1 MiB"), ("16M", "16 MiB")):
        length = (1 << 20) * int(size[:-1])
        argv = ["broadcast", "-b", size, "-e", size, "-n", "60" if size == "1M" else "10"]
        of_time = lambda us, length=length: length / us
        yield f"broadcast of {name}", "efarun", "MB/s", ours(argv, of_time)
        yield f"broadcast of {name}", "efarun --arena", "MB/s", ours([*argv, "--arena"], of_time)


def markdown(tables: dict[str, list[Row]], rounds: int, facts_line: str) -> str:
    """The tables, as BENCHMARKING.md shows them."""
    lines = [facts_line, "", f"Best, and median, of {rounds} rounds in turns.", ""]
    for device, rows in tables.items():
        lines += [f"| {device} | program | best | median |", "|---|---|---|---|"]
        for row in rows:
            ordered = sorted(row.values, reverse=row.unit != "us")
            best, median = ordered[0], ordered[len(ordered) // 2]
            lines.append(f"| {row.what} | `{row.program}` | {best:.4g} {row.unit} | {median:.4g} |")
        lines.append("")
    return "\n".join(lines)


def to_json(tables: dict[str, list[Row]], facts: dict[str, str]) -> dict:
    """The same for programs."""
    rows = {device: [vars(row) for row in rows] for device, rows in tables.items()}
    return {"schema": "efarun-bench-fabric/1", "facts": facts, "devices": rows}


def _time_us(table: str) -> float:
    """The time of the last row of efa-perf's table, out of place."""
    rows = [line.split() for line in table.splitlines() if re.match(r"^\s+\d", line)]
    return float(rows[-1][5])


def _listens(port: int) -> bool:
    wanted = f":{port:04X}"
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
    return False
