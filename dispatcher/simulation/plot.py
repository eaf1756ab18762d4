"""A page with the curves of several runs: one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from dispatcher.simulation.outcome import Outcome
from dispatcher.simulation.report import Report, percentile

COLOURS: Final = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#6a4c93", "#00798c", "#8c5e58", "#444444")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 860, 340, 60, 40, 14
STYLE: Final = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;max-width:900px;color:#222}table{border-collapse:collapse}"
    "td,th{padding:.2em .9em .2em 0;text-align:right;font-variant-numeric:tabular-nums}td:first-child,th:first-child{text-align:left}"
    "svg text{font-size:12px;fill:#555}.grid{stroke:#ddd}.bound{stroke:#999;stroke-dasharray:5 4}"
)
@dataclass(frozen=True, slots=True)
class Run:
    """One strategy's run."""

    report: Report
    outcome: Outcome


def columns(one: Report) -> dict[str, str]:
    """A report as a row: heading → cell. What was not simulated has no column."""
    row = {"strategy": one.strategy}
    for name, seconds in (("mean s", one.mean_s), ("p50 s", one.p50_s), ("p99 s", one.p99_s), ("max s", one.max_s)):
        row[name] = f"{seconds:.2f}"
    row["mean ÷ bound"] = f"{one.mean_s / one.mean_bound_s:.2f}"
    row["utilization"] = f"{one.utilization:.1%}"
    row["share error"] = f"{100 * one.share_error:.1f} points"
    row["imbalance"] = f"{one.imbalance:.2f}"
    if one.hit_rate is not None:
        row["block hits"] = f"{one.hit_rate:.1%}"
        if one.pooled_lru_rate:
            row["÷ pooled LRU"] = f"{one.hit_rate / one.pooled_lru_rate:.2f}"
    if one.session_hit_rate is not None:
        row["session hits"] = f"{one.session_hit_rate:.1%}"
    if one.model_hit_rate is not None:
        row |= {"model hits": f"{one.model_hit_rate:.1%}", "loads": str(one.loads)}
    return row | {"repeated": str(one.repeated), "unfinished": str(one.unfinished)}


def pooled(one: Report) -> str:
    """The bounds of block hits, or loads, as a sentence; empty where there are none."""
    if one.model_hit_rate is not None:
        return f"loads of one memory as large as all together: Belady {one.pooled_belady_loads}"
    if one.pooled_lru_rate is None or one.pooled_belady_rate is None:
        return ""
    return f"block hits of one cache as large as all together: LRU {one.pooled_lru_rate:.1%}, Belady {one.pooled_belady_rate:.1%}"


def page(title: str, runs: Sequence[Run]) -> str:
    """The HTML: a table, the share of jobs by response time, and the jobs that wait over time."""
    first = runs[0].report
    bound_s = first.mean_bound_s
    colours = {run.report.strategy: COLOURS[i % len(COLOURS)] for i, run in enumerate(runs)}
    return "\n".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>',
            f"<h1>{escape(title)}</h1>",
            f"<p>{first.jobs:,} jobs, {len(first.workers)} workers. No dispatcher has a mean response below {bound_s:.2f} s.</p>",
            *_table(runs, colours),
            "<h2>Response time</h2><p>Share of jobs that had ended so long after they came. Dashed: the bound of the mean.</p>",
            *_responses(runs, colours, bound_s),
            "<h2>Jobs waiting</h2><p>In lanes; those that a worker holds are not counted.</p>",
            *_waiting(runs, colours),
            *_hits(runs, colours),
            "</html>\n",
        )
    )


def _table(runs: Sequence[Run], colours: dict[str, str]) -> Iterator[str]:
    yield "<table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in columns(runs[0].report)) + "</tr>"
    for run in runs:
        first, *rest = columns(run.report).values()
        mark = f'<span style="color:{colours[first]}">■</span> {escape(first)}'
        yield f"<tr><td>{mark}</td>" + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
    yield "</table>"


