"""Hosts to measure on: `scripts/testbed` for the length of a `with` block.

Promises that the hosts are gone when the block is left, by an exception or Ctrl-C too, and that what an earlier run
left because it was killed is cleared away first. Cannot outlive SIGKILL: the next run clears up.
"""

import os
import signal
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "testbed"
PREFIX = "bench-"


class Testbed:
    """`count` hosts h1, h2, … and the head, under a name that holds this process's id."""

    def __init__(self, count: int):
        self.count = count
        self.name = f"{PREFIX}{os.getpid()}"
        self.hosts = [f"h{i}" for i in range(1, count + 1)]

    def __enter__(self):
        clear_leftovers()
        self._up()
        return self

    def __exit__(self, *_):
        self._down()

    def remake(self):
        """Ends every process on the hosts and makes them afresh, after a job that hung."""
        self._down()
        self._up()

    def command(self, host: str, argv: list[str]) -> list[str]:
        """The command line that runs `argv` on a host, or on `head`, with the caller's environment."""
        return [str(SCRIPT), "--name", self.name, "exec", host, *argv]

    def address(self, host: str) -> str:
        """A host's address."""
        return f"10.88.0.{host.removeprefix('h')}"

    def _up(self):
        # In a session of its own, so that Ctrl-C cannot cut it off half-way.
        subprocess.run([SCRIPT, "--name", self.name, "up", str(self.count)], check=True, start_new_session=True)
        for host in [*self.hosts, "head"]:
            self._unpace(host)

    def _unpace(self, host: str):
        """Sees to it that a host's connections are not paced by its congestion control, as EC2's images have it: BBR,
        where it is the system's default, would slow all contenders by what it makes of a machine's own bridge."""
        if self._sysctl(host, CONGESTION).startswith("bbr"):
            for name in ("cubic", "reno"):
                self._sysctl(host, "-w", f"{CONGESTION}={name}")
                if self.congestion(host) == name:
                    return

    def congestion(self, host: str = "h1") -> str:
        """The congestion control of a host's connections."""
        return self._sysctl(host, CONGESTION)

    def _sysctl(self, host: str, *words: str) -> str:
        done = subprocess.run(self.command(host, ["sysctl", "-n", *words]), capture_output=True, text=True)
        return done.stdout.strip()

    def _down(self):
        _down(self.name)


def clear_leftovers():
    """Takes down testbeds of runs that no longer live."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))
    for entry in folder.glob(f"efarun-testbed-{PREFIX}*"):
        owner = entry.name.removeprefix(f"efarun-testbed-{PREFIX}")
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _down(f"{PREFIX}{owner}")


def _down(name: str):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        subprocess.run([SCRIPT, "--name", name, "down"], check=True, start_new_session=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def scratch(within: str | None = None) -> tempfile.TemporaryDirectory:
    """A folder that every host sees, unless it is made within another place; gone at the end of its `with` block."""
    return tempfile.TemporaryDirectory(prefix="efarun-bench-", dir=within)


CONGESTION = "net.ipv4.tcp_congestion_control"
ENDING_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
