"""``dispatcher explain``: where a job is, and why there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dispatcher.cli.output import count, json_option, plain_table, say, wide_console
from dispatcher.cli.session import Session

if TYPE_CHECKING:
    from celery import Celery
    from rich.console import Console

UNKNOWN = (
    "nothing is known of this job: it was never sent here, was forgotten (`dispatcher purge`, or the result expired), or is older than "
    "the decision log"
)
SHOWN_WORKERS = 20


@click.command()
@click.argument("job_id", metavar="JOB_ID")
@json_option
@click.pass_obj
def explain(session: Session, job_id: str, as_json: bool) -> None:
    """Say where a job is, which workers may have it and what each would make of it, and where it went before.

    JOB_ID is Celery's task id, or a number that `dispatcher dead list` shows.
    """
    from dispatcher.leader.telling.explain import Explainer
    from dispatcher.wiring import connect_cell, keys_of

    with session.admin() as admin:
        queues = sorted(admin.ingress_queues())
    settings = session.connected_settings()
    app = session.user_app()
    with connect_cell(settings, app, text=False) as client:
        facts = Explainer(
            client, keys_of(settings, app), settings, queues, lambda task_id: _result(session.celery_app(settings), task_id)
        ).explain(job_id)
    if as_json:
        say(facts, "", as_json=True)
    else:
        _print(facts)
    if facts["place"] == "unknown":
        click.get_current_context().exit(1)


def _result(app: Celery, task_id: str) -> dict[str, Any] | None:
    """What the result backend has of the task; ``None`` where that is nothing, or there is no such backend to ask."""
    try:
        meta = app.backend.get_task_meta(task_id)
    except Exception:  # noqa: BLE001 (a backend may raise anything, and its word is not needed)
        return None
    if meta["status"] == "PENDING":
        return None
    failed = isinstance(meta.get("result"), BaseException)
    detail = f"{type(meta['result']).__name__}: {meta['result']}"[:500] if failed else ""
    return {"status": meta["status"], "detail": detail, "date_done": str(meta.get("date_done") or "")}


def _print(facts: dict[str, Any]) -> None:
    from rich.markup import escape

    from dispatcher.core.returns.poison import told

    console = wide_console()
    console.print(escape(f"job {facts['job_id']}: {_sentence(facts)}"))
    if facts.get("came_back"):
        console.print("it came back: " + ", ".join(f"{number} × {cause}" for cause, number in facts["came_back"].items()))
    for number, line in enumerate(facts.get("story", ()), start=1):
        console.print(escape(f"    {told([line], first=number)}"))
    if "deadline_in_s" in facts:
        console.print(f"it is of no use after {facts['deadline_in_s']:.1f} s from now")
    if "candidates" in facts:
        _print_candidates(console, facts)
    if facts["decisions"]:
        _print_decisions(console, facts["decisions"])


def _sentence(facts: dict[str, Any]) -> str:
    match facts["place"]:
        case "ingress":
            return f"in the ingress, behind {count(facts['before'], 'message')} of its list: {facts['why']}"
        case "scheduled":
            return f"scheduled, due in {facts['due_in_s']:.1f} s; then in lane {facts['lane']}"
        case "lane":
            return (
                f"waits in lane {facts['lane']} since {facts['admitted_s_ago']:.1f} s, behind {facts['before']} of {facts['depth']}: "
                f"{facts['why']}"
            )
        case "leased":
            return f"leased to {facts['worker']}, which has not started it; admitted {facts['admitted_s_ago']:.1f} s ago"
        case "running":
            return f"runs on {facts['worker']} since {facts['running_s']:.1f} s; expected cost {facts['cost_s']:g} s"
        case "dead":
            return f"dead letter since {facts['died_s_ago']:.0f} s, {facts['reason']}: {facts['detail']}"
        case "unknown":
            return UNKNOWN
        case "ended":
            return "is not in keeping any more, and has left no result that could be read"
        case place:
            result = facts["result"]
            done = f" at {result['date_done']}" if result["date_done"] else ""
            return f"{place}{done}" + (f": {result['detail']}" if result["detail"] else "")


def _print_candidates(console: Console, facts: dict[str, Any]) -> None:
    from rich.markup import escape

    found = facts["candidates"]
    if not found:
        console.print("there is no worker")
        return
    table = plain_table("worker", f"score ({facts['strategy']})", "made of", "speed", "why not now")
    for one in found[:SHOWN_WORKERS]:
        score = "-" if one["score"] is None else f"{one['score']:,.3g}" if one["score"] < 1000 else f"{one['score']:,.0f}"
        speed = "-" if one["speed"] is None else f"{one['speed']:g}"
        table.add_row(escape(one["worker"]), score, _terms(one["terms"]), speed, escape(one["refused"] or "-"))
    console.print(table)
    if len(found) > SHOWN_WORKERS:
        console.print(f"and {count(len(found) - SHOWN_WORKERS, 'worker')} more: see --json")


def _print_decisions(console: Console, decisions: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    for one in decisions:
        console.print(
            escape(
                f"{one['s_ago']:.1f} s ago it went to {one['worker']}, by {one['strategy']} with score {one['score']:,.4g}, after "
                f"{one['waited_s']:.1f} s of waiting, with {count(one['together_with'], 'other')} of its lane"
            )
        )
        for other in one["ranking"]:
            full = "; full" if other["full"] else ""
            console.print(escape(f"    {other['worker']}: {other['score']:,.4g} ({_terms(other['terms'])}{full})"))
        for kind, refused in one["refused"].items():
            console.print(escape(f"    {refused['workers']} × {kind}: {refused['example']}"))


def _terms(terms: dict[str, float]) -> str:
    return " ".join(f"{name.removesuffix('_ms')} {term:,.0f} ms" for name, term in terms.items()) or "-"
