"""``dispatcher run``: the dispatcher, without Redis and workers."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import redis

from dispatcher.cli.session import Session
from dispatcher.errors import FormatMismatch, Invalid
from dispatcher.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger("dispatcher")


@click.command()
@click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), default="INFO",
              show_default=True)
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write every plan down, with all it was made from, for `dispatcher replay`. A plan takes 3 KB, and "
              "more for a large fleet: record for minutes, not for days.")
@click.pass_obj
def run(session: Session, log_level: str, record: Path | None) -> None:
    """Run the dispatcher until Ctrl-C or SIGTERM. A second one stands by and takes over within seconds.

    With -A it takes broker, transport options, result backend and accept_content from that Celery app.
    """
    from dispatcher.cli.signals import stop_signals
    from dispatcher.core.choosing.recorded import Recorder
    from dispatcher.recording import open_recording
    from dispatcher.store.redis_client.transports import own_transport
    from dispatcher.wiring import build_dispatcher

    log_to_stderr(log_level)
    settings = session.connected_settings()
    app = session.celery_app(settings)
    if (why := own_transport(app.connection_for_read())) is not None:
        raise Invalid(why)
    refuse_unfit_redis(settings, app)
    with stop_signals() as stop, ExitStack() as files:
        recorder = None
        if record is not None:
            recorder = Recorder(files.enter_context(open_recording(record, settings)).write)
        build_dispatcher(settings, app, recorder=recorder).run(stop)


def log_to_stderr(level: str) -> None:
    """Log to stderr, as a service does: each event on a line, with its date."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")


def refuse_unfit_redis(settings: Settings, app: Celery) -> None:
    """Raise :class:`Invalid` if Redis would throw jobs away, is too old, or holds what this version cannot read.

    A Redis that does not answer is not refused: it may be starting.
    """
    from dispatcher.store.format_store import FormatStore
    from dispatcher.store.formats import FORMATS
    from dispatcher.store.redis_client.server import read_server_facts
    from dispatcher.wiring import connect_cell, keys_of

    try:
        with connect_cell(settings, app) as client:
            facts = read_server_facts(client)
            formats = FormatStore(client, keys_of(settings, app)).read()
    except redis.AuthenticationError as exc:
        raise Invalid(
            f"Redis refuses the login ({exc}): correct the user and password in DISPATCHER_REDIS_URL"
        ) from exc
    except redis.RedisError as exc:
        log.warning("Redis does not answer yet, so nothing is known of its version and settings: %s", exc)
        return
    if facts.problems:
        raise Invalid("; ".join(facts.problems))
    if (why := formats.refusal("this dispatcher", FORMATS)) is not None:
        raise FormatMismatch(why)
    for warning in facts.warnings:
        log.warning("%s", warning)
