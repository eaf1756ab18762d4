"""``dispatcher top``: watch the cell."""

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

    from dispatcher.cli.top_frame import Sample
    from dispatcher.store.operator.admin_store import AdminStore

RATES_OVER_MS: Final = 5_000
"""The span that rates are computed over: workers report once a second, each at another moment."""

KEY_WAIT_S: Final = 0.1


@click.command()
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, metavar="SECONDS",
              help="Between two samples.")
@click.option("--once", is_flag=True, help="Print one frame and exit, as it does if the output is no terminal.")
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
            console.print(frame([_sample(admin)], width=console.width, height=10_000))
            return
        console = Console(highlight=False)
        samples: deque[Sample] = deque()

        def picture() -> RenderableType:
            try:
                now = _sample(admin)
            except redis.RedisError as exc:
                return f"Redis does not answer: {type(exc).__name__}; asking again"
            while samples and now.at_ms - samples[0].at_ms > RATES_OVER_MS:
                samples.popleft()
            samples.append(now)
            return frame(samples, width=console.width, height=console.height)

        with stop_signals() as stop, _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            while not stop.is_set():
                live.update(picture(), refresh=True)
                if _wait(interval, stop, pressed):
                    return


def _sample(admin: AdminStore) -> Sample:
    from dispatcher.cli.top_frame import Sample
    from dispatcher.clock import SystemClock

    return Sample(SystemClock().monotonic_ms(), admin.status())


def _wait(interval_s: float, stop: Event, pressed: Callable[[float], str]) -> bool:
    """Wait until the next frame is due; True if the command must end instead."""
    left_s = interval_s
    while left_s > 0 and not stop.is_set():
        if pressed(min(left_s, KEY_WAIT_S)) in ("q", "Q"):
            return True
        left_s -= KEY_WAIT_S
    return stop.is_set()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key. Afterwards the terminal is as it was."""
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
