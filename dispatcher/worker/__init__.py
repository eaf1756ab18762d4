"""What makes a Celery worker a dispatched one: ``from dispatcher.worker import attach; attach(app)``."""

from __future__ import annotations

from dispatcher.worker.attach import attach
from dispatcher.worker.life.models import models_max, report_models

__all__ = ["attach", "models_max", "report_models"]
