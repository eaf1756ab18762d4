"""Which model is run by what. A model is loaded once a process, when its first job comes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Final

from dispatcher.errors import Invalid
from workers.runtimes.base import Answer, Body, Rejected, Runtime
from workers.runtimes.callable import CallableRuntime
from workers.runtimes.hash_384 import HashRuntime
from workers.runtimes.minilm import MiniLMRuntime

__all__ = ["RUNTIMES", "Answer", "Body", "LoadedRuntimes", "Rejected", "Runtime", "callables_from"]

RUNTIMES: Final[Mapping[str, Callable[[], Runtime]]] = {
    "hash-384": HashRuntime,
    "minilm": MiniLMRuntime,
}

CALLABLES_VARIABLE: Final = "WORKERS_CALLABLES"
"""Environment variable of a worker: ``model=module:function,…`` adds models that are Python callables."""


def callables_from(environ: Mapping[str, str]) -> dict[str, str]:
    """Model → ``module:function``. Raises :class:`Invalid` for an entry that is not ``model=module:function``."""
    found: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in environ.get(CALLABLES_VARIABLE, "").split(","))):
        model, _, path = entry.partition("=")
        if not model or ":" not in path:
            raise Invalid(f"{CALLABLES_VARIABLE} holds {entry!r}: write model=module:function")
        found[model] = path
    return found


class LoadedRuntimes:
    """The models of this process, each loaded when first asked for; safe to share between threads."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._loaded: dict[str, Runtime] = {}
        self._lock = threading.Lock()

    def get(self, model: str) -> Runtime:
        """The runtime of ``model`` (``name`` or ``name@version``); :class:`Rejected` (404) where there is none."""
        if (runtime := self._loaded.get(model)) is not None:
            return runtime
        with self._lock:  # one thread loads, the others wait: two copies of the weights help nobody
            if (runtime := self._loaded.get(model)) is None:
                runtime = self._make(model)
                runtime.load()
                self._loaded[model] = runtime
        return runtime

    def _make(self, model: str) -> Runtime:
        callables = callables_from(self._environ)
        for name in (model, model.partition("@")[0]):
            if path := callables.get(name):
                return CallableRuntime(path)
            if make := RUNTIMES.get(name):
                return make()
        known = ", ".join(sorted({*RUNTIMES, *callables}))
        raise Rejected(404, f"The model {model!r} does not exist on this worker; it has {known}.", "model", "model_not_found")

    def close(self) -> None:
        """Close every loaded model."""
        with self._lock:
            while self._loaded:
                self._loaded.popitem()[1].close()
