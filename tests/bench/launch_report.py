"""The launch tables, as markdown and as JSON. Pure."""

from dataclasses import dataclass

from .launch import RANKS_PER_HOST, Start
from .report import facts_line


@dataclass
class Launches:
    """What was measured on so many hosts."""

    hosts: int
    rounds: int
    starts: list[Start]


def markdown(all_launches: list[Launches], facts: dict[str, str]) -> str:
    """The facts, a line per number of hosts, and a table for each."""
    parts = [facts_line(facts), summary(all_launches)]
    parts += [table(launches) for launches in all_launches]
    return "\n".join(parts).rstrip() + "\n"


def summary(all_launches: list[Launches]) -> str:
    """efarun by the floor and by the fastest peer, for each number of hosts."""
    lines = ["", "| hosts | ranks | efarun, s | by the fastest peer | by the floor |", "|---:|---:|---:|---:|---:|"]
    for launches in all_launches:
        ours = next((start for start in launches.starts if start.name == "efarun"), None)
        best, floor = fastest_peer(launches.starts), floor_of(launches.starts)
        ranks = launches.hosts * RANKS_PER_HOST
        if ours is None or ours.median is None:
            lines.append(f"| {launches.hosts} | {ranks} | - | - | - |")
            continue
        by_peer = f"{ours.median / best.median:.2f} ({best.name})" if best else "-"
        by_floor = f"{ours.median / floor:.2f}" if floor else "-"
        lines.append(f"| {launches.hosts} | {ranks} | {ours.median:.3f} | {by_peer} | {by_floor} |")
    return "\n".join(lines)


def floor_of(starts: list[Start]) -> float | None:
    """Bare sessions by the launcher's own SSH."""
    return next((start.median for start in starts if start.group == "floor" and "efarun" in start.name), None)


def table(launches: Launches) -> str:
    """One row per start, ours against the fastest peer."""
    all_starts = launches.starts
    best = fastest_peer(all_starts)
    floor = floor_of(all_starts)
    lines = [
        "",
        f"Seconds for `true` on {launches.hosts * RANKS_PER_HOST} ranks over {launches.hosts} hosts, median of {launches.rounds} rounds.",
        "",
        "| start | s (min to max) | by the fastest peer | by the floor |",
        "|---|---:|---:|---:|",
    ]
    for start in all_starts:
        if start.median is None:
            lines.append(f"| {start.name} | - | - | - |")
            continue
        spread = f"{start.median:.3f} ({min(start.seconds):.3f} to {max(start.seconds):.3f})"
        by_peer = f"{start.median / best.median:.2f}" if best and start.group != "floor" else "-"
        if start.group == "efarun" and best and start.median > best.median:
            by_peer = f"**{by_peer}**"
        by_floor = f"{start.median / floor:.2f}" if floor and start.group != "floor" else "-"
        lines.append(f"| {start.name} | {spread} | {by_peer} | {by_floor} |")
    lines.append("")
    lines += [f"- {start.name}: {start.failure}" for start in all_starts if start.failure is not None]
    lines += [f"- {start.name}: {start.hangs} of {start.tries} launches hung" for start in all_starts if start.hangs]
    return "\n".join(lines).rstrip()


def to_json(all_launches: list[Launches], facts: dict[str, str]) -> dict:
    """Every time of every round."""
    def row(s: Start) -> dict:
        return {"name": s.name, "group": s.group, "argv": s.argv, "seconds": s.seconds, "median_s": s.median, "tries": s.tries, "hangs": s.hangs, "failure": s.failure}

    def one(launches: Launches) -> dict:
        return {"hosts": launches.hosts, "ranks": launches.hosts * RANKS_PER_HOST, "rounds": launches.rounds, "starts": [row(s) for s in launches.starts]}

    return {"facts": facts, "launches": [one(launches) for launches in all_launches]}


def fastest_peer(all_starts: list[Start]) -> Start | None:
    """The peer's start with the smallest median."""
    peers = [start for start in all_starts if start.group not in ("efarun", "floor") and start.median is not None]
    return min(peers, key=lambda start: start.median, default=None)
