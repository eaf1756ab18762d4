"""``dispatcher status``: show the cell as it is now."""

from __future__ import annotations

from typing import Any

import click

from dispatcher.cli.output import count, json_option, plain_table, say, wide_console
from dispatcher.cli.session import Session
from dispatcher.core.facts.snapshot import ALL_QUEUES


@click.command()
@json_option
@click.pass_obj
def status(session: Session, as_json: bool) -> None:
    """Show the leader, what waits, and the workers."""
    with session.admin() as admin:
        facts, paused = admin.status(), admin.paused()
    if as_json:
        say(facts, "", as_json=True)
        return
    _print(facts, paused)


def _print(facts: dict[str, Any], paused: set[str]) -> None:
    from rich.markup import escape

    console = wide_console()
    leader = facts["leader"]
    who = "no dispatcher leads"
    if leader is not None:
        who = escape(f"dispatcher pid {leader.get('pid', '?')} on {leader.get('host', '?')}")
    waiting = sum(lane["depth"] for lane in facts["lanes"])
    console.print(
        f"{who}; {count(facts['ingress'], 'job')} in the ingress, {waiting} in lanes, {facts['scheduled']} scheduled, "
        f"{count(facts['dead'], 'dead letter')}"
    )
    if facts["unroutable"]:
        lanes = count(facts["unroutable"], "lane")
        console.print(f"{lanes} that no worker may serve: `dispatcher explain JOB` says why")
    if facts["unsettled"]:
        console.print(
            f"{count(facts['unsettled'], 'dead letter')} without FAILURE in the result backend yet: the log of "
            "`dispatcher run` says why; it tries again"
        )
    if facts["unreadable"]:
        console.print(f"cannot be read, and is passed over: {escape(', '.join(facts['unreadable']))}")
    if paused:
        queues = "every queue" if ALL_QUEUES in paused else ", ".join(sorted(paused))
        console.print(f"paused: {queues} (`dispatcher resume` goes on)")
    if facts["lanes"]:
        table = plain_table("lane", "depth", "oldest", "why it waits")
        for lane in facts["lanes"]:
            why = lane["why"]["text"] if lane["why"] is not None else "-"
            table.add_row(escape(lane["lane"]), str(lane["depth"]), f"{lane['oldest_s']:.1f} s", escape(why))
        console.print(table)
    if not facts["workers"]:
        console.print("no workers")
        return
    table = plain_table(
        "worker", "state", "weight", "slots", "threads", "leased", "running", "done", "failed", "last beat", "pid",
        "models", "in memory", "labels",
    )  # fmt: skip
    for worker in facts["workers"]:
        age = worker["beat_age_s"]
        table.add_row(
            escape(worker["name"]), worker["state"], f"{worker['weight']:g}", str(worker["concurrency"]),
            str(worker["threads"] or "-"), str(worker["leased"]), str(worker["running"]),
            str(worker["done"]), str(worker["failed"]),
            "-" if age is None else f"{age:.1f} s", str(worker["pid"]), escape(",".join(worker["models"])),
            escape(_in_memory(worker["resident"])),
            escape(",".join(f"{key}={value}" for key, value in worker["labels"].items())),
        )  # fmt: skip
    console.print(table)
    for worker in facts["workers"]:
        if worker["refused"]:
            console.print(escape(f"Redis refuses what {worker['name']} needs: {worker['refused']}"))


def _in_memory(models: list[str] | None) -> str:
    """Models in a worker's memory; ``-`` if the worker does not report them, which is not the same as holding none."""
    return "-" if models is None else ",".join(models) or "none"
