"""``dispatcher explain``: say where a job is, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dispatcher.cli.output import count, json_option, plain_table, say, wide_console
from dispatcher.cli.session import Session

if TYPE_CHECKING:
    from celery import Celery
    from rich.console import Console

UNKNOWN = (
    "nothing is known of this job: it was never sent here, was forgotten (`dispatcher purge`, or the result expired), "
    "or is older than the decision log"
)
WORKERS_SHOWN = 20


@click.command()
@click.argument("job_id", metavar="JOB_ID")
@json_option
@click.pass_obj
def explain(session: Session, job_id: str, as_json: bool) -> None:
    """Say where a job is, which workers may run it and how they score, and where it has been.

    JOB_ID is Celery's task id, or a number that `dispatcher dead list` shows.
    """
    from dispatcher.leader.telling.explain import Explainer
    from dispatcher.wiring import connect_cell, keys_of

    with session.admin() as admin:
        queues = sorted(admin.ingress_queues())
    settings = session.connected_settings()
    app = session.user_app()
    with connect_cell(settings, app, text=False) as client:
        keys = keys_of(settings, app)
        explainer = Explainer(
            client, keys, settings, queues, lambda task_id: _result(session.celery_app(settings), task_id)
        )
        facts = explainer.explain(job_id)
    if as_json:
        say(facts, "", as_json=True)
    else:
        _print(facts)
    if facts["place"] == "unknown":
        click.get_current_context().exit(1)


def _result(app: Celery, task_id: str) -> dict[str, Any] | None:
    """The task's record in the result backend; ``None`` if it has none, or does not answer."""
    try:
        meta = app.backend.get_task_meta(task_id)
    except Exception:  # noqa: BLE001 (a backend may raise anything, and explain can do without it)
        return None
    if meta["status"] == "PENDING":
        return None
    failed = isinstance(meta.get("result"), BaseException)
    detail = f"{type(meta['result']).__name__}: {meta['result']}"[:500] if failed else ""
    return {"status": meta["status"], "detail": detail, "date_done": str(meta.get("date_done") or "")}


def _print(facts: dict[str, Any]) -> None:
    from rich.markup import escape

    from dispatcher.core.returns.poison import story_text

    console = wide_console()
    console.print(escape(f"job {facts['job_id']}: {_sentence(facts)}"))
    if (revoked := _revoked(facts)) is not None:
        console.print(revoked)
    if facts.get("came_back"):
        causes = ", ".join(f"{number} × {cause}" for cause, number in facts["came_back"].items())
        console.print(f"it came back: {causes}")
    for number, line in enumerate(facts.get("story", ()), start=1):
        console.print(escape(f"    {story_text([line], first=number)}"))
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
                f"waits in lane {facts['lane']} since {facts['admitted_s_ago']:.1f} s, "
                f"behind {facts['before']} of {facts['depth']}: {facts['why']}"
            )
        case "leased":
            admitted = f"admitted {facts['admitted_s_ago']:.1f} s ago"
            return f"leased to {facts['worker']}, which has not started it; {admitted}"
        case "running":
            return f"runs on {facts['worker']} since {facts['running_s']:.1f} s; expected cost {facts['cost_s']:g} s"
        case "dead":
            return f"dead letter since {facts['died_s_ago']:.0f} s, {facts['reason']}: {facts['detail']}"
        case "unknown":
            return UNKNOWN
        case "ended":
            return "has left the dispatcher, and no result of it can be read"
        case place:
            result = facts["result"]
            done = f" at {result['date_done']}" if result["date_done"] else ""
            return f"{place}{done}" + (f": {result['detail']}" if result["detail"] else "")


def _revoked(facts: dict[str, Any]) -> str | None:
    """What a revoke means for the job where it is; ``None`` without a revoke, or where the result tells of it."""
    if "revoked_s_ago" not in facts or facts["place"] == "revoked":
        return None
    revoked = f"it was revoked {facts['revoked_s_ago']:.1f} s ago"
    match facts["place"]:
        case "ingress" | "scheduled" | "lane" | "leased":
            return f"{revoked}: the worker that takes it will not run it, and store REVOKED"
        case "running":
            return f"{revoked}: a run that has begun ends as any other, unless it was revoked with terminate"
        case "dead":
            return f"{revoked}: sent back with `dispatcher dead requeue`, it would not run"
        case _:
            return revoked


def _print_candidates(console: Console, facts: dict[str, Any]) -> None:
    from rich.markup import escape

    candidates = facts["candidates"]
    if not candidates:
        console.print("there is no worker")
        return
    table = plain_table("worker", f"score ({facts['strategy']})", "made of", "speed", "why not now")
    for worker in candidates[:WORKERS_SHOWN]:
        speed = "-" if worker["speed"] is None else f"{worker['speed']:g}"
        cells = _score(worker["score"]), _terms(worker["terms"]), speed, escape(worker["refused"] or "-")
        table.add_row(escape(worker["worker"]), *cells)
    console.print(table)
    if len(candidates) > WORKERS_SHOWN:
        console.print(f"and {count(len(candidates) - WORKERS_SHOWN, 'worker')} more: see --json")


def _score(score: float | None) -> str:
    if score is None:
        return "-"
    return f"{score:,.3g}" if score < 1000 else f"{score:,.0f}"


def _print_decisions(console: Console, decisions: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    for decision in decisions:
        console.print(
            escape(
                f"{decision['s_ago']:.1f} s ago it went to {decision['worker']}, by {decision['strategy']} with score "
                f"{decision['score']:,.4g}, after {decision['waited_s']:.1f} s of waiting, with "
                f"{count(decision['together_with'], 'other')} of its lane"
            )
        )
        for other in decision["ranking"]:
            full = "; full" if other["full"] else ""
            console.print(escape(f"    {other['worker']}: {other['score']:,.4g} ({_terms(other['terms'])}{full})"))
        for kind, refused in decision["refused"].items():
            console.print(escape(f"    {refused['workers']} × {kind}: {refused['example']}"))


def _terms(terms: dict[str, float]) -> str:
    return " ".join(f"{name.removesuffix('_ms')} {term:,.0f} ms" for name, term in terms.items()) or "-"
