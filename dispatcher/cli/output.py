"""Prints results: JSON for programs, a sentence or a table for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_COLUMNS: Final = 400

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """Adds ``--json`` to a command, which gets it as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def say(facts: Any, sentence: str, *, as_json: bool) -> None:
    """Print the facts as a line of JSON, or the sentence."""
    click.echo(json.dumps(facts) if as_json else sentence)


def wide_console() -> Console:
    """Standard output. If it is no terminal, lines are as long as they need to be, for `grep` and `awk`."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)


def plain_table(*columns: str) -> Table:
    """A table without lines, whose first column is never cut."""
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    table.columns[0].no_wrap = True
    return table


def count(number: int, noun: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
