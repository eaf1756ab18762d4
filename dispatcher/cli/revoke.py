"""``dispatcher revoke``: keep jobs from being started, as Celery's revoke does."""

from __future__ import annotations

import click

from dispatcher.cli.output import count, json_option, say
from dispatcher.cli.session import Session

ANSWERS_WAIT_S = 1.0


@click.command()
@click.argument("task_ids", nargs=-1, required=True, metavar="TASK_ID...")
@click.option("--terminate", is_flag=True, help="Also end jobs that run, by sending --signal to their process.")
@click.option("--signal", default="SIGTERM", show_default=True, help="The signal that --terminate sends.")
@json_option
@click.pass_obj
def revoke(session: Session, task_ids: tuple[str, ...], terminate: bool, signal: str, as_json: bool) -> None:
    """Make sure that the jobs with these task ids are not started any more.

    As Celery's own revoke, but it also holds if no worker and no dispatcher runs now.
    """
    from dispatcher.observe.node import mark_revoked
    from dispatcher.store.worker.revoke_store import RevokeStore, id_members
    from dispatcher.wiring import connect_cell, keys_of

    settings = session.connected_settings()
    app = session.celery_app(settings)
    with connect_cell(settings, session.user_app()) as client:
        RevokeStore(client, keys_of(settings, app), kept_s=settings.revokes_kept_s).add(id_members(task_ids))
    ids = list(task_ids)
    replies = app.control.revoke(ids, terminate=terminate, signal=signal, reply=True, timeout=ANSWERS_WAIT_S) or []
    if not replies:
        mark_revoked(app, task_ids)
    nodes = sorted(name for reply in replies for name in reply)
    heard = f"{count(len(nodes), 'node')} heard of it" if nodes else "no worker and no dispatcher runs to hear of it"
    sentence = f"{count(len(ids), 'task')} will not be started; {heard}"
    say({"revoked": ids, "nodes": nodes}, sentence, as_json=as_json)
