"""The models that this process has in memory: its tasks run them, and a probe of its worker tries them."""

from __future__ import annotations

from typing import Final

from workers.runtimes import LoadedRuntimes

models: Final = LoadedRuntimes()
"""Empty until a job needs a model."""