def _responses(runs: Sequence[Run], colours: dict[str, str], bound_s: float) -> Iterator[str]:
    ended = {run.report.strategy: sorted(ms / 1000 for ms in run.outcome.response_ms if not math.isnan(ms)) for run in runs}
    least = min((one[0] for one in ended.values() if one), default=0.1)
    most = max((one[-1] for one in ended.values() if one), default=1.0)
    low, high = math.floor(math.log10(max(least, 0.001))), max(math.ceil(math.log10(max(most, 0.01))), -1)

    def across(seconds: float) -> float:
        return min(1.0, max(0.0, (math.log10(max(seconds, 1e-9)) - low) / (high - low)))

    yield from _axes(
        [(across(10.0**power), f"{10.0**power:g} s") for power in range(low, high + 1)],
        [(part / 4, f"{25 * part} %") for part in range(5)],
    )
    x = _x(across(bound_s))
    yield f'<line class="bound" x1="{x}" x2="{x}" y1="{_y(0)}" y2="{_y(1)}"/>'
    for name, values in ended.items():
        points = [(across(percentile(values, part / 2)), part / 200) for part in range(1, 201)] if values else []
        yield _curve(points, colours[name])
    yield "</svg>"


def _waiting(runs: Sequence[Run], colours: dict[str, str]) -> Iterator[str]:
    most = max([count for run in runs for _, count in run.outcome.waiting] + [1])
    end_ms = max([at for run in runs for at, _ in run.outcome.waiting] + [1.0])
    yield from _axes(
        [(part / 5, f"{end_ms * part / 5000:,.0f} s") for part in range(6)],
        [(part / 4, f"{most * part / 4:,.0f}") for part in range(5)],
    )
    for run in runs:
        yield _curve([(at / end_ms, count / most) for at, count in run.outcome.waiting], colours[run.report.strategy])
    yield "</svg>"


def _hits(runs: Sequence[Run], colours: dict[str, str]) -> Iterator[str]:
    """A bar for each strategy's share of cached blocks, beside what one pooled cache would have had."""
    first = runs[0].report
    lru, belady = first.pooled_lru_rate, first.pooled_belady_rate
    if first.hit_rate is None or lru is None or belady is None:
        return
    most = max([belady, *(run.report.hit_rate or 0.0 for run in runs)]) or 1.0
    yield f"<h2>Block hits</h2><p>Share of prefix blocks that were cached where their job ran. Dashed: {escape(pooled(first))}.</p>"
    yield from _axes([(part / 4, f"{most * part / 4:.1%}") for part in range(5)], [])
    for number, run in enumerate(runs):
        high = (_y(0) - _y(1)) / len(runs)
        y, width = _y(1) + number * high, _x((run.report.hit_rate or 0.0) / most) - _x(0)
        name = run.report.strategy
        yield f'<rect x="{_x(0)}" y="{y + 2:.1f}" width="{width:.1f}" height="{high - 4:.1f}" fill="{colours[name]}" opacity=".75"/>'
        yield f'<text x="{_x(0) + 6}" y="{y + high / 2 + 4:.1f}">{escape(name)}</text>'
    for rate in (lru, belady):
        yield f'<line class="bound" x1="{_x(rate / most)}" x2="{_x(rate / most)}" y1="{_y(0)}" y2="{_y(1)}"/>'
    yield "</svg>"


def _axes(across: Sequence[tuple[float, str]], up: Sequence[tuple[float, str]]) -> Iterator[str]:
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
    for place, label in across:
        yield f'<line class="grid" x1="{_x(place)}" x2="{_x(place)}" y1="{_y(0)}" y2="{_y(1)}"/>'
        yield f'<text x="{_x(place)}" y="{_y(0) + 18}" text-anchor="middle">{label}</text>'
    for place, label in up:
        yield f'<line class="grid" x1="{_x(0)}" x2="{_x(1)}" y1="{_y(place)}" y2="{_y(place)}"/>'
        yield f'<text x="{LEFT - 8}" y="{_y(place) + 4}" text-anchor="end">{label}</text>'


def _curve(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{_x(x)},{_y(y)}" for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>'


def _x(part: float) -> float:
    return round(LEFT + part * (WIDTH - LEFT - 30), 1)


def _y(part: float) -> float:
    return round(HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP), 1)
