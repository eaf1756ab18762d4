"""A load-aware dispatcher for inference jobs on Celery and Redis.

Public: what ``__all__`` lists here, in ``dispatcher.worker`` and in ``dispatcher.testing``, and ``dispatcher.batches``.
Everything else may change.
"""

from __future__ import annotations

from dispatcher.core.facts.header import job_headers
from dispatcher.errors import DispatcherError, Invalid, JobDead, Unavailable
from dispatcher.settings import Settings, load_settings

__all__ = [
    "DispatcherError", "Invalid", "JobDead", "Settings", "Unavailable", "__version__", "job_headers", "load_settings",
]  # fmt: skip

__version__ = "0.1.0"
