"""``dispatcher submit``: run a batch file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dispatcher.cli.output import count, json_option, say
from dispatcher.cli.session import Session

if TYPE_CHECKING:
    from dispatcher.batches import Progress, Summary

INTERRUPTED = 130


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE",
              help="The file for results, a line each.")
@click.option("--errors", type=click.Path(path_type=Path), metavar="FILE",
              help="The file for failed lines.  [default: OUT.errors.jsonl]")
@click.option("--model", metavar="NAME", help="Run every line on this model, whatever model it names.")
@click.option("--url", metavar="URL",
              help="Where lines go that name no url, such as /v1/chat/completions.  [default: what the body has]")
@click.option("--queue", metavar="NAME", help="The queue to send to.  [default: the first of ingress_queues]")
@click.option("--resume", is_flag=True, help="Finish what an earlier submit with the same --out left undone.")
@json_option
@click.pass_context
def submit(
    ctx: click.Context, file: Path, out: Path, errors: Path | None, model: str | None, url: str | None,
    queue: str | None, resume: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run a batch file, and write the result of each line once.

    FILE holds requests in the OpenAI batch format, one JSON object a line. Azure's urls, lines of custom_id and body
    alone (Mistral, Together, Fireworks) and Anthropic's requests are read too; bodies are handed on as they are.

    After Ctrl-C, the same command with --resume does the rest. Exit code 0: every line succeeded, 1: some failed,
    130: interrupted.
    """
    from dispatcher.batches import submit_file

    session: Session = ctx.obj
    settings = session.connected_settings()
    last: list[Progress] = []
    try:
        with _shown_progress() as show:
            def note(progress: Progress) -> None:
                last[:] = [progress]
                show(progress)

            summary = submit_file(
                session.celery_app(settings), file, out, model=model, url=url, errors=errors, resume=resume,
                progress=note, settings=settings, queue=queue or settings.ingress_queues[0],
            )  # fmt: skip
    except KeyboardInterrupt:
        done = f"{last[0].done} of {last[0].lines} lines are done" if last else "nothing is done yet"
        click.echo(f"interrupted, {done}; the same command with --resume finishes it", err=True)
        ctx.exit(INTERRUPTED)
    _say_summary(summary, as_json=as_json)
    ctx.exit(0 if summary.ok else 1)


def _say_summary(summary: Summary, *, as_json: bool) -> None:
    progress = summary.progress
    facts: dict[str, Any] = {
        "lines": progress.lines,
        "succeeded": progress.succeeded,
        "failed": progress.failed,
        "resumed": progress.resumed,
        "chunks": progress.chunks,
        "elapsed_s": round(summary.elapsed_s, 3),
        "out": str(summary.out),
        "errors": str(summary.errors) if summary.errors is not None else None,
        "usage": progress.usage,
    }
    sentence = f"{count(progress.succeeded, 'line')} in {summary.out}, in {summary.elapsed_s:.1f} s"
    if summary.errors is not None:
        sentence += f"; {progress.failed} failed: {summary.errors} says why"
    say(facts, sentence, as_json=as_json)


@contextlib.contextmanager
def _shown_progress() -> Iterator[Callable[[Progress], None]]:
    """A bar with rate and time left, on stderr, and why nothing goes on; without the bar if stderr is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    said = ""

    def say_wait(progress: Progress) -> None:
        nonlocal said
        if progress.waits_for not in ("", said):
            console.print(f"dispatcher: {progress.waits_for}", markup=False, highlight=False, soft_wrap=True)
        said = progress.waits_for

    if not console.is_terminal:
        yield say_wait
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as ProgressBar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} lines/s" if task.speed else "", style="progress.data.speed")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("lines", total=None)

        def show(progress: Progress) -> None:
            say_wait(progress)
            bar.update(task, total=progress.lines, completed=progress.done)

        yield show
