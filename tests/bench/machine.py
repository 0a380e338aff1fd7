"""What was measured, where and when: the facts without which a figure says nothing."""

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from .testbed import ROOT


def describe() -> dict[str, str]:
    """Machine, commit and date, as words."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "memory": memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "system": system(),
    }


def commit() -> str:
    """The commit that was built, marked where the working tree differs from it."""
    head = _git("rev-parse", "--short=9", "HEAD")
    return head + (" with changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def load_average() -> float:
    """Processes that wanted a core in the last minute: what else the machine did."""
    return os.getloadavg()[0]


def processor() -> str:
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def system() -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
