"""A frame of ``dispatcher top``: true numbers at every width."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from dispatcher.cli.top_frame import Sample, frame

WHY = {"reason": "unroutable", "text": "no worker may have it (4 × model)"}


def worker(name: str, **facts: Any) -> dict[str, Any]:
    return {
        "name": name, "epoch": name, "state": "ready", "weight": 4.0, "concurrency": 4, "leased": 6, "running": 4, "done": 1234,
        "failed": 0, "window": 6, "speeds": {"chat": 3.91, "embed": 4.2}, "warmth": 1.0, "ejected": "", "beat_age_s": 0.4,
    } | facts  # fmt: skip


def status(workers: list[dict[str, Any]], lanes: list[dict[str, Any]] | None = None, **facts: Any) -> dict[str, Any]:
    nothing = {"leader": {"host": "node-7", "pid": 4711}, "ingress": 0, "scheduled": 0, "dead": 0, "unsettled": 0}
    nothing |= {"unroutable": 0, "unreadable": []}
    return nothing | {"workers": workers, "lanes": lanes or []} | facts


def lane(name: str = "dispatch/t/chat/p0/c10", depth: int = 12, why: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"lane": name, "depth": depth, "oldest_s": 45.2, "why": why}


def lines(*samples: Sample, width: int = 160, height: int = 40) -> list[str]:
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(frame(samples, width=width, height=height))
    return capture.get().splitlines()


def row(found: list[str], name: str) -> list[str]:
    """The cells of the row that begins with the name, words apart."""
    (line,) = [line for line in found if line.startswith(name)]
    return line.split()


def test_rates_are_over_all_looks() -> None:
    """Jobs a second from the first to the last, the busy share as it was found in each; a new life has no rate yet."""
    first = Sample(0, status([worker("a", done=100, running=4)]))
    last = Sample(5_000, status([worker("a", done=350, running=2), worker("new", done=7)]))

    found = lines(first, last)

    assert "50.0 done/s" in found[0]
    assert row(found, "a ")[1:7] == ["ready", "2", "6/6", "75%", "50.0", "350"]
    assert row(found, "new")[4:6] == ["100%", "-"]


def test_what_needs_an_eye_is_there() -> None:
    """Who leads, what is dead, lanes that nobody may serve and why, workers that were ejected and why."""
    ejected = worker("b", state="ejected", ejected="5 failures in a row", failed=17, warmth=0.25, window=None)

    found = "\n".join(lines(Sample(0, status([ejected], [lane(why=WHY)], dead=3, unroutable=1))))

    for part in ("dispatcher 4711 on node-7", "dead 3", "unroutable lanes 1", "no worker may have it (4 × model)", "5 failures in a row",
                 "17", "25%", "6/?", "chat 3.9, embed 4.2"):  # fmt: skip
        assert part in found, part
    assert "no dispatcher leads" in lines(Sample(0, status([], leader=None)))[0]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_number_is_cut(width: int) -> None:
    """Columns go where it is narrow, and names are cut; what is shown of a number is all of it."""
    name = "a-rather-long-name@in-a-long-datacenter"
    one = worker(name, leased=16, window=16, speeds={})
    found = lines(Sample(0, status([one], [lane("dispatch/" + "x" * 80, 123456)])), width=width)

    assert all(len(line) <= width for line in found)
    assert any("123456" in line for line in found)
    (shown,) = [line for line in found if "ready" in line]
    cells = shown.split()
    assert all("…" not in cell for cell in cells[1:])


def test_a_low_terminal_shows_the_first() -> None:
    """And how many more there are."""
    found = lines(Sample(0, status([worker(f"w{n:02}") for n in range(50)], [lane(f"lane-{n}") for n in range(50)])), height=24)

    assert len(found) <= 24
    assert "and 45 more lanes" in found
    assert any(line.startswith("and ") and line.endswith("more workers") for line in found)
