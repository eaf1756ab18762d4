"""The line by which a worker says that it is attached."""

from __future__ import annotations

from dispatcher.worker.banner import banner
from dispatcher.worker.options import WorkerOptions
from dispatcher.worker.threads import choose_limit

LIMIT = choose_limit(2, 4, environ={})


def test_the_banner_says_all_that_the_dispatcher_is_told() -> None:
    """Cell, queues, weight, models and how many fit, labels, and the thread policy in the words of ``threads``."""
    options = WorkerOptions(4.0, ("chat", "embed"), {"region": "eu", "gpu": "a100"}, models_max=1)
    assert banner("gpus", ["celery", "fast"], options, LIMIT) == (
        "attached to cell gpus: queues celery, fast; weight 4; models chat, embed (at most 1 in memory); labels region=eu, gpu=a100; "
        f"{LIMIT}"
    )


def test_what_a_worker_does_not_say_is_none() -> None:
    """And a long list does not bury the rest."""
    assert "; weight 1; no models; no labels; " in banner("dispatch", ["celery"], WorkerOptions(), LIMIT)
    many = WorkerOptions(models=tuple(f"m{number}" for number in range(300)))
    assert "m8, m9 and 290 more; no labels" in banner("dispatch", ["celery"], many, LIMIT)
