"""The ready-made Celery app: ``celery -A workers.app worker -n gpu1@%h --weight 4 --models minilm,hash-384``.

Broker: ``DISPATCHER_REDIS_URL``, else the local cluster of this user, else Redis on this machine's default port.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from celery import Celery

from dispatcher.settings import Settings, load_settings
from dispatcher.store.redis_client.connection import point_broker_at, point_results_at
from dispatcher.worker import attach
from workers.loaded import models

DEFAULT_URL = "redis://localhost:6379/0"
RESULT_EXPIRES_S = 24 * 3600


def find_broker(settings: Settings, environ: Mapping[str, str]) -> str:
    """URL of the Redis that carries the jobs."""
    if settings.redis_url:
        return settings.redis_url
    from dispatcher.provision.state_folder import find_redis_url  # a remote worker has a URL and never needs it

    return find_redis_url(environ) or DEFAULT_URL


def make_app(settings: Settings, broker_url: str) -> Celery:
    """The app, attached: its workers are dispatched workers."""
    made = Celery("workers", include=["workers.tasks"])
    made.conf.update(
        task_default_queue="dispatch",
        # JSON only: whoever reaches the broker must not be able to run code by way of pickle.
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        # The dispatcher's promises rest on these; `attach` forces them on workers, here producers can read them too.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # "started" is known from leases and costs a write to Redis a job here.
        task_track_started=False,
        # A submission reads results as they come; a day is for the one that was interrupted in the evening.
        result_expires=RESULT_EXPIRES_S,
        broker_connection_retry_on_startup=True,
        timezone="UTC",
    )
    point_broker_at(made.conf, broker_url)
    point_results_at(made.conf, settings.result_backend or broker_url)
    attach(made, settings, probe=models.probe)  # every model in memory serves one small request
    return made


_settings = load_settings(os.environ)
app = make_app(_settings, find_broker(_settings, os.environ))
