"""``dispatcher pause`` and ``dispatcher resume``."""

from __future__ import annotations

import click

from dispatcher.cli.output import json_option, say
from dispatcher.cli.session import Session


@click.command()
@click.argument("queue", required=False)
@json_option
@click.pass_obj
def pause(session: Session, queue: str | None, as_json: bool) -> None:
    """Start no more jobs of QUEUE, or of any queue. What runs goes on."""
    with session.admin() as admin:
        admin.pause(queue)
        paused = sorted(admin.paused())
    say({"paused": paused}, f"{queue or 'every queue'} is paused; `dispatcher resume` goes on", as_json=as_json)


@click.command()
@click.argument("queue", required=False)
@json_option
@click.pass_obj
def resume(session: Session, queue: str | None, as_json: bool) -> None:
    """Start jobs of QUEUE again, or of every queue."""
    with session.admin() as admin:
        admin.resume(queue)
        paused = sorted(admin.paused())
    still = f"; still paused: {', '.join(paused)}" if paused and queue is None else ""
    say({"paused": paused}, f"{queue or 'every queue'} goes on{still}", as_json=as_json)
