"""What makes a Celery worker a dispatched one: ``from dispatcher.worker import attach; attach(app)``."""

from __future__ import annotations

from dispatcher.worker.attach import attach

__all__ = ["attach"]
