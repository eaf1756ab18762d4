"""One frame of ``dispatcher top``: tables out of two looks at a cell, as wide as the terminal is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Status = Mapping[str, Any]

STATE_STYLES: Final = {"ready": "green", "starting": "cyan", "draining": "yellow", "ejected": "red", "dead": "dim"}
GIVE_WAY: Final = ("speeds", "ejected")
NAME_WIDTH: Final = 16
GAP: Final = 2
FEW: Final = 5
"""Rows that a table shows at least, however low the terminal."""


class Column(NamedTuple):
    """``width``: of the terminal, from which on the column is shown."""

    name: str
    width: int
    cell: Callable[[Status, Rates], str]
    right: bool = True


class Rates(NamedTuple):
    """``done_per_s``: ``None`` while only one look was taken. ``busy``: share of its slots that were found running a job."""

    done_per_s: float | None
    busy: float


class Look(NamedTuple):
    """``at_ms`` on any one clock."""

    at_ms: int
    status: Status


def frame(looks: Sequence[Look], *, width: int, height: int) -> Group:
    """The last of ``looks``; what is per second, or a share, is over all of them."""
    status = looks[-1].status
    rates = _rates(looks)
    lanes = sorted(status["lanes"], key=lambda lane: (-lane["oldest_s"], lane["lane"]))
    workers = list(status["workers"])
    room = max(2 * FEW, height - 7)
    lane_rows = min(len(lanes), max(FEW, room - len(workers)))
    worker_rows = min(len(workers), max(FEW, room - lane_rows))
    parts: list[RenderableType] = [_headline(status, rates), Text()]
    parts += _lanes(lanes, lane_rows, width) if lanes else [Text("no lane has jobs waiting", style="dim")]
    parts += [Text(), *_workers(workers, worker_rows, rates, width)] if workers else [Text(), Text("no workers", style="dim")]
    return Group(*parts)


def _rates(looks: Sequence[Look]) -> dict[str, Rates]:
    first, last = looks[0], looks[-1]
    span_s = (last.at_ms - first.at_ms) / 1000
    then = {worker["epoch"]: worker["done"] for worker in first.status["workers"]}
    shares: dict[str, list[float]] = {}
    for look in looks:
        for worker in look.status["workers"]:
            shares.setdefault(worker["epoch"], []).append(min(1.0, worker["running"] / max(1, worker["concurrency"])))
    return {
        one["epoch"]: Rates(
            (one["done"] - then[one["epoch"]]) / span_s if one["epoch"] in then and span_s > 0 else None,
            fmean(shares[one["epoch"]]),
        )
        for one in last.status["workers"]
    }


def _headline(status: Status, rates: Mapping[str, Rates]) -> Text:
    leader = status["leader"]
    text = Text()
    if leader is None:
        text.append("no dispatcher leads", style="bold red")
    else:
        text.append(f"dispatcher {leader.get('pid', '?')} on {leader.get('host', '?')}", style="bold")
    waiting = sum(lane["depth"] for lane in status["lanes"])
    running = sum(worker["running"] for worker in status["workers"])
    facts = [f"ingress {status['ingress']}", f"waiting {waiting}", f"running {running}", f"scheduled {status['scheduled']}"]
    done = [one.done_per_s for one in rates.values() if one.done_per_s is not None]
    if done:
        facts.append(f"{sum(done):.1f} done/s")
    text.append("   " + "   ".join(facts))
    if status["dead"]:
        text.append(f"   dead {status['dead']}", style="yellow")
    if status["unroutable"]:
        text.append(f"   unroutable lanes {status['unroutable']}", style="bold red")
    return text


def _lanes(lanes: Sequence[Status], rows: int, width: int) -> list[RenderableType]:
    table = Table(box=None, header_style="bold", pad_edge=False, width=width)
    table.add_column("lane", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("depth", justify="right", no_wrap=True)
    table.add_column("oldest", justify="right", no_wrap=True)
    if width >= 70:
        table.add_column("why it waits", no_wrap=True, overflow="ellipsis", ratio=1)
    for lane in lanes[:rows]:
        why = lane["why"]
        cells = [escape(lane["lane"]), str(lane["depth"]), _span(lane["oldest_s"])]
        style = "red" if why is not None and why["reason"] == "unroutable" else None
        if width >= 70:
            cells.append(escape(why["text"]) if why is not None else "-")
        table.add_row(*cells, style=style)
    return [table, *_more(len(lanes) - rows, "lane")]


def _speeds(worker: Status, _: Rates) -> str:
    """``chat 3.9, embed 4.1``: measured; where nothing is, the weight is what counts."""
    speeds = worker["speeds"]
    return ", ".join(f"{model} {speed:.2g}" for model, speed in sorted(speeds.items())[:2]) + (" …" if len(speeds) > 2 else "") or "-"


COLUMNS: Final = (
    Column("state", 0, lambda one, _: f"[{STATE_STYLES.get(one['state'], '')}]{one['state']}[/]", right=False),
    Column("run", 0, lambda one, _: str(one["running"])),
    Column("owes", 50, lambda one, _: f"{one['leased']}/{'?' if one['window'] is None else one['window']}"),
    Column("busy", 40, lambda _, rates: f"{rates.busy:.0%}"),
    Column("done/s", 45, lambda _, rates: "-" if rates.done_per_s is None else f"{rates.done_per_s:.1f}"),
    Column("done", 130, lambda one, _: str(one["done"])),
    Column("failed", 60, lambda one, _: f"[red]{one['failed']}[/]" if one["failed"] else "0"),
    Column("weight", 70, lambda one, _: f"{one['weight']:g}"),
    Column("speeds", 90, _speeds, right=False),
    Column("warm", 110, lambda one, _: f"{one['warmth']:.0%}"),
    Column("beat", 120, lambda one, _: "-" if one["beat_age_s"] is None else _span(one["beat_age_s"])),
    Column("ejected", 80, lambda one, _: escape(one["ejected"]) or "-", right=False),
)


def _workers(
    workers: Sequence[Status], rows: int, rates: Mapping[str, Rates], width: int
) -> list[RenderableType]:
    columns = [column for column in COLUMNS if width >= column.width]
    if not any(worker["ejected"] for worker in workers):
        columns = [column for column in columns if column.name != "ejected"]
    cells = [[column.cell(worker, rates[worker["epoch"]]) for column in columns] for worker in workers[:rows]]
    widths = [
        max(len(column.name), *(cell_len(Text.from_markup(row[at]).plain) for row in cells)) for at, column in enumerate(columns)
    ]
    # Names and reasons give way where it is narrow; a number that is cut off is a wrong one.
    room = width - sum(widths) - GAP * len(columns)
    for at, column in enumerate(columns):
        if column.name in GIVE_WAY and room < NAME_WIDTH:
            cut = min(NAME_WIDTH - room, widths[at] - len(column.name))
            widths[at], room = widths[at] - cut, room + cut
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("worker", no_wrap=True, overflow="ellipsis", max_width=max(room, 1))
    for column, wide in zip(columns, widths, strict=True):
        table.add_column(column.name, justify="right" if column.right else "left", no_wrap=True, overflow="ellipsis", width=wide)
    for worker, row in zip(workers, cells, strict=False):
        table.add_row(escape(worker["name"]), *row)
    return [table, *_more(len(workers) - rows, "worker")]


def _more(number: int, noun: str) -> list[Text]:
    return [Text(f"and {number} more {noun}{'s' if number > 1 else ''}", style="dim")] if number > 0 else []


def _span(seconds: float) -> str:
    """``3.2 s``, ``12 min``, ``5 h``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
