"""``dispatcher release``: return all unstarted jobs to plain Celery."""

from __future__ import annotations

from dataclasses import asdict

import click

from dispatcher.cli.output import count, json_option, say
from dispatcher.cli.session import Session


@click.command()
@json_option
@click.pass_obj
def release(session: Session, as_json: bool) -> None:
    """Return all unstarted jobs to plain Celery.

    Each job goes back to its queue as the message that it was. Everything stays paused afterwards, so that stock Celery
    workers can take over; `dispatcher resume` fetches the jobs again.
    """
    with session.admin() as admin:
        released = admin.emptying().release()
    say(
        {**asdict(released), "paused": True},
        f"{count(released.jobs, 'job')} back in their queues as plain Celery messages, "
        f"{released.running} still running; dispatching is paused: stop the dispatcher and start stock workers, "
        "or go on with `dispatcher resume`",
        as_json=as_json,
    )
