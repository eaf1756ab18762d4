"""``dispatcher dead``: list dead letters, send them back, or forget them."""

from __future__ import annotations

from dataclasses import asdict

import click

from dispatcher.cli.output import count, json_option, plain_table, say, wide_console
from dispatcher.cli.session import Session


@click.group()
def dead() -> None:
    """List dead letters (jobs that the dispatcher gave up), send them back, or forget them."""


@dead.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="List only the newest.")
@json_option
@click.pass_obj
def list_(session: Session, limit: int, as_json: bool) -> None:
    """List dead letters with their reasons, the newest first."""
    with session.admin() as admin:
        letters = admin.dead_letters().list(limit)
    if as_json:
        say([asdict(letter) for letter in letters], "", as_json=True)
        return
    if not letters:
        click.echo("no dead letters")
        return
    from rich.markup import escape

    from dispatcher.core.returns.poison import story_text

    table = plain_table("job", "died", "queue", "task", "task id", "reason")
    for letter in letters:
        reason = ": ".join(part for part in (letter.reason, letter.detail, story_text(letter.story)) if part)
        names = (letter.ingress or "-", letter.task or "-", letter.task_id or "-")
        cells = (letter.job, f"{letter.died_s_ago:.0f} s ago", *names, reason)
        table.add_row(*(escape(cell) for cell in cells))
    wide_console().print(table)


@dead.command()
@click.argument("jobs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@json_option
@click.pass_obj
def requeue(session: Session, jobs: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Send dead letters back to the queues they came from. JOBS are numbers that `dead list` shows."""
    named = _named(jobs, everything)
    with session.admin() as admin:
        requeued = admin.dead_letters().requeue(named)
    say({"requeued": requeued}, f"{count(requeued, 'job')} back in line", as_json=as_json)
    _check_all_known(named, requeued)


@dead.command()
@click.argument("jobs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@json_option
@click.pass_obj
def purge(session: Session, jobs: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Forget dead letters. JOBS are numbers that `dead list` shows."""
    named = _named(jobs, everything)
    with session.admin() as admin:
        purged = admin.dead_letters().purge(named)
    say({"purged": purged}, f"{count(purged, 'dead letter')} forgotten", as_json=as_json)
    _check_all_known(named, purged)


def _named(jobs: tuple[str, ...], everything: bool) -> list[str] | None:
    if bool(jobs) == everything:
        raise click.UsageError(
            "name the jobs, as `dispatcher dead list` shows them, or say --all", click.get_current_context()
        )
    return None if everything else list(dict.fromkeys(jobs))


def _check_all_known(named: list[str] | None, done: int) -> None:
    if named is not None and done < len(named):
        raise click.ClickException(
            f"{len(named) - done} of the {len(named)} named are no dead letters: `dispatcher dead list` shows their "
            "numbers under `job`"
        )
