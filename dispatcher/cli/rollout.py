"""``dispatcher rollout``: choose which version of a model the jobs of an alias get."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dispatcher.cli.output import json_option, plain_table, say, wide_console
from dispatcher.cli.session import Session
from dispatcher.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from dispatcher.core.rollout.aliases import Rollout
    from dispatcher.core.rollout.changes import GuardPlan
    from dispatcher.store.leader.rollout_store import RolloutStore

TRIES = 10
"""How often a change is tried again after a guard or another operator changed the alias first."""

force_option = click.option("--force", is_flag=True, help="Change it even if no worker serves the version.")


@click.group()
def rollout() -> None:
    """Share the jobs of a model's alias between its versions.

    Producers ask for an alias (`chat`); workers serve versions (`--models chat@2`). All jobs of a session get the same
    version. A change takes effect within a second.
    """


@rollout.command("set")
@click.argument("alias")
@click.argument("shares", nargs=-1, required=True, metavar="VERSION=PERCENT...")
@click.option("--guard/--no-guard",
              help="Raise the share in steps by itself, and roll back by itself if the new version is worse.")
@click.option("--steps", default="5,20,50,100", show_default=True, metavar="PERCENT,...", help="The steps of a guard.")
@click.option("--step-s", type=click.FloatRange(0), default=300.0, show_default=True,
              help="Least seconds at each step.")
@click.option("--step-jobs", type=click.IntRange(1), default=50, show_default=True,
              help="Least runs of the new version at each step.")
@click.option("--latency-ratio", type=click.FloatRange(0), default=1.5, show_default=True,
              help="Roll back if the new version takes more than this many times as long; 0: never for that.")
@force_option
@json_option
@click.pass_obj
def set_(
    session: Session, alias: str, shares: tuple[str, ...], guard: bool, steps: str, step_s: float, step_jobs: int,
    latency_ratio: float, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Give versions their shares of the jobs of ALIAS, in percent.

    The rest, up to 100, goes to the version with the largest share now. Example: `dispatcher rollout set
    chat chat@2=5 --guard`.
    """
    from dispatcher.cli.shares import parse_shares
    from dispatcher.core.rollout.changes import set_shares

    wanted = parse_shares(shares)
    plan = _plan(steps, step_s, step_jobs, latency_ratio) if guard else None
    with session.admin() as admin:
        store = admin.rollouts()
        _check_names(store, alias, wanted, force=force)
        changed = _change(store, alias, lambda seen, now_ms: set_shares(seen, wanted, now_ms, guard=plan))
    _say(alias, changed, as_json)


@rollout.command()
@click.argument("alias")
@click.argument("version", required=False)
@force_option
@json_option
@click.pass_obj
def promote(session: Session, alias: str, version: str | None, force: bool, as_json: bool) -> None:
    """Give all jobs of ALIAS to VERSION, by default to the canary."""
    from dispatcher.core.rollout import changes as core

    with session.admin() as admin:
        store = admin.rollouts()

        def promoted(seen: Rollout | None, now_ms: int) -> Rollout:
            after = core.promote(_known(alias, seen), version, now_ms)
            _check_names(store, alias, after.shares(), force=force)
            return after

        changed = _change(store, alias, promoted)
    _say(alias, changed, as_json)


@rollout.command()
@click.argument("alias")
@json_option
@click.pass_obj
def back(session: Session, alias: str, as_json: bool) -> None:
    """Undo the last `set` or `promote` of ALIAS, at once.

    This also undoes the steps that a guard took since. Jobs that wait for a version that is left without a share go to
    the other versions, at the head of the line.
    """
    from dispatcher.core.rollout import changes as core

    with session.admin() as admin:
        store = admin.rollouts()
        changed = _change(store, alias, lambda seen, now_ms: core.back(_known(alias, seen), now_ms))
        unserved = sorted(changed.shares().keys() - store.served())
    _say(alias, changed, as_json)
    if unserved:
        click.echo(f"warning: no worker serves {' or '.join(unserved)}", err=True)


@rollout.command()
@click.argument("alias")
@json_option
@click.pass_obj
def remove(session: Session, alias: str, as_json: bool) -> None:
    """Forget ALIAS: then it is the name of a model like any other. Waiting jobs stay with their versions."""
    with session.admin() as admin:

        def removed(seen: Rollout | None, _: int) -> None:
            _known(alias, seen)

        _change(admin.rollouts(), alias, removed)
    say({"alias": alias, "removed": True}, f"{alias} is no alias any more", as_json=as_json)


@rollout.command()
@click.argument("alias", required=False)
@json_option
@click.pass_obj
def status(session: Session, alias: str | None, as_json: bool) -> None:
    """Show the versions of ALIAS, or of every alias, and what a guard has seen."""
    with session.admin() as admin:
        aliases = _facts(admin.rollouts(), admin.status()["lanes"])
    if alias is not None:
        aliases = [facts for facts in aliases if facts["alias"] == alias]
        if not aliases:
            raise Invalid(_unknown(alias))
    if as_json:
        say(aliases, "", as_json=True)
    else:
        _print(aliases)


# -- changing


def _change(store: RolloutStore, alias: str, how: Callable[[Rollout | None, int], Rollout | None]) -> Any:
    """Change an alias; returns what is stored then. Raises :class:`Unavailable` if others keep changing it."""
    for _ in range(TRIES):
        seen = store.read().get(alias)
        wanted = how(None if seen is None else seen.rollout, store.now_ms())
        if (stored := store.change(alias, seen, wanted)) is not None:
            return stored.rollout
    raise Unavailable(
        f"others changed {alias} each time before this could: look at `dispatcher rollout status`, then try again"
    )


