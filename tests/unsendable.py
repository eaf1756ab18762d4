"""Values in a job's headers that its worker can read and that its pool cannot be given: to pickle them raises, or kills who reads
them. Where this module was imported, kombu's JSON carries both.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from kombu.utils.json import register_type


class Unpicklable:
    """Its worker fails to write the job to a process."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle this, as asked")


class Deadly:
    """The process that reads the job dies before it has read it."""

    def __reduce__(self) -> Any:
        return _die, ()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


for _kind in (Unpicklable, Deadly):
    register_type(_kind, _kind.__name__, lambda _: "", lambda _, kind=_kind: kind())  # type: ignore[misc]
