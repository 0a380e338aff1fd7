"""Time by size as an SVG: one panel per collective, ours and each peer's best, both axes logarithmic. Pure."""

import math
from html import escape

from .collectives import Result, best_peer
from .report import size_words, time_words

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 44
COLORS = {"efarun": "#d62728", "mpich": "#1f77b4", "openmpi5": "#2ca02c", "openmpi4": "#9467bd"}


def collectives_svg(result: Result) -> str:
    """A picture two panels wide."""
    names = list(result.series)
    rows = math.ceil(len(names) / 2)
    width, height = 2 * WIDTH, rows * HEIGHT + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for index, name in enumerate(names):
        parts.append(f'<g transform="translate({index % 2 * WIDTH},{index // 2 * HEIGHT})">')
        parts += _panel(result, name)
        parts.append("</g>")
    parts += _legend(result, height - 12)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panel(result: Result, collective: str) -> list[str]:
    lines = _lines(result, collective)
    times = [time for points in lines.values() for _, time in points]
    title = f'<text x="{LEFT}" y="20" font-size="13" font-weight="bold">{escape(collective)}, us per call</text>'
    if not times:
        return [title, f'<text x="{LEFT}" y="60">nothing was measured</text>']
    sizes = result.sizes_bytes
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)) + 1e-9)
    span_x = max(math.log2(sizes[-1] / sizes[0]), 1)

    def x(size: int) -> float:
        return LEFT + math.log2(size / sizes[0]) / span_x * (WIDTH - LEFT - RIGHT)

    def y(time: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(time) - low) / max(high - low, 1) * (HEIGHT - TOP - BOTTOM)

    parts = [title]
    for power in range(low, high + 1):
        parts.append(_grid(LEFT, y(10**power), WIDTH - RIGHT, y(10**power)))
        parts.append(f'<text x="{LEFT - 6}" y="{y(10**power) + 4:.1f}" text-anchor="end">{time_words(10**power)}</text>')
    for size in sizes[:: max(1, len(sizes) // 6)]:
        parts.append(_grid(x(size), TOP, x(size), HEIGHT - BOTTOM))
        parts.append(f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{size_words(size)}</text>')
    for family, points in lines.items():
        path = " ".join(f"{x(size):.1f},{y(time):.1f}" for size, time in points)
        stroke = 2.4 if family == "efarun" else 1.4
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLORS[family]}" stroke-width="{stroke}"/>')
        parts += [f'<circle cx="{x(s):.1f}" cy="{y(t):.1f}" r="{stroke}" fill="{COLORS[family]}"/>' for s, t in points]
    return parts


def _lines(result: Result, collective: str) -> dict[str, list[tuple[int, float]]]:
    """Medians by size; of a peer, those of its best setting at each size."""
    series = result.series[collective]
    lines: dict[str, list[tuple[int, float]]] = {}
    for family in dict.fromkeys(contender.family for contender in result.contenders.values()):
        points = []
        for size in result.sizes_bytes:
            if family == "efarun":
                medians = [one.median(size) for key, one in series.items() if key.startswith("efarun/")]
                time = next((median for median in medians if median is not None), None)
            else:
                best = best_peer(series, result.contenders, size, family)
                time = best[0] if best else None
            if time is not None:
                points.append((size, time))
        if points:
            lines[family] = points
    return lines


def _legend(result: Result, y: int) -> list[str]:
    titles = {contender.family: contender.title for contender in result.contenders.values()}
    parts = []
    for index, (family, title) in enumerate(titles.items()):
        at = LEFT + index * 150
        parts.append(f'<rect x="{at}" y="{y - 8}" width="18" height="4" fill="{COLORS[family]}"/>')
        parts.append(f'<text x="{at + 24}" y="{y - 2}">{escape(title)}</text>')
    return parts


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'
