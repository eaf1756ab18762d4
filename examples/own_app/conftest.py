"""What pytest needs for ``dispatcher_cell``: the plugin, and the app."""

from __future__ import annotations

import pytest
from celery import Celery

pytest_plugins = ["dispatcher.testing"]


@pytest.fixture(scope="session")
def dispatcher_app() -> Celery:
    from proj import app

    return app
