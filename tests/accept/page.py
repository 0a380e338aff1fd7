"""The page: what was found, for people. Pure, from the report."""

from typing import List


def of(report: dict) -> str:
    """The whole page, as Markdown."""
    verdict = "**Passed.**" if report["passed"] else "**Did not pass.**" if report["finished"] else "**Not finished.**"
    lines = [f"# efarun on {report['hosts']}", "", f"{verdict} {report['started']}, source {report['source']}."]
    if report["quick"]:
        lines[-1] += " A quick run: few sizes, few calls."
    for part in report["parts"]:
        lines += ["", f"## {part['name']}: {'passed' if part['passed'] else 'did not pass'}", ""]
        lines += [f"- **{problem}**" for problem in part["problems"]]
        lines += [f"- {note}" for note in part["notes"]]
        lines += SECTIONS.get(part["name"], lambda _: [])(part["result"])
    return "\n".join(lines) + "\n"


def checks(result: dict) -> List[str]:
    """The hosts side by side."""
    hosts = result["hosts"]
    keys = [key for key in HOST_ROWS if any(host.get(key) for host in hosts)]
    lines = table(["", *(host["host"] for host in hosts)], [[key.replace("_", " "), *(host.get(key, "") for host in hosts)] for key in keys])
    cards = [[f"{len(host['devices'])}: {', '.join(host['devices'])}" for host in hosts]]
    return lines + [f"| EFA devices | {' | '.join(cards[0])} |"] if lines else lines


def pairs(result: dict) -> List[str]:
    """A line per card and pair of hosts: the raw card, and efarun on it between all hosts."""
    rows = []
    for card, of_card in result.get("cards", {}).items():
        ours = of_card["efarun"].get("results", [])
        for host, raw in of_card["fi_pingpong"].items():
            figures = [figure(raw, "one_way_us", 0), figure(raw, "one_way_us", -1), figure(raw, "mb_per_s", -1)]
            figures += [our_figure(ours, key, at) for key, at in (("time_us", 0), ("time_us", -1), ("bus_bw_gbps", -1))]
            rows.append([card, host, *figures])
    head = ["card", "first host with", "fi_pingpong us, smallest", "us, largest", "MB/s, largest"]
    return ["", *table([*head, "all_reduce us, smallest", "us, largest", "busbw GB/s, largest"], rows)] if rows else []


def runs(result: dict) -> List[str]:
    """A table per run of efa-perf."""
    lines: List[str] = []
    for title, run in result.items():
        carried = run.get("config", {}).get("transports", [])
        lines += ["", f"{title}; {'; '.join(carried)}" if carried else title, ""]
        lines += table(["operation", "bytes", "us", "busbw GB/s", "#wrong"], [row_of(row) for row in run.get("results", [])])
    return lines


def counters(result: dict) -> List[str]:
    """A table per host."""
    lines: List[str] = []
    for host, cards in result.get("hosts", {}).items():
        rows = [[card, f"{of.get('tx_bytes', 0):,}", f"{of.get('rx_bytes', 0):,}"] for card, of in cards.items()]
        lines += ["", host, "", *table(["card", "sent bytes", "received bytes"], rows)]
    return lines


def row_of(row: dict) -> list:
    """A line of an operation's table."""
    half = row.get("out_of_place") or {}
    size = "" if row["collective"] == "barrier" else f"{row['size_bytes']:,}"
    return [row["collective"], size, f"{half.get('time_us', 0):.1f}", f"{half.get('bus_bw_gbps', 0):.3f}", half.get("wrong", "")]


def figure(rows: List[dict], key: str, at: int) -> str:
    """A figure of fi_pingpong's."""
    return f"{rows[at][key]:.1f}" if rows else "none"


def our_figure(rows: List[dict], key: str, at: int) -> str:
    """A figure of efa-perf's."""
    return f"{rows[at]['out_of_place'][key]:.2f}" if rows else "none"


def table(head: List[str], rows: List[list]) -> List[str]:
    """A table, or nothing without rows."""
    if not rows:
        return []
    line = lambda cells: "| " + " | ".join(str(cell) for cell in cells) + " |"  # noqa: E731
    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]


HOST_ROWS = (
    "instance_type", "zone", "placement_group", "kernel", "cores", "memlock_kib", "huge_pages_free", "libc", "installer",
    "libfabric", "efa_driver", "efa_functions", "gpus", "gpu_driver", "peermem", "soft_devices",
)
SECTIONS = {"checks": checks, "pairs": pairs, "operations": runs, "sweep": runs, "counters": counters, "crowd": runs}
