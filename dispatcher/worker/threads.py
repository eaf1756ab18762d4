"""How many threads the libraries under a model may use, in a whole worker process: BLAS, OpenMP, torch, tokenizers,
ONNX Runtime.

Each of them takes as many as there are cores where nobody says otherwise, in every process, so that two slots of a
worker on two cores compute with four threads, and several times more slowly than with two. Most read an environment
variable when they are loaded; those that are loaded already are set by their own functions (``patches/libraries.py``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import click
from celery.utils.sysinfo import cpu_budget, is_auto_concurrency

from dispatcher.errors import Invalid
from dispatcher.worker.options import THREADS_ENV, WorkerOptions, read_options
from dispatcher.worker.patches.libraries import limit_loaded, limit_onnxruntime

OMP: Final = "OMP_NUM_THREADS"
"""OpenMP's variable. BLAS libraries and torch read it too, where their own is not set."""

COUNTS: Final = (
    OMP, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)  # fmt: skip
"""The variables that hold a number of threads; the last is that of tokenizers."""

TOKENIZERS: Final = "TOKENIZERS_PARALLELISM"
"""``false`` where there is one thread: then tokenizers starts no pool, and does not warn of a fork."""


@dataclass(frozen=True, slots=True)
class ThreadLimit:
    """The threads of one worker process, as :func:`choose_limit` chose them."""

    threads: int
    """Threads of each slot."""
    slots: int
    cores: int
    """Cores that this process may use: its affinity, and the quota of its cgroup."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What the environment must hold."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Those of them that the user's environment holds already."""

    def __str__(self) -> str:
        kept = "".join(f"; {name}={value} is kept" for name, value in self.kept.items())
        return (
            f"{_count(self.threads, 'thread')} of BLAS, OpenMP, torch, tokenizers and ONNX Runtime for each of "
            f"{_count(self.slots, 'slot')}, on {_count(self.cores, 'core')}{kept} (--threads sets another number)"
        )


def choose_limit(slots: int, cores: int, *, said: int = 0, environ: Mapping[str, str]) -> ThreadLimit:
    """``said`` threads for each slot, whatever ``environ`` holds. 0: what ``environ`` holds stays as it is, and the
    rest is the slots' equal share of the cores, or ``OMP_NUM_THREADS``.
    """
    kept = {} if said else {name: environ[name] for name in (*COUNTS, TOKENIZERS) if environ.get(name)}
    threads = said or _read_count(kept.get(OMP)) or max(1, cores // slots)
    variables = dict.fromkeys(COUNTS, str(threads))
    if threads == 1:
        variables[TOKENIZERS] = "false"
    return ThreadLimit(threads, slots, cores, variables | kept, kept)


def share_of_cores(slots: int, cores: int, environ: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of workers that share this machine, with so many slots in all; 0: they do not.
    Nothing where ``environ`` says how many threads its libraries have.
    """
    if not slots or any(environ.get(name) for name in COUNTS):
        return {}
    return {THREADS_ENV: str(max(1, cores // slots))}


def cores_here() -> int:
    """Cores that this process may use."""
    return int(cpu_budget().count)


_set_here: dict[str, str] = {}
"""The variables that were set here, with their values: what a user has set is another."""


def environ_of_user() -> dict[str, str]:
    """The environment without what :func:`limit_threads` set."""
    return {name: value for name, value in os.environ.items() if _set_here.get(name) != value}


def limit_threads(limit: ThreadLimit) -> None:
    """Hold this process to ``limit``: what is loaded already, and what will be. A later limit replaces it."""
    for name in _set_here.keys() - limit.variables.keys():
        if os.environ.get(name) == _set_here[name]:
            del os.environ[name]
    _set_here.clear()
    _set_here.update({name: value for name, value in limit.variables.items() if name not in limit.kept})
    os.environ.update(limit.variables)
    limit_loaded(os.environ)
    limit_onnxruntime(limit.threads)


def limit_threads_outside_workers() -> None:
    """One thread, or what the environment says, where no worker has limited this process: for a model that is run
    without Celery. To be called before a model is loaded.
    """
    if not _set_here:
        limit_threads(choose_limit(1, 1, environ=os.environ))


def limit_command(conf: Any, fallback: WorkerOptions) -> None:
    """Where ``celery worker`` runs in this process, hold it to its limit before its modules are imported. What its
    worker turns out to have, once it is made, is the last word (:class:`~dispatcher.worker.steps.DispatchedWorker`).
    """
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "worker":
        return
    with suppress(Invalid):  # the worker will be refused for it
        options = read_options(context.params, os.environ, fallback)
        slots = slots_of_command(context.params, conf.worker_concurrency)
        limit_threads(choose_limit(slots, cores_here(), said=options.threads, environ=environ_of_user()))


def slots_of_command(params: Mapping[str, Any], configured: Any) -> int:
    """How many slots ``celery worker`` with these parameters will have; ``configured`` is ``worker_concurrency``."""
    if getattr(params.get("pool_cls"), "__module__", "") == "celery.concurrency.solo":
        return 1
    asked = most_processes(params.get("autoscale")) or params.get("concurrency") or configured
    if is_auto_concurrency(asked):
        return cores_here()
    return _read_count(str(asked)) or os.cpu_count() or 1


def most_processes(autoscale: Any) -> int:
    """Of ``--autoscale``, as its option and as ``app.Worker`` have it; 0 where it is not used."""
    most = autoscale.partition(",")[0] if isinstance(autoscale, str) else (autoscale or [0])[0]
    return _read_count(str(most))


def _read_count(text: str | None) -> int:
    """A number of threads; the first of a list, as OpenMP has it for nested regions. 0 for anything else."""
    first = (text or "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdecimal() and len(first) < 6 else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
