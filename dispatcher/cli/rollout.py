"""``dispatcher rollout``: which version of a model the jobs of an alias get."""

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
"""A change is made again where a guard, or another operator, was quicker."""

force_option = click.option("--force", is_flag=True, help="Even where no worker serves the version.")


@click.group()
def rollout() -> None:
    """Share the jobs of a model's alias between its versions.

    An alias is what producers ask for (`chat`), a version what workers serve (`--models chat@2`). A session,
    or a job without one, stays with its version. Changes are heeded within a second.
    """


@rollout.command("set")
@click.argument("alias")
@click.argument("shares", nargs=-1, required=True, metavar="VERSION=PERCENT...")
@click.option("--guard/--no-guard", help="Step up by itself, and roll back by itself where the new version is worse.")
@click.option("--steps", default="5,20,50,100", show_default=True, metavar="PERCENT,...", help="Shares that a guard goes through.")
@click.option("--step-s", type=click.FloatRange(0), default=300.0, show_default=True, help="Least seconds at each.")
@click.option("--step-jobs", type=click.IntRange(1), default=50, show_default=True, help="Least runs of the new version at each.")
@click.option("--latency-ratio", type=click.FloatRange(0), default=1.5, show_default=True,
              help="Roll back what takes more than this many times as long; 0: whatever it takes.")  # fmt: skip
@force_option
@json_option
@click.pass_obj
def set_(
    session: Session, alias: str, shares: tuple[str, ...], guard: bool, steps: str, step_s: float, step_jobs: int, latency_ratio: float,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Give versions their shares of the jobs of ALIAS, in percent.

    What the shares lack to 100 goes to the version that has most now. Example: `dispatcher rollout set
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

    Steps that a guard took since are undone with it. Jobs that wait for a version which has no share
    then go to the others, to the head of the line.
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
    """Forget ALIAS: it is a model's name like any other then. Jobs that wait stay with their versions."""
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
        found = _facts(admin.rollouts(), admin.status()["lanes"])
    if alias is not None:
        found = [one for one in found if one["alias"] == alias]
        if not found:
            raise Invalid(_unknown(alias))
    if as_json:
        say(found, "", as_json=True)
    else:
        _print(found)


# -- changing


def _change(store: RolloutStore, alias: str, how: Callable[[Rollout | None, int], Rollout | None]) -> Any:
    """What is stored then."""
    for _ in range(TRIES):
        seen = store.read().get(alias)
        wanted = how(None if seen is None else seen.rollout, store.now_ms())
        if (stored := store.change(alias, seen, wanted)) is not None:
            return stored.rollout
    raise Unavailable(f"{alias} is being changed by others all the time: look at `dispatcher rollout status`, then try again")


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
            f"no worker serves {' or '.join(unserved)}: start one with --models {unserved[0]}, or say --force (then its jobs wait; they "
            "are dead letters where no worker has ever served it)"
        )


# -- telling


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
    found = []
    for alias, one in sorted(stored.items()):
        shares = one.rollout.shares()
        versions = [*shares, *(version for version in one.rollout.withdrawn if version not in shares)]
        found.append({
            "alias": alias,
            "revision": one.rollout.revision,
            "versions": [{
                "version": version, "share": shares.get(version, 0) / 100, "served": version in served, "waiting": waiting.get(version, 0),
                "withdrawn": version in one.rollout.withdrawn,
            } for version in versions],
            "guard": _guard_facts(one.rollout, watches.get(alias), now_ms),
            "outcome": one.rollout.outcome,
            "changed_s_ago": round(max(0, now_ms - one.rollout.changed_ms) / 1000, 3),
            "can_go_back": bool(one.rollout.history),
        })  # fmt: skip
    return found


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


def _print(found: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    if not found:
        click.echo("no aliases")
        return
    console = wide_console()
    table = plain_table("alias", "version", "share", "served", "waiting")
    for one in found:
        for version in one["versions"]:
            table.add_row(
                escape(one["alias"]), escape(version["version"]), "withdrawn" if version["withdrawn"] else f"{version['share']:g} %",
                "yes" if version["served"] else "no", str(version["waiting"]),
            )  # fmt: skip
    console.print(table)
    for one in found:
        if (guard := one["guard"]) is not None:
            sides = "; ".join(
                f"{side['version']} {side['runs']} runs, {side['failed']} failed, {side['mean_ms']:g} ms"
                for side in (guard["candidate"], guard["baseline"])
            )
            worst = max(guard["errors"], guard["latency"])
            click.echo(f"{one['alias']} is guarded: {guard['verdict']} ({sides}; evidence {worst:.1f} of {guard['limit']:.0f})")
        elif one["outcome"]:
            click.echo(f"{one['alias']}: {one['outcome']}")
