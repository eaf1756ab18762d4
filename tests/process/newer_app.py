"""The app of ``tests.process.app``, in processes of a later version: they read format 2 of what lies in Redis, and no longer format 1."""

from __future__ import annotations

import dispatcher.store.formats
import dispatcher.worker.steps
from dispatcher.store.formats import Formats
from tests.process.app import app

__all__ = ["app"]

dispatcher.store.formats.FORMATS = dispatcher.worker.steps.FORMATS = Formats(2, 2)
