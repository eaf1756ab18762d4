"""What a worker says of itself: ``--weight``, ``--models``, ``--models-max``, ``--label``, ``--threads``; the
environment; arguments of ``attach``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from dispatcher.errors import Invalid

WEIGHT_ENV, MODELS_ENV, LABELS_ENV = "DISPATCHER_WORKER_WEIGHT", "DISPATCHER_WORKER_MODELS", "DISPATCHER_WORKER_LABELS"
MODELS_MAX_ENV, THREADS_ENV = "DISPATCHER_WORKER_MODELS_MAX", "DISPATCHER_WORKER_THREADS"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker says of itself when it registers."""

    weight: float = 1.0
    """Expected speed of one slot; 1 is a plain worker's."""
    models: tuple[str, ...] = ()
    """The models that it serves, beside jobs that ask for none."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Facts that a job may require."""
    models_max: int = 0
    """How many models each of its processes may have in memory at once; 0: any number."""
    threads: int = 0
    """How many threads the libraries under a model may use in each slot; 0: the slot's share of the cores."""


def command_line_options() -> list[click.Option]:
    """The options that ``celery worker`` gets. Bootsteps receive their values as keyword arguments of the same names."""
    return [
        click.Option(["--weight"], type=float, help="Expected speed of one slot of this worker; 1 is a plain worker's."),
        click.Option(["--models"], type=str, help="Comma-separated models that this worker serves."),
        click.Option(["--models-max"], type=int, help="Most models that a process of this worker has in memory; 0: any number."),
        click.Option(["--threads"], type=int, help="Threads of BLAS and the like in each slot; 0: its share."),
        click.Option(["--label"], type=str, multiple=True, help="A fact about this worker, as KEY=VALUE; may be repeated."),
    ]


def read_options(given: Mapping[str, Any], environ: Mapping[str, str], fallback: WorkerOptions) -> WorkerOptions:
    """Options of this worker: ``given`` (command line, or arguments of ``app.Worker``), environment, then ``fallback``.

    Raises :class:`Invalid` where a value cannot be understood.
    """
    weight = _first(given.get("weight"), environ.get(WEIGHT_ENV))
    models = _first(given.get("models"), environ.get(MODELS_ENV))
    labels = _first(given.get("label"), given.get("labels"), environ.get(LABELS_ENV))
    models_max = _first(given.get("models_max"), environ.get(MODELS_MAX_ENV))
    threads = _first(given.get("threads"), environ.get(THREADS_ENV))
    return WorkerOptions(
        fallback.weight if weight is None else read_weight(weight),
        fallback.models if models is None else read_models(models),
        fallback.labels if labels is None else read_labels(labels),
        fallback.models_max if models_max is None else read_models_max(models_max),
        fallback.threads if threads is None else read_threads(threads),
    )


def read_weight(value: Any) -> float:
    """A weight: a number above 0."""
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise Invalid(f"the weight of this worker is {value!r}: it must be a number above 0, such as --weight 4")
    return weight


def read_models(value: str | Iterable[str]) -> tuple[str, ...]:
    """Names of models, each once, in the order given; a string is split at commas."""
    names = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def read_models_max(value: Any) -> int:
    """A limit on models in memory: a whole number, 0 for none."""
    try:
        limit = int(value)
    except (TypeError, ValueError):
        limit = -1
    if limit < 0 or isinstance(value, float):
        raise Invalid(f"the most models in memory of this worker is {value!r}: it must be a whole number, such as --models-max 3")
    return limit


def read_threads(value: Any) -> int:
    """Threads of a slot: a whole number, 0 for its share of the cores."""
    try:
        threads = int(value)
    except (TypeError, ValueError):
        threads = -1
    if threads < 0 or isinstance(value, float):
        raise Invalid(f"the threads of a slot of this worker are {value!r}: write a whole number, such as --threads 2")
    return threads


def read_labels(value: str | Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """Labels from ``{"region": "eu"}``, ``["region=eu"]`` or ``"region=eu,gpu=a100"``."""
    if isinstance(value, Mapping):
        return {str(key): str(label) for key, label in value.items()}
    labels = {}
    for part in value.split(",") if isinstance(value, str) else value:
        key, equals, label = part.strip().partition("=")
        if part.strip() and not (key and equals):
            raise Invalid(f"cannot read the label {part!r} of this worker: write KEY=VALUE, such as --label region=eu")
        if key:
            labels[key] = label
    return labels


def _first(*values: Any) -> Any:
    """The first value that was given. For an option that was not used click gives ``None`` or an empty tuple."""
    return next((value for value in values if value is not None and value not in ((), "")), None)
