"""How many threads the libraries under a model may use, in whichever order they are loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import click
import pytest
from celery import Celery
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.signals import import_modules
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.worker import attach, threads
from dispatcher.worker.threads import (
    COUNTS,
    choose_limit,
    cores_here,
    environ_of_user,
    limit_threads,
    share_of_cores,
    slots_of_command,
)

ROOT = Path(__file__).parents[3]


@given(slots=st.integers(1, 300), cores=st.integers(1, 300))
def test_the_slots_threads_are_never_more_than_the_cores(slots: int, cores: int) -> None:
    """But each slot has one; and no more would fit."""
    limit = choose_limit(slots, cores, environ={})
    assert limit.threads == 1 or slots * limit.threads <= cores
    assert slots * (limit.threads + 1) > cores
    assert {limit.variables[name] for name in COUNTS} == {str(limit.threads)}


def test_what_the_environment_says_is_kept() -> None:
    """A library's variable is that library's; OMP_NUM_THREADS is for all that say nothing of their own, as they read it themselves."""
    one = choose_limit(2, 8, environ={"MKL_NUM_THREADS": "7"})
    assert (one.threads, one.variables["MKL_NUM_THREADS"], one.variables["OPENBLAS_NUM_THREADS"]) == (4, "7", "4")
    assert "MKL_NUM_THREADS=7 is kept" in str(one)
    general = choose_limit(2, 8, environ={"OMP_NUM_THREADS": "3,2", "TOKENIZERS_PARALLELISM": "true"})
    assert (general.threads, general.variables["OPENBLAS_NUM_THREADS"], general.variables["OMP_NUM_THREADS"]) == (3, "3", "3,2")
    assert general.variables["TOKENIZERS_PARALLELISM"] == "true"
    assert choose_limit(2, 8, environ={"OMP_NUM_THREADS": "many"}).threads == 4


def test_the_option_is_the_last_word() -> None:
    """``--threads`` holds for every library, whatever the environment says."""
    limit = choose_limit(2, 8, said=5, environ={"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "7"})
    assert {limit.variables[name] for name in COUNTS} == {"5"}
    assert not limit.kept


def test_tokenizers_start_no_pool_for_one_thread() -> None:
    """With a pool they warn of each fork; for more threads they may."""
    assert choose_limit(2, 2, environ={}).variables["TOKENIZERS_PARALLELISM"] == "false"
    assert "TOKENIZERS_PARALLELISM" not in choose_limit(1, 2, environ={}).variables


def test_a_limit_says_what_it_is_made_of() -> None:
    """It is a line of the worker's log."""
    said = str(choose_limit(3, 7, environ={}))
    assert said.startswith("2 threads of BLAS, OpenMP, torch, tokenizers and ONNX Runtime for each of 3 slots, on 7 cores")
    assert "--threads" in said


def test_workers_of_one_machine_share_its_cores() -> None:
    """What starts them knows how many slots there will be; a number that the user's environment says is left alone."""
    assert share_of_cores(4, 8, {}) == {"DISPATCHER_WORKER_THREADS": "2"}
    assert share_of_cores(9, 8, {}) == {"DISPATCHER_WORKER_THREADS": "1"}
    assert share_of_cores(4, 8, {"OPENBLAS_NUM_THREADS": "1"}) == {}
    assert share_of_cores(0, 8, {}) == {}


@pytest.mark.parametrize(
    ("params", "configured", "slots"),
    [
        ({"concurrency": 3}, 5, 3),
        ({"concurrency": None}, 5, 5),
        ({"concurrency": "4"}, None, 4),
        ({"concurrency": 3, "autoscale": (10, 2)}, None, 10),
        ({"concurrency": 3, "autoscale": "6,2"}, None, 6),
        ({"concurrency": 3, "pool_cls": ThreadPool}, None, 3),
        ({"concurrency": 3, "pool_cls": SoloPool}, None, 1),
        ({"concurrency": None}, None, os.cpu_count()),
    ],
)
def test_a_workers_slots_are_known_from_its_command(params: dict[str, Any], configured: Any, slots: int) -> None:
    """As the worker will have them once it is made: before that, its modules are imported."""
    assert slots_of_command(params, configured) == slots


def test_auto_concurrency_is_the_cores_that_the_worker_may_use() -> None:
    """As Celery resolves it for processes."""
    assert slots_of_command({"concurrency": "auto"}, None) == cores_here() >= 1


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The process' environment without any limit, which comes back; nothing is done to libraries."""
    for name in (*COUNTS, "TOKENIZERS_PARALLELISM", "DISPATCHER_WORKER_THREADS"):
        monkeypatch.setenv(name, "")  # so that it comes back
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "_set_here", {})
    monkeypatch.setattr(threads, "limit_loaded", lambda _: None)
    monkeypatch.setattr(threads, "limit_onnxruntime", lambda _: None)
    return os.environ  # type: ignore[return-value]


