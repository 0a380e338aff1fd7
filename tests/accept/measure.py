"""Runs of efa-perf on the hosts: what they print as JSON, and what is wrong with it."""

import json
from typing import List, NamedTuple, Sequence, Tuple

from .hosts import Hosts


class Effort(NamedTuple):
    """How much is measured."""

    pair_rounds: int
    pair_sizes: List[str]
    pair_limit_s: int
    operation_sizes: List[str]
    sweep_sizes: List[str]
    limit_s: int


WHOLE = Effort(
    pair_rounds=100,
    pair_sizes=["-b", "8", "-e", "64M", "-f", "8", "-n", "20"],
    pair_limit_s=120,
    operation_sizes=["-b", "8", "-e", "16M", "-f", "8", "-n", "5"],
    sweep_sizes=["-b", "8", "-e", "1G", "-f", "2", "-n", "10"],
    limit_s=1200,
)
QUICK = Effort(
    pair_rounds=5,
    pair_sizes=["-b", "8", "-e", "64K", "-f", "8192", "-n", "3"],
    pair_limit_s=60,
    operation_sizes=["-b", "8", "-e", "32K", "-f", "4096", "-n", "1"],
    sweep_sizes=["-b", "4K", "-e", "4M", "-f", "1024", "-n", "3"],
    limit_s=120,
)


def operations(hosts: Hosts, effort: Effort) -> Tuple[dict, List[str], List[str]]:
    """Every operation, each element checked, a rank on each host."""
    result, problems = run(hosts, "all", effort.operation_sizes, 1, (), effort.limit_s)
    return {"1 rank per host": result}, problems, []


def sweep(hosts: Hosts, effort: Effort, per_host: int) -> Tuple[dict, List[str], List[str]]:
    """all_reduce over all sizes, with so many ranks on each host."""
    result, problems = run(hosts, "all_reduce", effort.sweep_sizes, per_host, (), effort.limit_s)
    return {f"{per_host} rank{'s' if per_host > 1 else ''} per host": result}, problems, []


def run(
    hosts: Hosts, collective: str, sizes: List[str], per_host: int, options: Sequence[str] = (), limit_s: int = 300
) -> Tuple[dict, List[str]]:
    """One run: its report, and what is wrong with it."""
    command = [hosts.efa_perf, collective, *sizes, "--json", "-"]
    done = hosts.run(["-x", "EFARUN_PROVIDER=efa", *options], command, limit_s, per_host=per_host)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {}
    return report, problems_of(done, report)


def problems_of(done, report: dict) -> List[str]:
    """What is wrong with a run."""
    problems = []
    if done.code:
        problems.append(done.complaint())
    elif not report.get("results"):
        problems.append("efa-perf reported nothing")
    if report.get("out_of_bounds"):
        problems.append(f"{report['out_of_bounds']} elements are wrong")
    unchecked = [row["collective"] for row in report.get("results", []) if is_unchecked(row)]
    if unchecked:
        problems.append(f"nothing was checked of {', '.join(sorted(set(unchecked)))}")
    transports = report.get("config", {}).get("transports", [])
    if report and not any(line.startswith("efa") for line in transports):
        problems.append(f"nothing went over EFA, but over {', '.join(transports) or 'nothing'}")
    return problems


def is_unchecked(row: dict) -> bool:
    """Whether an operation with data was not looked at."""
    return row["collective"] != "barrier" and row["out_of_place"].get("wrong") is None
