"""The peers: which releases, where they come from, and their compiled benchmark.

Each is a wheel of PyPI, pinned by digest, in a virtual environment of its own under `.cache/peers`, with
`mpi_perf.c` compiled by its own `mpicc`. What is there already is used as it is. A peer that cannot be had is
reported by name and reason; it is never left out silently.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .testbed import ROOT

SOURCE = ROOT / "tests" / "bench" / "mpi_perf.c"
CACHE = ROOT / ".cache" / "peers"


class PeerMissing(Exception):
    """Why a peer cannot be measured here."""


@dataclass(frozen=True)
class Release:
    """A peer as PyPI has it; the digest is that of the x86-64 wheel."""

    family: str
    package: str
    version: str
    sha256: str
    title: str

    @property
    def prefix(self) -> Path:
        return CACHE / f"{self.package}-{self.version}"

    def program(self, name: str) -> str:
        return str(self.prefix / "bin" / name)

    @property
    def installed(self) -> Path:
        return self.prefix / "installed"

    @property
    def perf(self) -> str:
        return str(self.prefix / "mpi_perf")


RELEASES = [
    Release(
        "mpich", "mpich", "5.0.2", "8fed465ebff269ea2ebac179a25de02671ddf8df476e0f115be089015015cfd4", "MPICH 5.0.2"
    ),
    Release(
        "openmpi5",
        "openmpi",
        "5.0.11",
        "838de0ec7fd719af19cde664cd6bf76eb170ed4769c279040c2db434d6db11b9",
        "Open MPI 5.0.11",
    ),
    Release(
        "openmpi4",
        "openmpi",
        "4.1.8",
        "bf78b707021e7709dc9c78713d00bf23eafaabb6967786f2f4cda8f2ce2643a3",
        "Open MPI 4.1.8",
    ),
]


def prepare(release: Release) -> None:
    """Installs a peer and compiles its benchmark, unless both are there and newer than their sources.

    Raises PeerMissing.
    """
    if not release.installed.exists():
        _install(release)
    perf = Path(release.perf)
    if not perf.exists() or perf.stat().st_mtime < SOURCE.stat().st_mtime:
        _call([release.program("mpicc"), "-O2", "-o", release.perf, str(SOURCE)], "its mpicc cannot compile mpi_perf.c")


def _install(release: Release) -> None:
    # A virtual environment knows its own path and cannot be moved into place whole: a mark says that it is complete.
    shutil.rmtree(release.prefix, ignore_errors=True)
    release.prefix.parent.mkdir(parents=True, exist_ok=True)
    wanted = release.prefix.parent / f"{release.prefix.name}.requirements.txt"
    wanted.write_text(f"{release.package}=={release.version} --hash=sha256:{release.sha256}\n")
    _call([sys.executable, "-m", "venv", "--without-pip", str(release.prefix)], "no virtual environment can be made")
    pip = [sys.executable, "-m", "pip", "--python", str(release.prefix / "bin" / "python"), "--quiet"]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(wanted)]
    try:
        _call([*pip, "install", *options], "its wheel cannot be had from PyPI")
    except PeerMissing:
        shutil.rmtree(release.prefix, ignore_errors=True)
        raise
    release.installed.touch()


def _call(argv: list[str], what: str) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(f"{what}: {error}") from None
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise PeerMissing(f"{what}: {words[-1] if words else f'status {done.returncode}'}")
