"""The command line of `scripts/bench`, and the order of what it does."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

from . import collectives, fabric, floors, host, launch, launch_report, machine, mpi_init, nodes, output, peers, plot, report
from .collectives import Band, Measuring, Programs, Result, bands_of
from .contenders import Contender, all_contenders
from .testbed import ROOT, Testbed, scratch


def main(words: list[str]) -> int:
    """Runs one benchmark, and answers the exit code."""
    args = parser().parse_args(words)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    out = args.out or ROOT / ".cache" / "bench" / datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    out.mkdir(parents=True, exist_ok=True)
    try:
        if args.what in ("collectives", "all"):
            run_collectives(args, out)
        if args.what in ("host", "all"):
            run_host(args, out)
        if args.what in ("nodes", "all"):
            run_nodes(args, out)
        if args.what in ("floors", "all"):
            run_floors(args, out)
        if args.what in ("launch", "all"):
            run_launch(args, out)
        if args.what in ("output", "all"):
            run_output(args, out)
        if args.what in ("mpi-init", "all"):
            run_mpi_init(args, out)
        if args.what == "fabric":
            run_fabric(args, out)
    except KeyboardInterrupt:
        say("interrupted; the hosts are gone")
        return 130
    say(f"results are in {out}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="scripts/bench", description="Measures efarun beside MPICH and Open MPI.")
    made.add_argument("what", choices=["collectives", "host", "nodes", "floors", "launch", "output", "mpi-init", "fabric", "all"], help="what to measure")
    made.add_argument("--quick", action="store_true", help="fewer sizes, rounds and ranks, unless said otherwise")
    made.add_argument("--rounds", type=int, help="how often each is run (collectives, host and nodes 5, launches 11, the others 7)")
    made.add_argument("--sizes", type=sizes_of, help="sizes instead of 8 B to 16 MiB, or 64 MiB, by factors of 2: 8,64K,1M")
    made.add_argument("--ranks", type=sizes_of, help="how many on this machine: 2,4,8; for mpi-init in all: 2,8,32")
    made.add_argument("--arena", action="store_true", help="host: efarun's buffers are those that it gives (World::alloc)")
    made.add_argument("--layouts", type=layouts_of, default=list(nodes.LAYOUTS), help="nodes and ranks on each, for nodes: 4x1,2x2")
    made.add_argument("--minutes", type=float, help="how long host (13; 1.5 if quick) or nodes (12; 1) may take, but for preparing")
    made.add_argument("--hosts", type=sizes_of, default=list(launch.HOSTS), help="launches on how many: 2,4,16,64")
    made.add_argument("--mib", type=int, default=output.RANK_MIB, help="how much each rank writes (96 MiB)")
    made.add_argument("--collectives", type=lambda text: text.split(","), help="which, by efa-perf's names")
    made.add_argument("--peers", type=lambda text: text.split(","), help="which: mpich, openmpi5, openmpi4")
    made.add_argument("--settings", choices=["usual", "all"], default="usual", help="which settings of the peers")
    made.add_argument("--fabtests", type=Path, metavar="FOLDER", help="libfabric's own benchmarks, as they were built; for fabric")
    made.add_argument("--no-peers", action="store_true", help="efarun alone")
    made.add_argument("--out", type=Path, help="folder for the results (.cache/bench/DATE)")
    made.add_argument("--update", type=Path, metavar="DOCUMENT", help="put the tables between the marks of a document")
    made.add_argument("--bin", type=Path, help="folder with efarun and efa-perf; built unless given")
    return made


def run_collectives(args: argparse.Namespace, out: Path) -> None:
    """Measures collectives and writes the results."""
    programs = programs_of(args.bin)
    contenders, absent = available(args, all_contenders())
    wanted = args.collectives or list(collectives.DEFAULT_COLLECTIVES)
    ours = operations_of(programs.efa_perf)
    sizes = args.sizes or (QUICK_SIZES_BYTES if args.quick else SIZES_BYTES)
    rounds = args.rounds or (3 if args.quick else 5)
    for name in wanted:
        if name not in ours:
            absent[f"efarun's {name}"] = "this efa-perf does not have it"
    facts = {**machine.describe(), "load when it began": f"{machine.load_average():.1f}", **absent}
    result = Result(sizes, rounds, bands_of(sizes), {}, {c.key: c for c in contenders})
    with Testbed(2) as testbed:
        facts["congestion control"] = testbed.congestion()
        measuring = Measuring(testbed, programs, say)
        able = {name: [c for c in contenders if fits(c, name, ours)] for name in wanted}
        result.series = {name: {c.key: collectives.Series() for c in able[name]} for name in wanted}
        for number in range(rounds):
            for name in wanted:
                say(f"round {number + 1} of {rounds}: {name}")
                for band in result.bands:
                    measuring.round(able[name], name, band, result.series[name])
            write(out, result, facts)
    if args.update:
        report.update(args.update, "collectives", report.collectives_markdown(result, facts))
        draw(args.update.parent / "docs", {"collectives": result})


def run_host(args: argparse.Namespace, out: Path) -> None:
    """Measures collectives between processes of this machine and writes the results."""
    programs = programs_of(args.bin)
    facts = {**machine.describe(), "load when it began": f"{machine.load_average():.1f}"}
    if args.arena:
        facts["efarun's buffers"] = "World::alloc"
    ranks_wanted = args.ranks or (list(host.QUICK_RANKS) if args.quick else list(host.RANKS))
    settled = {ranks: available(args, host.contenders(ranks, args.arena)) for ranks in ranks_wanted}
    sizes = {ranks: args.sizes or host.sizes_for(ranks, args.quick) for ranks in ranks_wanted}
    bands = {ranks: host.bands(sizes[ranks], ranks, args.quick) for ranks in ranks_wanted}
    wanted = args.collectives or list(host.DEFAULT_COLLECTIVES)
    measuring = {ranks: Measuring(host.Here(), programs, say) for ranks in ranks_wanted}
    minutes = host.QUICK_MINUTES if args.quick else host.MINUTES
    grid = Grid("host", host.units(ranks_wanted, wanted), minutes, settled, bands, measuring, host.titled)
    results = go_round(args, out, grid, facts)
    if args.update:
        mark = "host-arena" if args.arena else "host"
        report.update(args.update, mark, report.runs_markdown(host.titled(results), facts))
        draw(args.update.parent / "docs", {f"{mark}-{ranks}": result for ranks, result in results.items()})


def run_nodes(args: argparse.Namespace, out: Path) -> None:
    """Measures collectives between several nodes and writes the results."""
    programs = programs_of(args.bin)
    facts = {**machine.describe(), "load when it began": f"{machine.load_average():.1f}"}
    settled = {layout: available(args, nodes.contenders(layout), chosen=True) for layout in args.layouts}
    bands = {layout: nodes.bands(args.sizes or nodes.SIZES_BYTES, layout) for layout in args.layouts}
    wanted = args.collectives or list(nodes.DEFAULT_COLLECTIVES)
    with Testbed(max(layout.nodes for layout in args.layouts)) as testbed:
        facts["congestion control"] = testbed.congestion()
        measuring = {one: Measuring(testbed, programs, say, one.nodes, one.per_node) for one in args.layouts}
        minutes = nodes.QUICK_MINUTES if args.quick else nodes.MINUTES
        grid = Grid("nodes", nodes.units(args.layouts, wanted), minutes, settled, bands, measuring, nodes.titled)
        results = go_round(args, out, grid, facts)
    if args.update:
        report.update(args.update, "nodes", report.runs_markdown(nodes.titled(results), facts))
        draw(args.update.parent / "docs", {f"nodes-{layout.name}": result for layout, result in results.items()})


@dataclass
class Grid:
    """What is measured round after round within some minutes."""

    name: str
    units: list[host.Unit]
    minutes: float
    # By the units' keys: who takes part and who is absent, sizes, and where.
    settled: dict[object, tuple[list[Contender], dict[str, str]]]
    bands: dict[object, list[Band]]
    measuring: dict[object, Measuring]
    # Results with the ends of their tables' titles.
    titled: Callable[[dict], list[tuple[str, Result]]]


def go_round(args: argparse.Namespace, out: Path, grid: Grid, facts: dict[str, str]) -> dict[object, Result]:
    """Measures until all rounds are done or the time is over, and writes what there is after each unit. `facts` gets who was
    absent and what was left out."""
    results: dict[object, Result] = {}
    able: dict[object, dict[str, list[Contender]]] = {}
    ours = operations_of(next(iter(grid.measuring.values())).programs.efa_perf)
    rounds = args.rounds or (3 if args.quick else 5)
    for key, (contenders, absent) in grid.settled.items():
        facts |= absent
        sizes = sorted(size for band in grid.bands[key] for size in band.sizes_bytes)
        wanted = [unit.collective for unit in grid.units if unit.key == key]
        able[key] = {one: [c for c in contenders if fits(c, one, ours)] for one in wanted}
        series = {one: {c.key: collectives.Series() for c in able[key][one]} for one in wanted}
        results[key] = Result(sizes, rounds, grid.bands[key], series, {c.key: c for c in contenders})
    every = host.Rounds(grid.units, rounds, grid.minutes if args.minutes is None else args.minutes)
    for unit in every:
        result = results[unit.key]
        say(f"{unit.title}, {unit.collective}, round {unit.rounds + 1} of {rounds}; {every.left_s():.0f} s are left")
        for band in result.bands[:1] if unit.collective == "barrier" else result.bands:
            grid.measuring[unit.key].round(able[unit.key][unit.collective], unit.collective, band, result.series[unit.collective])
        host.leave_out_who_hung(result, unit.collective)
        write_runs(out, grid.name, grid.titled(results), facts)
    facts |= every.shortfalls()
    write_runs(out, grid.name, grid.titled(results), facts)
    return results


def write_runs(out: Path, name: str, runs: list[tuple[str, Result]], facts: dict[str, str]) -> None:
    """Writes what there is so far."""
    each = {title.removeprefix(", "): report.collectives_json(one, facts) for title, one in runs}
    (out / f"{name}.json").write_text(json.dumps(each, indent=1) + "\n")
    (out / f"{name}.md").write_text(report.runs_markdown(runs, facts))
    draw(out, {name + title.replace(", ", "-").replace(" ", "-"): result for title, result in runs})


def draw(folder: Path, pictures: dict[str, Result]) -> None:
    """Writes pictures by their names."""
    folder.mkdir(exist_ok=True)
    for name, result in pictures.items():
        (folder / f"{name}.svg").write_text(plot.collectives_svg(result))


def run_launch(args: argparse.Namespace, out: Path) -> None:
    """Measures launches and writes the results."""
    programs = programs_of(args.bin)
    contenders, absent = available(args, all_contenders())
    facts = {**machine.describe(), "load when it began": f"{machine.load_average():.1f}", **absent}
    rounds = args.rounds or (5 if args.quick else 11)
    families = {contender.family for contender in contenders}
    measured: list[launch_report.Launches] = []
    text = ""
    for hosts in args.hosts:
        say(f"{hosts} hosts")
        fewer = max(1, round(rounds * launch.HOSTS.get(hosts, 1.0)))
        with Testbed(hosts) as testbed, scratch() as folder:
            ways = launch.starts(programs.efarun, programs.ssh_floor, Path(folder), testbed.hosts, families)
            launch.measure(testbed, ways, fewer, say)
        measured.append(launch_report.Launches(hosts, fewer, ways))
        text = launch_report.markdown(measured, facts)
        (out / "launch.json").write_text(json.dumps(launch_report.to_json(measured, facts), indent=1) + "\n")
        (out / "launch.md").write_text(text)
    if args.update:
        report.update(args.update, "launch", text)


def run_output(args: argparse.Namespace, out: Path) -> None:
    """Measures what ranks write and writes the results."""
    programs = programs_of(args.bin)
    facts = {**machine.describe(), "load when it began": f"{machine.load_average():.1f}"}
    rounds = args.rounds or (3 if args.quick else 7)
    all_ways = output.ways(programs.efarun, programs.rank_flood, args.mib)
    with scratch("/dev/shm") as folder:
        output.measure(all_ways, args.mib, Path(folder), rounds, say)
    text = output.markdown(all_ways, args.mib, rounds, report.facts_line(facts))
    (out / "output.json").write_text(json.dumps(output.to_json(all_ways, args.mib, rounds, facts), indent=1) + "\n")
    (out / "output.md").write_text(text)
    if args.update:
        report.update(args.update, "output", text)


def run_floors(args: argparse.Namespace, out: Path) -> None:
    """Measures large collectives beside what the machine allows and writes the results."""
    programs = programs_of(args.bin)
    facts = {**machine.describe(), "load when it began": f"{machine.load_average():.1f}"}
    rounds = args.rounds or (3 if args.quick else 7)
    all_rows = floors.rows()
    with Testbed(2) as testbed:
        facts["congestion control"] = testbed.congestion()
        floors.measure(testbed, programs, all_rows, rounds, say)
    text = floors.markdown(all_rows, rounds, report.facts_line(facts))
    (out / "floors.json").write_text(json.dumps(floors.to_json(all_rows, rounds, facts), indent=1) + "\n")
    (out / "floors.md").write_text(text)
    if args.update:
        report.update(args.update, "floors", text)


def run_fabric(args: argparse.Namespace, out: Path) -> None:
    """Measures the runtime beside libfabric's programs on soft EFA and writes the results."""
    if lack := fabric.lack(args.fabtests):
        raise SystemExit(f"bench: {lack}")
    programs = programs_of(args.bin)
    facts = {**machine.describe(), "load when it began": f"{machine.load_average():.1f}"}
    if not args.fabtests:
        facts["fabtests"] = "not asked for (--fabtests FOLDER)"
    rounds = args.rounds or (3 if args.quick else 7)
    calls = 300 if args.quick else 3000
    tables = fabric.measure(programs.efarun, programs.efa_perf, args.fabtests, rounds, calls, say)
    text = fabric.markdown(tables, rounds, report.facts_line(facts))
    (out / "fabric.json").write_text(json.dumps(fabric.to_json(tables, facts), indent=1) + "\n")
    (out / "fabric.md").write_text(text)
    if args.update:
        report.update(args.update, "fabric", text)


