"""One line in a Celery app: ``attach(app)``. Producers that import the same module notice nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from celery.signals import import_modules
from celery.utils.imports import symbol_by_name

from dispatcher.settings import Settings, load_settings
from dispatcher.worker.options import (
    WorkerOptions,
    command_line_options,
    read_labels,
    read_models,
    read_models_max,
    read_threads,
    read_weight,
)

# Names, not classes: Celery resolves them in a process that starts a worker, so producers load none of it.
WORKER_STEP = "dispatcher.worker.steps:DispatchedWorker"
CONSUMER_STEP = "dispatcher.worker.steps:DispatchedConsumer"


@dataclass(frozen=True, slots=True)
class Attachment:
    """The arguments of the last call of :func:`attach` for an app."""

    settings: Settings | None
    """``None``: they are read from the environment when a worker starts."""
    options: WorkerOptions
    """What a worker says of itself where neither the command line nor the environment does."""
    probe: Callable[[], object] | None = None
    """``None``: a probe does nothing, which proves that the pool runs jobs."""


_attached: WeakKeyDictionary[Any, Attachment] = WeakKeyDictionary()


def attach(
    app: Any,
    settings: Settings | None = None,
    *,
    weight: float | None = None,
    models: str | Iterable[str] | None = None,
    labels: str | Mapping[str, str] | Iterable[str] | None = None,
    models_max: int | None = None,
    threads: int | None = None,
    probe: Callable[[], object] | None = None,
) -> None:
    """Make every worker of ``app`` that starts from here on a dispatched one.

    Each queue that such a worker is told to consume (``-Q``, else ``task_default_queue``) becomes an ingress: the
    dispatcher admits from it, and the worker consumes a list of its own instead. ``weight``, ``models``, ``labels``,
    ``models_max`` and ``threads`` are what the worker says of itself where neither the command line (``--weight``,
    ``--models``, ``--label``, ``--models-max``, ``--threads``) nor the environment (``DISPATCHER_WORKER_WEIGHT``,
    ``…_MODELS``, ``…_LABELS``, ``…_MODELS_MAX``, ``…_THREADS``) does. May be called again: the last call's arguments
    hold.

    ``probe`` is called, as a job, now and then on a worker that is idle or was found faulty (``probe_interval_s``): it
    should do a little real work in a second or so, and raise if that goes wrong.
    """
    options = WorkerOptions(
        1.0 if weight is None else read_weight(weight),
        () if models is None else read_models(models),
        {} if labels is None else read_labels(labels),
        0 if models_max is None else read_models_max(models_max),
        0 if threads is None else read_threads(threads),
    )
    is_attached = app in _attached
    _attached[app] = Attachment(settings, options, probe)
    if is_attached:
        return
    app.user_options["worker"].update(command_line_options())
    app.steps["worker"].add(WORKER_STEP)
    app.steps["consumer"].add(CONSUMER_STEP)
    import_modules.connect(_limit_threads_of_command, sender=app)
    app.control_cls = partial(_purging_control, app.control_cls)
    if "celery.bin.purge" in sys.modules:  # Celery's command line, which may be about to run `celery purge`
        from dispatcher.worker.patches.purge import extend_command

        extend_command(_settings_of)


def _purging_control(base: Any, **given: Any) -> Any:
    """Celery makes ``app.control`` with this when it is first asked for."""
    from dispatcher.worker.patches.purge import purging_control  # most producers never ask for it

    return purging_control(symbol_by_name(base), _settings_of)(**given)


def _limit_threads_of_command(sender: Any = None, **_: Any) -> None:
    """``celery worker`` is about to import the modules of tasks, and with them whatever they compute with."""
    from dispatcher.worker.threads import limit_command  # a producer imports modules of tasks too, and needs none of it

    if (attached := _attached.get(sender)) is not None:  # else it is another app, at the address of a former one
        limit_command(sender.conf, attached.options)


def is_attached(app: Any) -> bool:
    """True if :func:`attach` was called for ``app``."""
    return app in _attached


def attachment(app: Any) -> Attachment:
    """The arguments that ``app`` was attached with."""
    return _attached[app]


def _settings_of(app: Any) -> Settings | None:
    attached = _attached.get(app)
    return (attached.settings or load_settings(os.environ)) if attached is not None else None
