"""Flower beside a local cluster: its port, its process, and the wait until it answers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dispatcher.clock import Clock
from dispatcher.errors import Invalid, Unavailable
from dispatcher.observe import flower
from dispatcher.provision.child import Child, Children, ended_early

TIMEOUT_S: Final = 30.0


def free_port(usual: int, chosen: int | None = None) -> int:
    """The port for Flower: ``chosen``, else ``usual``, else any that is free.

    Raises :class:`Invalid` if ``chosen`` is taken.
    """
    wanted = chosen or usual
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            if chosen is not None:
                raise Invalid(
                    f"port {wanted} is taken: choose another with --port-flower, or use --no-flower"
                ) from None
        else:
            return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_flower(
    children: Children, redis_url: str, port: int, *, app: str, log: Path, environ: Mapping[str, str]
) -> Child:
    """Start Flower for the cluster on ``redis_url``.

    Raises :class:`Unavailable` if the system has no room for a process.
    """
    environ = {**environ, **flower.environment(redis_url)}
    return children.start("flower", flower.command(redis_url, port, app), log=log, environ=environ)


def wait_for_flower(child: Child, port: int, clock: Clock) -> None:
    """Return when Flower's port is open. Raises :class:`Unavailable` if Flower ends instead, or takes too long."""
    deadline_ms = clock.monotonic_ms() + round(TIMEOUT_S * 1000)
    while clock.monotonic_ms() < deadline_ms:
        if child.exit_code is not None:
            raise Unavailable(f"Flower {ended_early(child)}; use --no-flower to do without")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        clock.sleep(0.1)
    raise Unavailable(f"Flower has not opened port {port} within {TIMEOUT_S:.0f} s; its log is {child.log}")