def run_mpi_init(args: argparse.Namespace, out: Path) -> None:
    """Measures MPI programs that do nothing and writes the results."""
    programs = programs_of(args.bin)
    contenders, absent = available(args, all_contenders())
    facts = {**machine.describe(), "load when it began": f"{machine.load_average():.1f}", **absent}
    rounds = args.rounds or (3 if args.quick else 7)
    with Testbed(mpi_init.HOSTS) as testbed, scratch() as folder:
        all_ways = mpi_init.ways(contenders, programs.efarun, Path(folder), testbed.hosts, args.ranks or list(mpi_init.RANKS))
        mpi_init.measure(testbed, all_ways, rounds, say)
    text = mpi_init.markdown(all_ways, rounds, facts)
    (out / "mpi-init.json").write_text(json.dumps(mpi_init.to_json(all_ways, rounds, facts), indent=1) + "\n")
    (out / "mpi-init.md").write_text(text)
    if args.update:
        report.update(args.update, "mpi-init", text)


def write(out: Path, result: Result, facts: dict[str, str]) -> None:
    """Writes what there is so far."""
    (out / "collectives.json").write_text(json.dumps(report.collectives_json(result, facts), indent=1) + "\n")
    (out / "collectives.md").write_text(report.collectives_markdown(result, facts))
    (out / "collectives.svg").write_text(plot.collectives_svg(result))


def available(
    args: argparse.Namespace, contenders: list[Contender], chosen: bool = False
) -> tuple[list[Contender], dict[str, str]]:
    """Who can be measured here, and why the others cannot. Settings are the usual ones, unless they are `chosen` already."""
    absent: dict[str, str] = {}
    for release in peers.RELEASES:
        if args.no_peers or (args.peers and release.family not in args.peers):
            absent[release.title] = "not asked for"
            continue
        try:
            say(f"preparing {release.title}")
            peers.prepare(release)
        except peers.PeerMissing as missing:
            absent[release.title] = f"missing: {missing}"
            say(f"{release.title} is missing: {missing}")
    found = [c for c in contenders if c.title not in absent and (chosen or args.settings == "all" or c.setting.usual)]
    return found, absent


def fits(contender: Contender, collective: str, ours: set[str]) -> bool:
    """Whether a contender has a collective, and its setting is meant for it."""
    if contender.release is None:
        return collective in ours
    return not contender.setting.only or collective in contender.setting.only


def programs_of(folder: Path | None) -> Programs:
    """Our binaries: those of a folder, or built."""
    if folder is None:
        say("building efarun and efa-perf")
        cargo = shutil.which("cargo") or str(Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "bin" / "cargo")
        subprocess.run([cargo, "build", "--release", "--quiet", *PACKAGES], cwd=ROOT, check=True)
        folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    found = Programs(*(str(folder / field.name.replace("_perf", "-perf")) for field in fields(Programs)))
    for program in astuple(found):
        if not os.access(program, os.X_OK):
            raise SystemExit(f"bench: there is no {program}")
    return found


def operations_of(efa_perf: str) -> set[str]:
    """The collectives that this efa-perf has."""
    text = subprocess.run([efa_perf, "--help"], capture_output=True, text=True, check=True).stdout
    return set(collectives.COLLECTIVES) & set(re.findall(r"\w+", text))


def sizes_of(text: str) -> list[int]:
    """`8,64K,1M` as bytes, ascending."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    try:
        return sorted({int(word.rstrip("KMG")) * units.get(word[-1], 1) for word in text.upper().split(",")})
    except (ValueError, IndexError):
        raise argparse.ArgumentTypeError(f"`{text}` is not a list of sizes like 8,64K,1M") from None


def layouts_of(text: str) -> list[nodes.Layout]:
    """`4x1,2x2` as layouts."""
    try:
        return nodes.layouts_of(text)
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"`{text}` is not a list of nodes and ranks on each, like 4x1,2x2") from None


def say(line: str) -> None:
    """One line of progress."""
    print(f"bench: {line}", file=sys.stderr, flush=True)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


PACKAGES = ("-p", "efarun", "-p", "efarun-examples", "-p", "efarun-tests")
SIZES_BYTES = [8 << power for power in range(22)]
# By factors of 4, which 16 MiB is not reached by.
QUICK_SIZES_BYTES = [*SIZES_BYTES[::2], SIZES_BYTES[-1]]
