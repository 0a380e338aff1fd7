"""The command line of `scripts/accept`, and the order of what it does.

All parts are gone through whether or not those before passed, so that one run tells all that is wrong. The files are
written anew after every part: what was found until then is there, too, when the run is ended.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, List, Tuple

from . import checks, counters, measure, page, pairs, probe
from .hosts import Hosts, HostsFailed

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = "efarun-accept/1"


def main(words: List[str]) -> int:
    """Accepts or refuses the hosts, and answers the exit code: 0, or 1 where anything is wrong."""
    cut = words.index("--") if "--" in words else len(words)
    args = parser().parse_args(words[:cut])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    efarun, efa_perf = programs_of(args.bin)
    report = Report(args)
    hosts = Hosts(efarun, args.hosts, words[cut + 1 :])
    try:
        hosts.bring(efa_perf)
        accept(hosts, args, report)
    except HostsFailed as failure:
        report.add("hosts", {}, [str(failure)], [])
    except KeyboardInterrupt:
        say(f"interrupted; what was found until then is in {report.stem}.json")
        return 130
    finally:
        hosts.clear_up()
    passed = report.finish()
    say(f"{'passed' if passed else 'did not pass'}; send back {report.stem}.json and {report.stem}.md")
    return 0 if passed else 1


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="scripts/accept",
        description="Says whether efarun works on EFA instances, and how fast.",
        epilog="Options of efarun's follow behind `--` and go to every run: -- -x NAME=VALUE.",
    )
    made.add_argument("hosts", metavar="HOSTS", help="a list as `efarun -H` takes it, or a hostfile")
    made.add_argument("--out", type=Path, default=Path("."), help="folder for the two files (this one)")
    made.add_argument("--quick", action="store_true", help="sizes that take a minute, to try it out")
    made.add_argument("--per-host", type=int, metavar="N", help="ranks per host of the last part (one per GPU)")
    made.add_argument("--bin", type=Path, help="folder with efarun and efa-perf; built unless given")
    return made


def accept(hosts: Hosts, args: argparse.Namespace, report: "Report") -> None:
    """Goes through the parts."""
    before = probe.ask(hosts)
    report.add("checks", {"hosts": before}, *checks.look_at(before))
    cards = checks.common_cards(before)
    per_host = args.per_host or checks.ranks_per_host(before)
    effort = measure.QUICK if args.quick else measure.WHOLE

    def part(name: str, work: Callable[[], Tuple[dict, List[str], List[str]]]) -> None:
        say(name)
        try:
            report.add(name, *work())
        except HostsFailed as failure:
            report.add(name, {}, [str(failure)], [])

    part("pairs", lambda: pairs.measure(hosts, [host["host"] for host in before], cards, effort))
    part("operations", lambda: measure.operations(hosts, effort))
    idle = probe.ask(hosts)
    part("sweep", lambda: measure.sweep(hosts, effort, 1))
    part("counters", lambda: counters.compare(idle, probe.ask(hosts)))
    if per_host > 1:
        part("crowd", lambda: measure.sweep(hosts, effort, per_host))


class Report:
    """What was found, as it grows, and its two files."""

    def __init__(self, args: argparse.Namespace):
        started = datetime.now(timezone.utc)
        args.out.mkdir(parents=True, exist_ok=True)
        self.stem = args.out / started.strftime("accept-%Y%m%d-%H%M%S")
        self.content = {
            "schema": SCHEMA,
            "hosts": args.hosts,
            "started": started.isoformat(timespec="seconds"),
            "quick": args.quick,
            "source": source(),
            "finished": False,
            "passed": False,
            "parts": [],
        }

    def add(self, name: str, result: dict, problems: List[str], notes: List[str]) -> None:
        """Takes in a part, and says what is wrong with it."""
        for problem in problems:
            say(f"{name}: {problem}")
        part = {"name": name, "passed": not problems, "problems": problems, "notes": notes, "result": result}
        self.content["parts"].append(part)
        self.write()

    def finish(self) -> bool:
        """Says whether all of it passed."""
        self.content["finished"] = True
        self.content["passed"] = all(part["passed"] for part in self.content["parts"])
        self.write()
        return self.content["passed"]

    def write(self) -> None:
        """Writes what there is."""
        self.stem.with_suffix(".json").write_text(json.dumps(self.content, indent=1) + "\n")
        self.stem.with_suffix(".md").write_text(page.of(self.content))


def programs_of(folder: "Path | None") -> Tuple[Path, Path]:
    """efarun and efa-perf: those of a folder, or built."""
    if folder is None:
        say("building efarun and efa-perf")
        cargo = shutil.which("cargo") or str(Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "bin" / "cargo")
        build = [cargo, "build", "--release", "--quiet", "-p", "efarun", "-p", "efarun-examples"]
        subprocess.run(build, cwd=str(ROOT), check=True)
        folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    found = folder / "efarun", folder / "efa-perf"
    for program in found:
        if not os.access(program, os.X_OK):
            raise SystemExit(f"accept: there is no {program}")
    return found


def source() -> str:
    """The commit that this is."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.decode().strip()


def say(line: str) -> None:
    """One line of progress."""
    print(f"accept: {line}", file=sys.stderr, flush=True)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt
