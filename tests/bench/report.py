"""Results as a markdown table, as JSON, and between the markers of BENCHMARKING.md.

Pure but for `update`. No row is left out: what failed is a row that says how.
"""

import re
from pathlib import Path

from .collectives import Result, Series, best_peer
from .contenders import Contender
from .peers import RELEASES


def collectives_markdown(result: Result, facts: dict[str, str]) -> str:
    """One table per collective, with ours, each peer's best, and the ratio to the best of them."""
    return runs_markdown([("", result)], facts)


def runs_markdown(runs: list[tuple[str, Result]], facts: dict[str, str]) -> str:
    """The tables of runs, each with the end of its tables' titles."""
    lines = [facts_line(facts), "", f"Median of {runs[0][1].rounds} rounds.", ""]
    for ending, result in runs:
        lines += _tables(result, ending)
    return "\n".join(lines)


def _tables(result: Result, ending: str) -> list[str]:
    lines = []
    families = [r for r in RELEASES if any(c.family == r.family for c in result.contenders.values())]
    for collective, series in result.series.items():
        lines += [f"### {collective}{ending}", ""]
        lines += [
            "| size | efarun, us (min to max) | " + "".join(f"{r.title}, us | " for r in families) + "ours / best | best |",
            "|---:|---:|" + "---:|" * len(families) + "---:|---|",
        ]
        sizes = result.sizes_bytes[:1] if collective == "barrier" else result.sizes_bytes
        rows = [_row(result, series, size, [r.family for r in families]) for size in sizes]
        lines += [row.replace(size_words(sizes[0]), "-", 1) for row in rows] if collective == "barrier" else rows
        lines += ["", *_notes(result, series), ""]
    return lines


def collectives_json(result: Result, facts: dict[str, str]) -> dict:
    """Everything that was measured, every round of it."""
    return {
        "facts": facts,
        "rounds": result.rounds,
        "sizes_bytes": result.sizes_bytes,
        "iterations": {str(size): band.iters for band in result.bands for size in band.sizes_bytes},
        "collectives": {
            collective: {key: _series_json(result.contenders[key], one) for key, one in series.items()}
            for collective, series in result.series.items()
        },
    }


def ratio(result: Result, collective: str, size: int) -> float | None:
    """Our median by the best peer's."""
    series = result.series[collective]
    ours, best = _ours(series).median(size), best_peer(series, result.contenders, size)
    return ours / best[0] if ours is not None and best is not None else None


def update(document: Path, name: str, text: str) -> None:
    """Puts text between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` of a document."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    old = document.read_text()
    if begin not in old or end not in old:
        raise ValueError(f"{document} has no place for `{name}`: it needs the lines {begin} and {end}")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    document.write_text(pattern.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", old, count=1))


def size_words(size_bytes: int) -> str:
    """8 B, 64 KiB, 16 MiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"


def time_words(us: float | None) -> str:
    """Three digits that count."""
    if us is None:
        return "-"
    if us < 10:
        return f"{us:.2f}"
    return f"{us:,.0f}" if us >= 100 else f"{us:.1f}"


def facts_line(facts: dict[str, str]) -> str:
    """What was measured where, as a sentence."""
    return "; ".join(f"{name}: {value}" for name, value in facts.items()) + "."


def _ours(series: dict[str, Series]) -> Series:
    return next((one for key, one in series.items() if key.startswith("efarun/")), Series())


def _row(result: Result, series: dict[str, Series], size: int, families: list[str]) -> str:
    ours = _ours(series)
    median = ours.median(size)
    cells = [size_words(size), _spread(ours, size)]
    for family in families:
        best = best_peer(series, result.contenders, size, family)
        cells.append(time_words(best[0]) if best else "-")
    best = best_peer(series, result.contenders, size)
    if median is not None and best is not None:
        factor = f"{median / best[0]:.2f}"
        cells.append(factor if median <= best[0] else f"**{factor}**")
    else:
        cells.append("-")
    contender = result.contenders[best[1]] if best else None
    cells.append(f"{contender.title}, {contender.setting.name}" if contender else "none measured")
    return "| " + " | ".join(cells) + " |"


def _spread(series: Series, size: int) -> str:
    times = series.times_us.get(size)
    if not times:
        return "-"
    return f"{time_words(series.median(size))} ({time_words(min(times))} to {time_words(max(times))})"


def _notes(result: Result, series: dict[str, Series]) -> list[str]:
    settings: dict[str, list[str]] = {}
    for key in series:
        contender = result.contenders[key]
        if contender.release:
            settings.setdefault(contender.title, []).append(contender.setting.name)
    notes = [f"- {title} ran with: {'; '.join(names)}." for title, names in settings.items()]
    for key, one in series.items():
        if one.failure is not None:
            contender = result.contenders[key]
            notes.append(f"- {contender.title}, {contender.setting.name}: {one.failure}")
    return notes


def _series_json(contender: Contender, series: Series) -> dict:
    return {
        "family": contender.family,
        "title": contender.title,
        "setting": contender.setting.name,
        "argv": list(contender.setting.argv),
        "env": contender.setting.env,
        "times_us": {str(size): times for size, times in series.times_us.items()},
        "median_us": {str(size): series.median(size) for size in series.times_us},
        "failure": series.failure,
    }
