"""The surroundings of a command: settings, the Celery app, the Redis of the cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from dispatcher.errors import Invalid, NoCluster, Unavailable
from dispatcher.provision.state_folder import find_redis_url
from dispatcher.settings import Settings, load_settings
from dispatcher.store.redis_client.connection import point_broker_at, point_results_at
from dispatcher.store.redis_client.redaction import redact

if TYPE_CHECKING:
    from celery import Celery

    from dispatcher.provision.fleet_file import Fleet
    from dispatcher.store.operator.admin_store import AdminStore


@dataclass(frozen=True, slots=True)
class Session:
    """The options of the group, and what follows from them. Every method may raise :class:`Invalid`."""

    environ: Mapping[str, str]
    app_name: str | None = None
    config: Path | None = None
    redis_url: str | None = None

    def load(self, toml_path: Path | None = None, **overrides: Any) -> Settings:
        """Settings from options, environment and TOML; ``redis_url`` is empty if none of them names one."""
        overrides = {"redis_url": self.redis_url, **overrides}
        return load_settings(self.environ, toml_path=toml_path or self.config, overrides=overrides)

    def load_with_fleet(self, fleet_file: Path | None, **overrides: Any) -> tuple[Settings, Fleet]:
        """Settings and fleet of a fleet file; without a file, the default fleet.

        Raises :class:`Invalid` with the mistakes in both.
        """
        from dispatcher.provision.fleet_file import default_fleet, load_fleet

        mistakes: list[str] = []
        settings = fleet = None
        try:
            settings = self.load(fleet_file, **overrides)
        except Invalid as exc:
            mistakes += str(exc).splitlines()
        try:
            fleet = default_fleet() if fleet_file is None else load_fleet(fleet_file)
        except Invalid as exc:
            mistakes += [line for line in str(exc).splitlines() if line not in mistakes]
        if settings is None or fleet is None:
            raise Invalid("\n".join(mistakes))
        return settings, fleet

    def user_app(self) -> Celery | None:
        """The Celery app of ``-A``; ``None`` without ``-A``."""
        if self.app_name is None:
            return None
        from celery.app.utils import find_app

        try:
            return find_app(self.app_name)
        except (ImportError, AttributeError, ValueError) as exc:
            raise Invalid(
                f"cannot load the Celery app {self.app_name!r} ({exc}): name it as you would for `celery -A`"
            ) from exc

    def connected_settings(self, settings: Settings | None = None) -> Settings:
        """Settings with the URL of the cell's Redis: their own, the app's broker, or this user's local cluster."""
        settings = settings or self.load()
        if settings.redis_url:
            return settings
        app = self.user_app()
        if app is not None:
            from dispatcher.wiring import app_broker

            url: str | None = app_broker(app)
            if not url:
                raise Invalid(
                    f"the Celery app {self.app_name!r} names no broker: set broker_url there, or DISPATCHER_REDIS_URL"
                )
        else:
            url = find_redis_url(self.environ)
            if url is None:
                raise NoCluster
        return replace(settings, redis_url=url)

    def celery_app(self, settings: Settings) -> Celery:
        """A Celery app that sends jobs and reads results: the app of ``-A`` with all that it imports, else a plain app
        over the cell's Redis.

        ``settings`` come from :meth:`connected_settings`.
        """
        app = self.user_app()
        if app is None:
            from celery import Celery

            app = Celery("dispatcher", set_as_current=False)
            app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
            point_broker_at(app.conf, settings.redis_url)
            point_results_at(app.conf, settings.result_backend or settings.redis_url)
            app.conf.task_default_queue = settings.ingress_queues[0]  # errbacks of dead jobs go there
            return app
        from dispatcher.cli.app_modules import import_modules_of
        from dispatcher.wiring import app_broker

        if settings.redis_url not in (app_broker(app), app.conf.broker_url):
            point_broker_at(app.conf, settings.redis_url)
        if settings.result_backend:
            point_results_at(app.conf, settings.result_backend)
        import_modules_of(app)
        return app

    @contextlib.contextmanager
    def admin(self) -> Iterator[AdminStore]:
        """The operator's store of the cell. Raises :class:`Unavailable` if Redis does not answer."""
        from dispatcher.store.operator.admin_store import AdminStore
        from dispatcher.wiring import connect_cell, keys_of

        settings = self.connected_settings()
        app = self.user_app()
        with connect_cell(settings, app) as client:
            try:
                client.ping()
            except redis.RedisError as exc:
                where = f"Redis at {redact(settings.redis_url)}"
                if isinstance(exc, redis.AuthenticationError | redis.ResponseError):
                    raise Unavailable(
                        f"{where} refuses ({exc}): look at the user, the password and the database in that URL"
                    ) from exc
                raise Unavailable(f"{where} does not answer ({exc}): start it, or set DISPATCHER_REDIS_URL") from exc
            yield AdminStore(client, keys_of(settings, app), settings.ingress_queues)
