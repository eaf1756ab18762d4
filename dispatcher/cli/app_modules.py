"""Imports what an app imports for its workers, so that its result backend and its errbacks work in our commands too."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)


def import_modules_of(app: Celery) -> None:
    """Do what a Celery worker does before it looks for tasks: set Django up where the app uses it, and import the app's
    ``imports``, ``include`` and autodiscovered tasks.

    A module that cannot be imported here (a library that only workers have) is said in the log, and stops nothing.
    """
    try:
        with _logging_kept():
            app.loader.import_default_modules()
    except Exception as exc:  # noqa: BLE001 (modules of users may raise anything)
        log.warning(
            "cannot import all modules of the app (%s: %s): its result backend and its errbacks may need them",
            type(exc).__name__, exc,
        )  # fmt: skip


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Keep our log as it is: Django applies the project's ``LOGGING``, which may disable all loggers that exist."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    ours = [logging.getLogger(name) for name in sys.modules if name.partition(".")[0] == "dispatcher"]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for logger in ours:
            logger.disabled = False
