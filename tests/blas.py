"""How many threads the BLAS under NumPy would use in this process, as it says itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

GETTERS = [f"{prefix}openblas_get_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "_64", "")]


def blas_threads() -> int:
    """Imports NumPy. Asks OpenBLAS, which its wheels have."""
    import numpy  # noqa: F401, ICN001

    (path,) = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "openblas" in line}
    library = ctypes.CDLL(path)
    return next(getattr(library, name)() for name in GETTERS if hasattr(library, name))
