"""The engines that models run on, and which model runs on which.

To add an engine: write one file here with a class that has the methods of :class:`~workers.runtimes.base.Runtime`
(``hash_384.py`` is the shortest), and add one line to :data:`RUNTIMES`. Workers started with ``--models NAME`` then
serve it; loading, probing, batching, errors of single lines and the limit on models in memory are done for every
runtime alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from dispatcher.errors import Invalid
from dispatcher.worker import models_max
from workers.runtimes.base import Answer, Body, Rejected, Runtime
from workers.runtimes.callable import CallableRuntime
from workers.runtimes.hash_384 import HashRuntime
from workers.runtimes.minilm import MiniLMRuntime
from workers.runtimes.resident import ResidentModels

__all__ = ["RUNTIMES", "Answer", "Body", "LoadedRuntimes", "Rejected", "ResidentModels", "Runtime", "callables_from"]

RUNTIMES: Final[Mapping[str, Callable[[], Runtime]]] = {
    "hash-384": HashRuntime,
    "minilm": MiniLMRuntime,
}
"""Name of a model, without its version → what makes its runtime, not loaded."""

CALLABLES_VARIABLE: Final = "WORKERS_CALLABLES"
"""Environment variable of a worker: ``model=module:function,…`` adds models that are Python callables."""


def callables_from(environ: Mapping[str, str]) -> dict[str, str]:
    """Model → ``module:function``. Raises :class:`Invalid` for an entry that is not ``model=module:function``."""
    paths: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in environ.get(CALLABLES_VARIABLE, "").split(","))):
        model, _, path = entry.partition("=")
        if not model or ":" not in path:
            raise Invalid(f"{CALLABLES_VARIABLE} holds {entry!r}: write model=module:function")
        paths[model] = path
    return paths


class LoadedRuntimes(ResidentModels):
    """The models of this process: what :data:`RUNTIMES` and the environment name."""

    def __init__(self, environ: Mapping[str, str] | None = None, *, limit: Callable[[], int] = models_max) -> None:
        super().__init__(self._find, limit=limit)
        self._environ = os.environ if environ is None else environ

    def _find(self, model: str) -> Runtime:
        """The runtime of ``model`` (``name`` or ``name@version``), not loaded; :class:`Rejected` (404) where there is
        none.
        """
        callables = callables_from(self._environ)
        for name in (model, model.partition("@")[0]):
            if path := callables.get(name):
                return CallableRuntime(path)
            if make := RUNTIMES.get(name):
                return make()
        known = ", ".join(sorted({*RUNTIMES, *callables}))
        raise Rejected(404, f"The model {model!r} does not exist on this worker; it has {known}.", "model", "model_not_found")
