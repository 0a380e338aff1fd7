"""The launch table, as markdown and as JSON. Pure."""

from .launch import HOSTS, RANKS_PER_HOST, Start
from .report import facts_line


def markdown(all_starts: list[Start], rounds: int, facts: dict[str, str]) -> str:
    """One row per start, ours against the fastest peer."""
    best = fastest_peer(all_starts)
    floor = next((start.median for start in all_starts if start.group == "floor" and "efarun" in start.name), None)
    lines = [
        facts_line(facts),
        "",
        f"Seconds for `true` on {HOSTS * RANKS_PER_HOST} ranks over {HOSTS} hosts, median of {rounds} rounds.",
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
    return "\n".join(lines).rstrip() + "\n"


def to_json(all_starts: list[Start], rounds: int, facts: dict[str, str]) -> dict:
    """Every time of every round."""
    rows = [
        {"name": s.name, "group": s.group, "argv": s.argv, "seconds": s.seconds, "median_s": s.median, "tries": s.tries, "hangs": s.hangs, "failure": s.failure}
        for s in all_starts
    ]
    return {"facts": facts, "hosts": HOSTS, "ranks": HOSTS * RANKS_PER_HOST, "rounds": rounds, "starts": rows}


def fastest_peer(all_starts: list[Start]) -> Start | None:
    """The peer's start with the smallest median."""
    peers = [start for start in all_starts if start.group not in ("efarun", "floor") and start.median is not None]
    return min(peers, key=lambda start: start.median, default=None)
