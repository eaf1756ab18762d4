"""A page with the curves of several runs: an HTML file that needs no other file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from dispatcher.simulation.outcome import SimOutcome
from dispatcher.simulation.report import Report, percentile

COLOURS: Final = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#6a4c93", "#00798c", "#8c5e58", "#444444")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 860, 340, 60, 40, 14
STYLE: Final = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;max-width:900px;color:#222}table{border-collapse:collapse}"
    "td,th{padding:.2em .9em .2em 0;text-align:right;font-variant-numeric:tabular-nums}"
    "td:first-child,th:first-child{text-align:left}"
    "svg text{font-size:12px;fill:#555}.grid{stroke:#ddd}.bound{stroke:#999;stroke-dasharray:5 4}"
)
@dataclass(frozen=True, slots=True)
class Run:
    """The run of a strategy."""

    report: Report
    outcome: SimOutcome


def columns(report: Report) -> dict[str, str]:
    """A report as a row: heading → cell. Figures of what was not simulated have no column."""
    row = {"strategy": report.strategy}
    row |= {"mean s": f"{report.mean_s:.2f}", "p50 s": f"{report.p50_s:.2f}"}
    row |= {"p99 s": f"{report.p99_s:.2f}", "max s": f"{report.max_s:.2f}"}
    row["mean ÷ bound"] = f"{report.mean_s / report.mean_bound_s:.2f}"
    row["utilization"] = f"{report.utilization:.1%}"
    row["share error"] = f"{100 * report.share_error:.1f} points"
    row["imbalance"] = f"{report.imbalance:.2f}"
    if report.hit_rate is not None:
        row["block hits"] = f"{report.hit_rate:.1%}"
        if report.pooled_lru_rate:
            row["÷ pooled LRU"] = f"{report.hit_rate / report.pooled_lru_rate:.2f}"
    if report.session_hit_rate is not None:
        row["session hits"] = f"{report.session_hit_rate:.1%}"
    if report.model_hit_rate is not None:
        row |= {"model hits": f"{report.model_hit_rate:.1%}", "loads": str(report.loads)}
    return row | {"repeated": str(report.repeated), "unfinished": str(report.unfinished)}


def pooled(report: Report) -> str:
    """The bounds of block hits, or of loads, as a sentence; empty if there are none."""
    if report.model_hit_rate is not None:
        return f"loads of one memory as large as all together: Belady {report.pooled_belady_loads}"
    if report.pooled_lru_rate is None or report.pooled_belady_rate is None:
        return ""
    lru, belady = report.pooled_lru_rate, report.pooled_belady_rate
    return f"block hits of one cache as large as all together: LRU {lru:.1%}, Belady {belady:.1%}"


def page(title: str, runs: Sequence[Run]) -> str:
    """The HTML: a table, the share of jobs by response time, and the jobs that wait over time."""
    first = runs[0].report
    bound_s = first.mean_bound_s
    colours = {run.report.strategy: COLOURS[i % len(COLOURS)] for i, run in enumerate(runs)}
    return "\n".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{STYLE}</style>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{first.jobs:,} jobs, {len(first.workers)} workers.",
            f"No dispatcher has a mean response below {bound_s:.2f} s.</p>",
            *_table(runs, colours),
            "<h2>Response time</h2><p>Share of jobs that had ended this long after they arrived.",
            "Dashed: the bound of the mean.</p>",
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
    ended = {
        run.report.strategy: sorted(ms / 1000 for ms in run.outcome.response_ms if not math.isnan(ms)) for run in runs
    }
    shortest = min((values[0] for values in ended.values() if values), default=0.1)
    longest = max((values[-1] for values in ended.values() if values), default=1.0)
    low, high = math.floor(math.log10(max(shortest, 0.001))), max(math.ceil(math.log10(max(longest, 0.01))), -1)

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
    highest = max([count for run in runs for _, count in run.outcome.waiting] + [1])
    end_ms = max([at for run in runs for at, _ in run.outcome.waiting] + [1.0])
    yield from _axes(
        [(part / 5, f"{end_ms * part / 5000:,.0f} s") for part in range(6)],
        [(part / 4, f"{highest * part / 4:,.0f}") for part in range(5)],
    )
    for run in runs:
        points = [(at / end_ms, count / highest) for at, count in run.outcome.waiting]
        yield _curve(points, colours[run.report.strategy])
    yield "</svg>"


def _hits(runs: Sequence[Run], colours: dict[str, str]) -> Iterator[str]:
    """A bar for each strategy's share of cached blocks, beside what one pooled cache would have had."""
    first = runs[0].report
    lru, belady = first.pooled_lru_rate, first.pooled_belady_rate
    if first.hit_rate is None or lru is None or belady is None:
        return
    highest = max([belady, *(run.report.hit_rate or 0.0 for run in runs)]) or 1.0
    yield "<h2>Block hits</h2><p>Share of prefix blocks that were cached where their job ran. "
    yield f"Dashed: {escape(pooled(first))}.</p>"
    yield from _axes([(part / 4, f"{highest * part / 4:.1%}") for part in range(5)], [])
    for number, run in enumerate(runs):
        high = (_y(0) - _y(1)) / len(runs)
        y, width = _y(1) + number * high, _x((run.report.hit_rate or 0.0) / highest) - _x(0)
        name = run.report.strategy
        box = f'x="{_x(0)}" y="{y + 2:.1f}" width="{width:.1f}" height="{high - 4:.1f}"'
        yield f'<rect {box} fill="{colours[name]}" opacity=".75"/>'
        yield f'<text x="{_x(0) + 6}" y="{y + high / 2 + 4:.1f}">{escape(name)}</text>'
    for rate in (lru, belady):
        x = _x(rate / highest)
        yield f'<line class="bound" x1="{x}" x2="{x}" y1="{_y(0)}" y2="{_y(1)}"/>'
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
