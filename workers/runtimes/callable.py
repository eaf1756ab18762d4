"""A Python callable as a model: any ``module:function`` that takes a list of bodies and returns a list of answers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Set
from itertools import islice
from typing import Any

from dispatcher.batches.bodies import kind_of
from dispatcher.errors import Invalid
from workers.runtimes.base import Answer, Body


class CallableRuntime:
    """Runs the function at ``path`` once a batch. The function may put ``Rejected`` in place of an answer, or raise.
    An answer is an object (a ``dict``) of JSON values; NaN, bytes or an array of NumPy's in it fail its line.

    Paths come from the operator of the worker (``WORKERS_CALLABLES``), never from a job: whoever may send jobs must
    not choose what code runs.
    """

    endpoints: frozenset[str] = frozenset()

    def __init__(self, path: str) -> None:
        self.path = path
        self._function: Callable[[list[Body]], Any] | None = None

    def load(self) -> None:
        """Import the function; raises :class:`Invalid` where it is not there."""
        module_name, _, name = self.path.partition(":")
        try:
            function = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError, ValueError) as exc:
            raise Invalid(f"cannot import the callable {self.path!r}: {exc}; write module:function") from exc
        if not callable(function):
            raise Invalid(f"{self.path!r} is a {type(function).__name__}, not a callable; write module:function")
        self._function = function

    def run(self, batch: list[Body]) -> list[Answer]:
        if self._function is None:
            raise RuntimeError("call load() first")
        return _answers_of(self._function(batch), len(batch))

    def probe(self) -> None:
        """A callable has no request that is known to be right; an empty batch must give an empty answer."""
        if answers := self.run([]):
            raise RuntimeError(f"{self.path!r} gave {len(answers)} answers to an empty batch")

    def close(self) -> None:
        self._function = None


def _answers_of(given: Any, count: int) -> list[Answer]:
    """The answers, from anything that has an order; at most ``count`` + 1, for a generator may never end."""
    if not isinstance(given, Iterable) or isinstance(given, Mapping | Set | str | bytes | bytearray):
        raise TypeError(f"the model gave {kind_of(given)}, not a list of response bodies")
    return list(islice(given, count + 1))
