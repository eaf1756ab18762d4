"""``dispatcher check``: find every mistake in the settings, and what is wrong with Redis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import click
import redis

from dispatcher.cli.output import count, json_option, say
from dispatcher.cli.session import Session
from dispatcher.errors import Invalid
from dispatcher.provision.state_folder import STATE_VARIABLE
from dispatcher.settings import Settings, env_name
from dispatcher.settings.knobs import ENV_PREFIX
from dispatcher.worker.options import LABELS_ENV, MODELS_ENV, MODELS_MAX_ENV, THREADS_ENV, WEIGHT_ENV

OTHER_VARIABLES = (
    STATE_VARIABLE, WEIGHT_ENV, MODELS_ENV, MODELS_MAX_ENV, LABELS_ENV, THREADS_ENV, "DISPATCHER_TRACES",
    "DISPATCHER_REDIS_PORT",
)  # fmt: skip
"""Variables with the prefix of settings that are no settings; the last belongs to docker-compose.yml."""


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--offline", is_flag=True, help="Do not connect to Redis.")
@json_option
@click.pass_context
def check(ctx: click.Context, file: Path | None, offline: bool, as_json: bool) -> None:
    """Print everything that is wrong with the settings and with Redis.

    FILE is a settings or fleet file. Exit code: 2 if there are mistakes in settings, 1 if this Redis will not do.
    """
    session: Session = ctx.obj
    mistakes, settings = _settings_mistakes(session, file)
    server: dict[str, Any] | None = None
    problems: list[str] = []
    warnings: list[str] = []
    if settings is not None and not offline:
        try:
            server = _server(session, settings)
            problems, warnings = server.pop("problems") + server.pop("refusals"), server.pop("warnings")
        except Invalid as exc:
            mistakes.append(str(exc))
        except redis.RedisError as exc:
            problems = [str(exc)]
    if as_json:
        facts = {"mistakes": mistakes, "problems": problems, "warnings": warnings, "redis": server}
        say({"ok": not mistakes and not problems, **facts}, "", as_json=True)
    else:
        for line in (*mistakes, *problems):
            click.echo(line, err=True)
        for line in warnings:
            click.echo(f"warning: {line}", err=True)
        if not mistakes and not problems:
            click.echo("the settings are right" + (f"; Redis {server['version']} will do" if server else ""))
        if server and server["unread"]:
            click.echo(f"not checked, because this Redis does not show it: {', '.join(server['unread'])}")
    ctx.exit(2 if mistakes else 1 if problems else 0)


def _settings_mistakes(session: Session, file: Path | None) -> tuple[list[str], Settings | None]:
    from dispatcher.provision.fleet_file import load_fleet

    mistakes: list[str] = []
    settings = None
    try:
        settings = session.load(file)
    except Invalid as exc:
        mistakes += str(exc).splitlines()
    if file is not None:
        try:
            load_fleet(file)
        except Invalid as exc:
            mistakes += [line for line in str(exc).splitlines() if line not in mistakes]
    mistakes += _unknown_variables(session)
    return mistakes, settings


def _unknown_variables(session: Session) -> Iterator[str]:
    known = {env_name(field.name) for field in fields(Settings)} | set(OTHER_VARIABLES)
    for name in sorted(session.environ):
        if name.startswith(ENV_PREFIX) and name not in known:
            yield f"{name} is no setting: docs/settings.md lists all settings"


def _server(session: Session, settings: Settings) -> dict[str, Any]:
    from dispatcher.store.keys import text_names
    from dispatcher.store.operator.kombu_keys import kombu_types, refusals
    from dispatcher.store.operator.status import count_unsettled
    from dispatcher.store.redis_client.connection import if_of_its_type
    from dispatcher.store.redis_client.redaction import redact
    from dispatcher.store.redis_client.server import read_server_facts
    from dispatcher.store.redis_client.transports import own_transport
    from dispatcher.wiring import connect_cell, keys_of

    settings = session.connected_settings(settings)
    app = session.user_app()
    if app is not None and (why := own_transport(app.connection_for_read())) is not None:
        raise Invalid(why)
    with connect_cell(settings, app) as client:
        facts = read_server_facts(client)
        keys, queues = keys_of(settings, app), set(settings.ingress_queues)
        queues |= text_names(cast("set[str]", if_of_its_type(lambda: client.smembers(keys.ingress_queues)) or set()))
        declared = dict(app.amqp.queues) if app is not None else {}
        queues |= declared.keys()
        exchanges = {queue.exchange.name for queue in declared.values() if queue.exchange and queue.exchange.name}
        facts.refusals.extend(refusals(client, kombu_types(keys, queues, exchanges), queues, keys))
        if unsettled := count_unsettled(client, keys):
            facts.warnings.append(
                f"{count(unsettled, 'dead letter')} without FAILURE in the result backend yet, so that get() waits: "
                "the log of `dispatcher run` says why; it tries again"
            )
        return {"url": redact(settings.redis_url), **asdict(facts)}
