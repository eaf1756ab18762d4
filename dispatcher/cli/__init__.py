"""The command line: one file a command. Exit codes: 2 for bad use, 1 for failed work, 130 after Ctrl-C."""

from __future__ import annotations

from dispatcher.cli.group import cli, main

__all__ = ["cli", "main"]
