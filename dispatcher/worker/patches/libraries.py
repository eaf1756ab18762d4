"""Sets the number of threads of libraries that this process has loaded already, and of ONNX Runtime, which reads no
variable.

An app's module may import torch before it attaches. Then the variables come too late, and each library has a function
of its own. They are found by their files, as threadpoolctl does it, which needs Linux; elsewhere only the variables
hold.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

MAPS: Final = Path("/proc/self/maps")

ONNXRUNTIME: Final = "onnxruntime.capi._pybind_state"
"""The module through which everything gets ONNX Runtime's classes."""


class Library(NamedTuple):
    """A library with threads of its own."""

    file: re.Pattern[str]
    """In the name of its file."""
    variable: str
    """Has the number of its threads."""
    setters: Sequence[str]
    """Names that its function may have which sets that number."""


OPENMP: Final = Library(re.compile(r"gomp|iomp|libomp"), "OMP_NUM_THREADS", ("omp_set_num_threads",))

LIBRARIES: Final = (
    Library(
        re.compile(r"openblas"),
        "OPENBLAS_NUM_THREADS",
        [f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_", "_64")],
    ),
    Library(re.compile(r"mkl_rt"), "MKL_NUM_THREADS", ("MKL_Set_Num_Threads",)),
    Library(re.compile(r"blis"), "BLIS_NUM_THREADS", ("bli_thread_set_num_threads",)),
    OPENMP,
)

_late_openmp: list[Any] = []
"""The setters of OpenMP libraries that were loaded before they were limited: each sets the thread that calls it."""
_late_threads = 0
_limited = threading.local()
_onnxruntime_threads = 0


def limit_loaded(environ: Mapping[str, str]) -> None:
    """Set the libraries that are loaded already to what their variables in ``environ`` say."""
    global _late_threads
    _late_openmp.clear()
    for path in _loaded_files():
        for library in LIBRARIES:
            count = environ.get(library.variable, "").partition(",")[0]
            if library.file.search(path.name) and count.isdecimal() and (setter := _setter(path, library)) is not None:
                setter(ctypes.c_long(int(count)))  # some take an int, some a long: the registers are the same
                if library is OPENMP:
                    _late_openmp.append(setter)
                    _late_threads = int(count)
    torch, count = sys.modules.get("torch"), environ.get(OPENMP.variable, "").partition(",")[0]
    if torch is not None and count.isdecimal():
        with suppress(AttributeError):  # it is being imported, and reads the variable
            torch.set_num_threads(int(count))


def limit_thread(*_: Any, **__: Any) -> None:
    """Set OpenMP, where it was loaded before it was limited, in this thread. A job of a pool of threads begins with
    it.
    """
    if _late_openmp and getattr(_limited, "threads", 0) != _late_threads:
        _limited.threads = _late_threads
        for setter in _late_openmp:
            setter(ctypes.c_long(_late_threads))


def _loaded_files() -> set[Path]:
    try:
        lines = MAPS.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return set()
    return {Path(line[line.index("/") :]) for line in lines if "/" in line and ".so" in line}


def _setter(path: Path, library: Library) -> Any:
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:  # its file is gone
        return None
    return next((setter for name in library.setters if (setter := getattr(loaded, name, None)) is not None), None)


# -- ONNX Runtime


def limit_onnxruntime(threads: int) -> None:
    """Give each session that is made from here on so many threads, unless its options say a number."""
    global _onnxruntime_threads
    _onnxruntime_threads = threads
    if (module := sys.modules.get(ONNXRUNTIME)) is not None:
        _patch_onnxruntime(module)
    elif not any(isinstance(finder, _OnnxruntimeFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnnxruntimeFinder())


class _OnnxruntimeFinder(importlib.abc.MetaPathFinder):
    """Patches ONNX Runtime when it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != ONNXRUNTIME:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _patch_onnxruntime(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _patch_onnxruntime(module: Any) -> None:
    options = module.SessionOptions
    make = options.__init__
    if getattr(make, "limits_threads", False):
        return

    def init(self: Any) -> None:
        make(self)
        self.intra_op_num_threads = _onnxruntime_threads

    init.limits_threads = True  # type: ignore[attr-defined]
    options.__init__ = init
    module.get_default_session_options = options  # those of a session that is given none; made in C++, past `init`
