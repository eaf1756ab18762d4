"""One frame of ``dispatcher top``: tables made from samples of a cell, as wide as the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final, NamedTuple

from rich.cells import cell_len
from rich.console import Group, JustifyMethod, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Status = Mapping[str, Any]

STATE_STYLES: Final = {
    "ready": "green", "starting": "cyan", "draining": "yellow", "ejected": "red", "refused": "red", "left": "dim", "dead": "dim",
}  # fmt: skip
GIVE_WAY: Final = ("speeds", "ejected")
NAME_WIDTH: Final = 16
GAP: Final = 2
FEW: Final = 5
"""Rows that a table shows at least, even in a low terminal."""


class Column(NamedTuple):
    """A column of the table of workers."""

    name: str
    width: int
    """The terminal's width from which on the column is shown."""
    cell: Callable[[Status, Rates], str]
    right: bool = True


class Rates(NamedTuple):
    """What a worker did over all samples."""

    done_per_s: float | None
    """Jobs; ``None`` while there is only one sample."""
    busy: float
    """Share of its slots that ran a job."""


class Sample(NamedTuple):
    """What ``dispatcher status`` shows, and when it was read."""

    at_ms: int
    """By any clock; the same for all samples."""
    status: Status


def frame(samples: Sequence[Sample], *, width: int, height: int) -> Group:
    """A picture of the last sample. Rates and shares are over all samples."""
    status = samples[-1].status
    rates = _rates(samples)
    lanes = sorted(status["lanes"], key=lambda lane: (-lane["oldest_s"], lane["lane"]))
    workers = list(status["workers"])
    room = max(2 * FEW, height - 7)
    lane_rows = min(len(lanes), max(FEW, room - len(workers)))
    worker_rows = min(len(workers), max(FEW, room - lane_rows))
    parts: list[RenderableType] = [_headline(status, rates), Text()]
    parts += _lanes(lanes, lane_rows, width) if lanes else [Text("no lane has jobs waiting", style="dim")]
    parts.append(Text())
    parts += _workers(workers, worker_rows, rates, width) if workers else [Text("no workers", style="dim")]
    return Group(*parts)


def _rates(samples: Sequence[Sample]) -> dict[str, Rates]:
    first, last = samples[0], samples[-1]
    span_s = (last.at_ms - first.at_ms) / 1000
    then = {worker["epoch"]: worker["done"] for worker in first.status["workers"]}
    shares: dict[str, list[float]] = {}
    for sample in samples:
        for worker in sample.status["workers"]:
            shares.setdefault(worker["epoch"], []).append(min(1.0, worker["running"] / max(1, worker["concurrency"])))
    return {
        worker["epoch"]: Rates(
            (worker["done"] - then[worker["epoch"]]) / span_s if worker["epoch"] in then and span_s > 0 else None,
            fmean(shares[worker["epoch"]]),
        )
        for worker in last.status["workers"]
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
    facts = [f"ingress {status['ingress']}", f"waiting {waiting}", f"running {running}"]
    facts.append(f"scheduled {status['scheduled']}")
    done = [rate.done_per_s for rate in rates.values() if rate.done_per_s is not None]
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
    """Measured speeds, such as ``chat 3.9, embed 4.1``; ``-`` if none is measured, so that the weight counts."""
    speeds = worker["speeds"]
    shown = ", ".join(f"{model} {speed:.2g}" for model, speed in sorted(speeds.items())[:2])
    return shown + (" …" if len(speeds) > 2 else "") or "-"


def _state(worker: Status, _: Rates) -> str:
    return f"[{STATE_STYLES.get(worker['state'], '')}]{worker['state']}[/]"


COLUMNS: Final = (
    Column("state", 0, _state, right=False),
    Column("run", 0, lambda worker, _: str(worker["running"])),
    Column("owes", 50, lambda worker, _: f"{worker['leased']}/{'?' if worker['window'] is None else worker['window']}"),
    Column("busy", 40, lambda _, rates: f"{rates.busy:.0%}"),
    Column("done/s", 45, lambda _, rates: "-" if rates.done_per_s is None else f"{rates.done_per_s:.1f}"),
    Column("done", 130, lambda worker, _: str(worker["done"])),
    Column("failed", 60, lambda worker, _: f"[red]{worker['failed']}[/]" if worker["failed"] else "0"),
    Column("weight", 70, lambda worker, _: f"{worker['weight']:g}"),
    Column("speeds", 90, _speeds, right=False),
    Column("warm", 110, lambda worker, _: f"{worker['warmth']:.0%}"),
    Column("beat", 120, lambda worker, _: "-" if worker["beat_age_s"] is None else _span(worker["beat_age_s"])),
    Column("ejected", 80, lambda worker, _: escape(worker["ejected"]) or "-", right=False),
)


def _workers(
    workers: Sequence[Status], rows: int, rates: Mapping[str, Rates], width: int
) -> list[RenderableType]:
    columns = [column for column in COLUMNS if width >= column.width]
    if not any(worker["ejected"] for worker in workers):
        columns = [column for column in columns if column.name != "ejected"]
    cells = [[column.cell(worker, rates[worker["epoch"]]) for column in columns] for worker in workers[:rows]]
    widths = [
        max(len(column.name), *(cell_len(Text.from_markup(row[at]).plain) for row in cells))
        for at, column in enumerate(columns)
    ]
    # In a narrow terminal names and reasons are cut; a number that is cut would be wrong.
    room = width - sum(widths) - GAP * len(columns)
    for at, column in enumerate(columns):
        if column.name in GIVE_WAY and room < NAME_WIDTH:
            cut = min(NAME_WIDTH - room, widths[at] - len(column.name))
            widths[at], room = widths[at] - cut, room + cut
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("worker", no_wrap=True, overflow="ellipsis", max_width=max(room, 1))
    for column, wide in zip(columns, widths, strict=True):
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(column.name, justify=justify, no_wrap=True, overflow="ellipsis", width=wide)
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
