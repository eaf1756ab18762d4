"""``dispatcher purge``: forget all waiting jobs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dispatcher.cli.output import count, json_option, say
from dispatcher.cli.session import Session
from dispatcher.errors import JobDead, Unavailable

PURGED = JobDead("purged", "an operator gave up all waiting jobs")


@click.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask for confirmation.")
@json_option
@click.pass_obj
def purge(session: Session, force: bool, as_json: bool) -> None:
    """Forget every job that waits.

    Jobs that workers hold already are left alone, and so are dead letters. A forgotten job gets the state FAILURE in
    the result backend (with -A, in your app's), so that nobody waits for its result in vain.
    """
    from dispatcher.leader.settle import store_failure

    app = session.celery_app(session.connected_settings())
    failures: list[Exception] = []

    def store_failures(messages: Sequence[str]) -> None:
        for message in messages:
            try:
                store_failure(app, PURGED, message)
            except Exception as exc:  # noqa: BLE001 (a backend may raise anything; the other jobs need their state too)
                failures.append(exc)

    with session.admin() as admin:
        if not force:
            facts = admin.status()
            waiting = facts["ingress"] + facts["scheduled"] + sum(lane["depth"] for lane in facts["lanes"])
            click.confirm(f"Forget {count(waiting, 'waiting job')}? They cannot be brought back", abort=True, err=True)
        purged = admin.emptying().purge(store_failures)
    say({"purged": purged}, f"{count(purged, 'job')} forgotten", as_json=as_json)
    if failures:
        raise Unavailable(
            f"the result backend did not take the state of {len(failures)} of them, whose results never come: "
            f"{failures[0]}"
        )
