"""An app as it would run in production, with its one line for the dispatcher: ``test_proj.py`` tests it.

celery -A proj worker -Q celery --models chat
"""

from __future__ import annotations

from celery import Celery

from dispatcher.worker import attach

app = Celery("proj", broker="redis://redis.example.com:6379/0", backend="redis://redis.example.com:6379/0")
attach(app, models="chat", labels="region=eu")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)
