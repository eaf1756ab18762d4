"""A worker that cannot be dispatched says why in one sentence, on the command line without a traceback."""

from __future__ import annotations

import click

from dispatcher.errors import Invalid


class WorkerRefused(Invalid, click.ClickException):
    """This worker cannot be a dispatched one; the message says why, and what to do."""
