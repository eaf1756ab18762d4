"""``dispatcher drain`` and ``dispatcher undrain``."""

from __future__ import annotations

import click

from dispatcher.cli.output import json_option, say
from dispatcher.cli.session import Session


@click.command()
@click.argument("worker")
@click.option("--keep", is_flag=True,
              help="The worker does not exit when it has finished; `undrain` puts it back to work.")
@json_option
@click.pass_obj
def drain(session: Session, worker: str, keep: bool, as_json: bool) -> None:
    """Give WORKER no new jobs; let it finish what it runs, and exit.

    Jobs that it has not started go to other workers at once.
    """
    with session.admin() as admin:
        name = admin.drain(worker, keep=keep)
    then = "stays" if keep else "exits"
    facts = {"worker": name, "draining": "keep" if keep else "exit"}
    say(facts, f"{name} finishes what it runs, then {then}", as_json=as_json)


@click.command()
@click.argument("worker")
@json_option
@click.pass_obj
def undrain(session: Session, worker: str, as_json: bool) -> None:
    """Put a WORKER that was drained with --keep back to work."""
    with session.admin() as admin:
        name = admin.undrain(worker)
    say({"worker": name, "draining": ""}, f"{name} gets jobs again", as_json=as_json)