def _known(alias: str, seen: Rollout | None) -> Rollout:
    if seen is None:
        raise Invalid(_unknown(alias))
    return seen


def _unknown(alias: str) -> str:
    return f"there is no alias {alias!r}: `dispatcher rollout set {alias} VERSION=100` makes one"


def _plan(steps: str, step_s: float, step_jobs: int, latency_ratio: float) -> GuardPlan:
    from dispatcher.cli.shares import parse_percent
    from dispatcher.core.rollout.changes import GuardPlan

    points = tuple(parse_percent(step.strip()) for step in steps.split(","))
    if list(points) != sorted(set(points)) or not points[0]:
        raise Invalid(f"--steps is {steps}: each must be more than the one before")
    return GuardPlan(points, step_s, step_jobs, latency_ratio)


def _check_names(store: RolloutStore, alias: str, shares: dict[str, int], *, force: bool) -> None:
    if nested := sorted(shares.keys() & (store.read().keys() - {alias})):
        raise Invalid(f"{nested[0]!r} is an alias itself: name a version of it")
    unserved = sorted({version for version, share in shares.items() if share} - store.served())
    if unserved and not force:
        raise Invalid(
            f"no worker serves {' or '.join(unserved)}: start one with --models {unserved[0]}, or say --force "
            "(then its jobs wait, or become dead letters if no worker has ever served it)"
        )


# -- printing


def _say(alias: str, changed: Rollout, as_json: bool) -> None:
    from dispatcher.core.rollout.aliases import percent

    shares = changed.shares()
    sentence = f"{alias}: " + ", ".join(f"{version} {percent(points)}" for version, points in shares.items())
    if changed.guard is not None:
        steps = ", ".join(map(percent, changed.guard.steps)) or "no further step"
        sentence += f"; guarded against {changed.guard.baseline}, then {steps}"
    facts = {
        "alias": alias, "revision": changed.revision, "guarded": changed.guard is not None,
        "shares": {version: points / 100 for version, points in shares.items()},
    }  # fmt: skip
    say(facts, sentence, as_json=as_json)


def _facts(store: RolloutStore, lanes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from dispatcher.core.facts.lane import parse_lane

    waiting: dict[str, int] = {}
    for lane in lanes:
        model = parse_lane(lane["lane"]).model
        waiting[model] = waiting.get(model, 0) + lane["depth"]
    stored, watches, served, now_ms = store.read(), store.watches(), store.served(), store.now_ms()
    aliases = []
    for alias, entry in sorted(stored.items()):
        rollout = entry.rollout
        shares = rollout.shares()
        versions = [*shares, *(version for version in rollout.withdrawn if version not in shares)]
        aliases.append({
            "alias": alias,
            "revision": rollout.revision,
            "versions": [{
                "version": version, "share": shares.get(version, 0) / 100, "served": version in served,
                "waiting": waiting.get(version, 0), "withdrawn": version in rollout.withdrawn,
            } for version in versions],
            "guard": _guard_facts(rollout, watches.get(alias), now_ms),
            "outcome": rollout.outcome,
            "changed_s_ago": round(max(0, now_ms - rollout.changed_ms) / 1000, 3),
            "can_go_back": bool(rollout.history),
        })  # fmt: skip
    return aliases


def _guard_facts(rollout: Rollout, watch: Any, now_ms: int) -> dict[str, Any] | None:
    from dispatcher.core.rollout.canary import LIMIT, Watch, verdict

    guard = rollout.guard
    if guard is None:
        return None
    if watch is None or watch.began_ms != guard.began_ms:
        watch = Watch(guard.began_ms)
    facts = {
        role: {"version": version, "runs": tally.runs, "failed": tally.failed, "mean_ms": round(tally.mean_ms, 1)}
        for role, version, tally in (
            ("baseline", guard.baseline, watch.baseline), ("candidate", guard.candidate, watch.candidate)
        )
    }  # fmt: skip
    return facts | {
        "steps": [share / 100 for share in guard.steps],
        "errors": round(watch.errors.value(guard.stages), 3),
        "latency": round(watch.latency.value(guard.stages), 3),
        "limit": LIMIT,
        "verdict": verdict(watch, guard, now_ms).reason,
    }


def _print(aliases: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    if not aliases:
        click.echo("no aliases")
        return
    console = wide_console()
    table = plain_table("alias", "version", "share", "served", "waiting")
    for facts in aliases:
        for version in facts["versions"]:
            share = "withdrawn" if version["withdrawn"] else f"{version['share']:g} %"
            served = "yes" if version["served"] else "no"
            table.add_row(escape(facts["alias"]), escape(version["version"]), share, served, str(version["waiting"]))
    console.print(table)
    for facts in aliases:
        if (guard := facts["guard"]) is not None:
            sides = "; ".join(
                f"{side['version']} {side['runs']} runs, {side['failed']} failed, {side['mean_ms']:g} ms"
                for side in (guard["candidate"], guard["baseline"])
            )
            worst = max(guard["errors"], guard["latency"])
            evidence = f"evidence {worst:.1f} of {guard['limit']:.0f}"
            click.echo(f"{facts['alias']} is guarded: {guard['verdict']} ({sides}; {evidence})")
        elif facts["outcome"]:
            click.echo(f"{facts['alias']}: {facts['outcome']}")
