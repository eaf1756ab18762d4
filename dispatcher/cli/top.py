"""``dispatcher top``: the cell, live."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Iterator
from threading import Event
from typing import TYPE_CHECKING, Final

import click
import redis

from dispatcher.cli.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dispatcher.cli.top_frame import Look
    from dispatcher.store.operator.admin_store import AdminStore

RATES_OVER_MS: Final = 5_000
"""Rates are of so long: workers tell what they did once a second, not all at once."""

KEY_LOOK_S: Final = 0.1


@click.command()
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, metavar="SECONDS", help="Between two looks.")
@click.option("--once", is_flag=True, help="Print one frame and exit; so it is where the output is no terminal.")
@click.pass_obj
def top(session: Session, interval: float, once: bool) -> None:
    """Watch lanes and workers. `q` or Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    from dispatcher.cli.output import wide_console
    from dispatcher.cli.signals import stop_signals
    from dispatcher.cli.top_frame import frame

    with session.admin() as admin:
        if once or not sys.stdout.isatty():
            console = wide_console()
            console.print(frame([_look(admin)], width=console.width, height=10_000))
            return
        console = Console(highlight=False)
        looks: deque[Look] = deque()

        def picture() -> RenderableType:
            try:
                now = _look(admin)
            except redis.RedisError as exc:
                return f"Redis does not answer: {type(exc).__name__}; asking again"
            while looks and now.at_ms - looks[0].at_ms > RATES_OVER_MS:
                looks.popleft()
            looks.append(now)
            return frame(looks, width=console.width, height=console.height)

        with stop_signals() as stop, _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            while not stop.is_set():
                live.update(picture(), refresh=True)
                if _wait(interval, stop, pressed):
                    return


def _look(admin: AdminStore) -> Look:
    from dispatcher.cli.top_frame import Look
    from dispatcher.clock import SystemClock

    return Look(SystemClock().monotonic_ms(), admin.status())


def _wait(interval_s: float, stop: Event, pressed: Callable[[float], str]) -> bool:
    """Whether to end before the next look."""
    left_s = interval_s
    while left_s > 0 and not stop.is_set():
        if pressed(min(left_s, KEY_LOOK_S)) in ("q", "Q"):
            return True
        left_s -= KEY_LOOK_S
    return stop.is_set()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key. The terminal is as it was afterwards."""
    if not sys.stdin.isatty():
        pause = Event()
        yield lambda wait_s: str(pause.wait(wait_s) or "")
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)

    def pressed(wait_s: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], wait_s)
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(sys.stdin)
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
