"""One timed command: run with a deadline, and ended by its id when it passes it.

Answers what the command printed and how long it took. Nothing it started on this machine's side survives it; what a
hung job leaves on the hosts goes with the testbed, which the caller makes afresh.
"""

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass


class JobFailed(Exception):
    """A command that ended badly; the text is what it last said."""


class JobHung(JobFailed):
    """A command that passed its deadline."""


@dataclass
class Output:
    """What came of a command that succeeded."""

    stdout: str
    stderr: str
    seconds: float


def run(argv: list[str], env: dict[str, str], deadline_s: float, stdout=subprocess.PIPE) -> Output:
    """Runs a command to its end, with `env` on top of this process's environment and nothing on its input.

    Its standard output may go into a file instead of the answer.

    Raises JobHung or JobFailed.
    """
    start = time.monotonic()
    child = subprocess.Popen(
        argv,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, stderr = child.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        said, stderr = _end(child)
        raise JobHung(f"not done after {deadline_s:.0f} s; last words: {_last_words(said or '', stderr)}") from None
    except BaseException:
        _end(child)
        raise
    seconds = time.monotonic() - start
    if child.returncode != 0:
        raise JobFailed(f"ended with {child.returncode}: {_last_words(said or '', stderr)}")
    return Output(said or "", stderr, seconds)


@contextmanager
def beside(argv: list[str]):
    """Runs a command for the length of a `with` block, at whose end it ends by itself or is ended."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        yield
        child.communicate(timeout=2)
    finally:
        if child.poll() is None:
            _end(child)


def _end(child: subprocess.Popen) -> tuple[str, str]:
    """TERM, and KILL after two seconds, to the session that `run` made for the child."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            pass
        try:
            return child.communicate(timeout=2)
        except subprocess.TimeoutExpired:
            continue
    return "", ""


def _last_words(stdout: str, stderr: str) -> str:
    lines = [line.strip() for line in (stdout + "\n" + stderr).splitlines() if any(c.isalnum() for c in line)]
    return " / ".join(lines[-6:])[:600] or "none"
