"""A whole cell in the process of a test: a Redis, a dispatcher, and a worker of your own app.

``pytest_plugins = ["dispatcher.testing"]`` has the fixtures; :func:`dispatched` does the same without pytest. See
docs/testing.md. (PYTEST_DONT_REWRITE: a conftest may import this before pytest loads it as a plugin.)
"""

from __future__ import annotations

from importlib.util import find_spec

from dispatcher.testing.cell import Cell, dispatched

if find_spec("pytest") is not None:
    from dispatcher.testing.fixtures import dispatcher_app, dispatcher_cell, dispatcher_redis_url

__all__ = ["Cell", "dispatched", "dispatcher_app", "dispatcher_cell", "dispatcher_redis_url"]
