"""The command that starts the real Flower, and its environment. Without a login Flower listens on loopback only.

Flower's Broker tab needs no ``--broker-api`` on Redis: it sends ``LLEN`` for each queue that a node says it consumes,
to the broker URL of the Celery app, which may be a unix socket. Over a unix socket it can use database 0 only, and no
path that needs percent-encoding.
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

    ``basic_auth``: ``user:password`` of each user. Raises :class:`Invalid` for an ``address`` beyond loopback without a
    login, because Flower shows every job's arguments. The URL and passwords are not in the command, which every user of
    the machine can read.
    """
    celery_url(redis_url)  # raises here for an unusable URL: the user would not look into Flower's log
    if not is_loopback(address) and not any(basic_auth):
        raise Invalid(
            f"Flower would be open to everybody at {address!r}: bind it to {LOOPBACK}, or give a user:password"
        )
    return [
        python, "-m", "celery", "-A", app, "flower",
        f"--address={address}", f"--port={port}", f"--max-tasks={TASKS_MAX}", "--persistent=False",
    ]  # fmt: skip


def environment(redis_url: str, basic_auth: Sequence[str] = ()) -> dict[str, str]:
    """What :func:`command` needs in its environment: the broker, under each name that an app may read, and logins."""
    url = celery_url(redis_url)
    logins = {"FLOWER_BASIC_AUTH": ",".join(basic_auth)} if any(basic_auth) else {}
    return {"DISPATCHER_REDIS_URL": url, "CELERY_BROKER_URL": url, **logins}


def is_loopback(address: str) -> bool:
    """True if only this machine can reach a port bound to ``address``. The empty address is every interface."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False
