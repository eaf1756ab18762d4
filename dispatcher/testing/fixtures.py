"""The fixtures, named after those of ``celery.contrib.pytest``. A conftest overrides those that have no ``cell`` in
their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.provision.embedded_redis import NoRedisServer
from dispatcher.testing.cell import Cell, dispatched
from dispatcher.testing.private_redis import private_redis


@pytest.fixture(scope="session")
def dispatcher_app() -> Any:
    """The attached app whose worker runs in the cell. Override it."""
    pytest.fail(
        "dispatcher_cell needs your app: define a fixture dispatcher_app in conftest.py that returns it", pytrace=False
    )


@pytest.fixture(scope="session")
def dispatcher_redis_url() -> Iterator[str]:
    """A Redis of this run's own. Override it with the URL of an empty database, to use a Redis that runs already."""
    try:
        with private_redis() as url:
            yield url
    except NoRedisServer as exc:
        pytest.fail(f"{exc}, by a fixture dispatcher_redis_url of your own", pytrace=False)


@pytest.fixture
def dispatcher_cell(dispatcher_app: Any, dispatcher_redis_url: str) -> Iterator[Cell]:
    """A cell around :func:`dispatcher_app`, ready to run jobs; empty at its beginning and at its end."""
    with dispatched(dispatcher_app, redis_url=dispatcher_redis_url) as cell:
        yield cell
