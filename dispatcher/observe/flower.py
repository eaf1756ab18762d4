"""How the real Flower is started: the command and its environment. Flower keeps to the loopback interface unless it asks for a login.

Its Broker tab needs no ``--broker-api`` on Redis: it asks ``LLEN`` of each queue that a node says it consumes, over the broker
URL of the Celery app, a unix socket included. Two things it cannot do there: another database than 0 over a unix socket, and
a socket whose path needs percent-encoding.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Sequence
from typing import Final

from dispatcher.errors import Invalid
from dispatcher.store.redis_client.connection import celery_url

LOOPBACK: Final = "127.0.0.1"
APP: Final = "workers.app"
TASKS_MAX: Final = 10_000
"""Tasks that Flower keeps in memory; its own default of 100,000 takes most of a gigabyte."""


def command(
    redis_url: str,
    port: int,
    app: str = APP,
    *,
    address: str = LOOPBACK,
    basic_auth: Sequence[str] = (),
    python: str = sys.executable,
) -> list[str]:
    """The command that runs Flower for the Celery app ``app``; start it with :func:`environment` of the same URL.

    ``basic_auth``: ``user:password`` of those who may look. Raises :class:`Invalid` for an ``address`` beyond loopback without
    one: it shows every job's arguments. URL and passwords stay out of the command, which every user of the machine can read.
    """
    celery_url(redis_url)  # an unusable URL is said here, not in Flower's log
    if not is_loopback(address) and not any(basic_auth):
        raise Invalid(f"Flower would be open to everybody at {address!r}: bind it to {LOOPBACK}, or give a user:password")
    return [
        python, "-m", "celery", "-A", app, "flower",
        f"--address={address}", f"--port={port}", f"--max-tasks={TASKS_MAX}", "--persistent=False",
    ]  # fmt: skip


def environment(redis_url: str, basic_auth: Sequence[str] = ()) -> dict[str, str]:
    """What the process of :func:`command` needs in its environment: the broker, whichever way the app asks for it, and logins."""
    url = celery_url(redis_url)
    logins = {"FLOWER_BASIC_AUTH": ",".join(basic_auth)} if any(basic_auth) else {}
    return {"DISPATCHER_REDIS_URL": url, "CELERY_BROKER_URL": url, **logins}


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches a port bound to ``address``. The empty address is every interface."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False
