"""The result of a benchmark: the line of JSON that it ends in, and its exit code."""

from __future__ import annotations

import json
import sys
from typing import NoReturn


def finish(name: str, *, value: float, limit: float, ok: bool, runs: list[float], **more: object) -> NoReturn:
    """Print the JSON line, and exit: with 0 only if ``ok``.

    ``value`` is the figure that ``limit`` holds; ``runs`` are the figures that it comes from.
    """
    rounded = [round(figure, 4) for figure in runs]
    print(json.dumps({"name": name, "value": round(value, 4), "limit": limit, "ok": ok, "runs": rounded, **more}))
    sys.exit(0 if ok else 1)