def test_a_later_limit_replaces_the_first(environ: dict[str, str]) -> None:
    """What was set here is not taken for what a user has set, nor is it left behind; what a user sets meanwhile is kept."""
    limit_threads(choose_limit(2, 2, environ=environ_of_user()))
    assert (environ["OMP_NUM_THREADS"], environ["TOKENIZERS_PARALLELISM"]) == ("1", "false")
    environ["MKL_NUM_THREADS"] = "9"
    limit_threads(choose_limit(1, 4, environ=environ_of_user()))
    assert (environ["OMP_NUM_THREADS"], environ["MKL_NUM_THREADS"]) == ("4", "9")
    assert "TOKENIZERS_PARALLELISM" not in environ


@pytest.mark.parametrize(("command", "limited"), [("worker", True), ("shell", False), (None, False)])
def test_only_a_workers_command_is_limited(environ: dict[str, str], command: str | None, limited: bool) -> None:
    """And that before Celery imports the modules of tasks. A producer imports the same, and computes with what it likes."""
    app = Celery("threads", set_as_current=False)
    attach(app, threads=3)
    with ExitStack() as stack:
        if command is not None:
            context = stack.enter_context(click.Context(click.Command(command), info_name=command))
            context.params = {"concurrency": 2, "pool_cls": ThreadPool, "autoscale": None, "threads": None}
        answers = import_modules.send(sender=app)
    assert not [answer for _, answer in answers if isinstance(answer, Exception)]
    assert environ.get("OMP_NUM_THREADS") == ("3" if limited else None)


COUNT = """
import sys
from tests.blas import blas_threads
from workers.runtimes import LoadedRuntimes
models = LoadedRuntimes({"WORKERS_CALLABLES": "blas=tests.unit.worker.test_threads:count_blas,plain=builtins:list"})
if "numpy" in sys.argv[1:]:
    import numpy
for name in sys.argv[1:]:
    if name != "numpy":
        with models.use(name) as runtime:
            answer = runtime.run([{}])
print(blas_threads())
"""


def count_blas(bodies: list[Any]) -> list[Any]:
    """A model that computes with NumPy."""
    from tests.blas import blas_threads

    return [blas_threads() for _ in bodies]


def run_count(*order: str, **environ: str) -> int:
    """The threads of BLAS in a new process that loads these, one after the other."""
    clean = {name: value for name, value in os.environ.items() if name not in {*COUNTS, "TOKENIZERS_PARALLELISM"}}
    command = [sys.executable, "-c", COUNT, *order]
    done = subprocess.run(command, env=clean | environ, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="libraries that are loaded are found on Linux only")
@pytest.mark.parametrize("order", [("plain", "blas"), ("blas", "plain"), ("numpy", "plain")], ids=" ".join)
def test_a_model_has_its_threads_in_whichever_order_models_are_loaded(order: tuple[str, ...]) -> None:
    """NumPy that came first, or was there before any model, is limited as one that comes later; a user's number holds in both."""
    assert run_count(*order) == 1
    assert run_count(*order, OMP_NUM_THREADS="2") == min(2, os.cpu_count() or 1)


OPENMP = """
import ctypes
from concurrent.futures import ThreadPoolExecutor
gomp = ctypes.CDLL("libgomp.so.1")
gomp.omp_set_num_threads(5)  # of this thread: those that it starts have what the variable said
from dispatcher.worker.patches.libraries import limit_thread
from dispatcher.worker.threads import choose_limit, limit_threads
limit_threads(choose_limit(1, 3, environ={}))
def count():
    limit_thread()
    return gomp.omp_get_max_threads()
with ThreadPoolExecutor(1) as pool:
    print(gomp.omp_get_max_threads(), pool.submit(count).result())
    limit_threads(choose_limit(1, 2, environ={}))
    print(gomp.omp_get_max_threads(), pool.submit(count).result())
"""


@pytest.mark.skipif(find_library("gomp") is None, reason="this machine has no OpenMP library")
def test_each_thread_of_a_pool_limits_an_openmp_that_was_there_before() -> None:
    """Its number is that of the thread which sets it; a later limit reaches the threads that there are."""
    environ = os.environ | {"OMP_NUM_THREADS": "7"}
    done = subprocess.run([sys.executable, "-c", OPENMP], env=environ, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["3 3", "2 2"]


ONNXRUNTIME = """
class SessionOptions:  # as 1.32 has it: made in C++, past __init__, for a session without options
    def __init__(self):
        self.intra_op_num_threads = 0
def get_default_session_options():
    made = SessionOptions.__new__(SessionOptions)
    made.intra_op_num_threads = 0
    return made
"""

SESSIONS = """
import sys
if sys.argv[1] == "late":
    import onnxruntime.capi._pybind_state
from dispatcher.worker.threads import choose_limit, limit_threads
limit_threads(choose_limit(1, 8, environ={}))
limit_threads(choose_limit(2, 8, environ={}))
from onnxruntime.capi import _pybind_state as C
own = C.SessionOptions()
own.intra_op_num_threads = 7
print(C.SessionOptions().intra_op_num_threads, C.get_default_session_options().intra_op_num_threads,
      own.intra_op_num_threads)
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_sessions_of_onnxruntime_are_limited(tmp_path: Path, when: str) -> None:
    """It reads no variable. Imported before or after, a session with or without options gets the last limit, unless they say a number."""
    folder = tmp_path / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "_pybind_state.py").write_text(ONNXRUNTIME)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-c", SESSIONS, when]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "4", "7"]
