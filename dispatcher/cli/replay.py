"""``dispatcher replay``: make recorded plans again, and compare."""

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
    """Make every plan in FILE, a recording of `dispatcher run --record`, again from the same facts.

    Exit code 1 if any plan differs from the recorded plan: this version decides otherwise. Needs no Redis.
    """
    from dispatcher.recording import replay as make_again

    result = make_again(file)
    facts = {"plans": result.plans, "same": result.same, "jobs": result.jobs}
    jobs = count(result.jobs, "job")
    sentence = f"{result.same} of {count(result.plans, 'plan')} are the same again; {jobs} given out"
    if result.first_other is not None:
        line, recorded, again = result.first_other
        plans = msgspec.to_builtins({"line": line, "recorded": recorded, "again": again})
        facts["first_other"] = plans
        sentence += f"\nline {line} said {_assigned(plans['recorded'])}; now it is {_assigned(plans['again'])}"
    say(facts, sentence, as_json=as_json)
    ctx.exit(0 if result.same == result.plans else 1)


def _assigned(plan: dict[str, list[dict[str, object]]]) -> str:
    parts = [f"{assign['count']} of {assign['lane']} to {assign['epoch']}" for assign in plan["assignments"]]
    return ", ".join(parts) or "nothing"
