"""The hosts, and the one way to them: efarun itself.

Given efarun, the hosts and the options that go to every run, runs commands as ranks on the hosts, each with a deadline
that efarun keeps and clears up after. Brings a program to a folder of its own on every host, and takes the folder away
again. Changes nothing else there.
"""

import secrets
import shlex
import subprocess
from pathlib import Path
from typing import List, NamedTuple


class HostsFailed(Exception):
    """The hosts could not be asked at all; the text is what efarun said."""


class Done(NamedTuple):
    """A run that has ended."""

    code: int
    stdout: str
    stderr: str

    def complaint(self) -> str:
        """How it ended and its first words, where it did not end well."""
        said = [line for line in self.stderr.splitlines() if any(c.isalnum() for c in line)]
        errors = [line for line in said if "error" in line.lower()] or said
        return f"it ended with code {self.code}: " + " / ".join(errors[:SHOWN_LINES])


class Hosts:
    """Two hosts or more."""

    def __init__(self, efarun: Path, hosts: str, options: List[str]):
        named = ["--hostfile", hosts] if Path(hosts).is_file() else ["-H", hosts]
        self.base = [str(efarun), *named, "--oversubscribe", *options]
        self.folder = f"/tmp/efarun-accept-{secrets.token_hex(8)}"
        self.is_brought = False

    @property
    def efa_perf(self) -> str:
        """Where efa-perf is on every host."""
        return f"{self.folder}/efa-perf"

    def bring(self, efa_perf: Path) -> None:
        """Puts efa-perf onto every host; hosts may share the folder."""
        self.is_brought = True
        folder = shlex.quote(self.folder)
        # Whole or not at all, as another host may be writing the same file.
        script = (
            f"umask 077 && mkdir -p {folder} && draft={folder}/draft-$(hostname)-$$ && cat >$draft && "
            f"chmod 700 $draft && mv $draft {folder}/efa-perf"
        )
        with open(efa_perf, "rb") as program:
            done = self.run(["--stdin", "all"], ["sh", "-c", script], 300, program)
        if done.code:
            raise HostsFailed(f"efa-perf could not be brought to the hosts: {done.complaint()}")

    def clear_up(self) -> None:
        """Takes the folder away. What cannot be reached any more keeps it."""
        if self.is_brought:
            self.run([], ["rm", "-rf", self.folder], 120)

    def run(self, options: List[str], command: List[str], limit_s: int, stdin=None, per_host: int = 1) -> Done:
        """Runs a command as so many ranks on every host, to its end or for `limit_s` seconds."""
        words = [*self.base, "-N", str(per_host), "--timeout", str(limit_s), *options, "--", *command]
        child = subprocess.Popen(
            words,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            # efarun ends the job itself, and has the time that connecting takes on top.
            stdout, stderr = child.communicate(timeout=limit_s + CONNECTING_S)
        except BaseException:
            stdout, stderr = end(child)
            raise
        return Done(child.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def end(child: "subprocess.Popen[bytes]") -> "tuple[bytes, bytes]":
    """Lets efarun end its ranks, and ends efarun where it does not."""
    child.terminate()
    try:
        return child.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()


CONNECTING_S = 90
SHOWN_LINES = 4
