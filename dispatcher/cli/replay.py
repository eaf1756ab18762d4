"""``dispatcher replay``: what a dispatcher decided, decided again."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from dispatcher.cli.output import count, json_option, say


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def replay(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Make the plans of FILE, a recording of `dispatcher run --record`, again from what they were made from.

    Exit code 1 where any is not what was recorded: this version decides otherwise. Needs no Redis.
    """
    from dispatcher.recording import replay as make_again

    found = make_again(file)
    facts = {"plans": found.plans, "same": found.same, "jobs": found.jobs}
    sentence = f"{found.same} of {count(found.plans, 'plan')} are the same again; {count(found.jobs, 'job')} given out"
    if found.first_other is not None:
        line, recorded, again = found.first_other
        told = msgspec.to_builtins({"line": line, "recorded": recorded, "again": again})
        facts["first_other"] = told
        sentence += f"\nline {line} said {_assigned(told['recorded'])}; now it is {_assigned(told['again'])}"
    say(facts, sentence, as_json=as_json)
    ctx.exit(0 if found.same == found.plans else 1)


def _assigned(plan: dict[str, list[dict[str, object]]]) -> str:
    return ", ".join(f"{one['count']} of {one['lane']} to {one['epoch']}" for one in plan["assignments"]) or "nothing"
