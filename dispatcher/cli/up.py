"""``dispatcher up``: a whole cluster on this machine, in the foreground."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dispatcher.cli.output import count, json_option, say
from dispatcher.cli.session import Session
from dispatcher.store.redis_client.redaction import redact

if TYPE_CHECKING:
    from dispatcher.provision.local_cluster import LocalCluster


@click.command()
@click.option("--fleet", "fleet_file", type=click.Path(path_type=Path), metavar="FILE",
              help="Workers and settings in TOML: [[worker]], [autoscaler], [dispatcher].")
@click.option("--redis-url", metavar="URL", help="Use this Redis instead of starting one.")
@click.option("--flower/--no-flower", default=None, help="Start Flower too.  [default: if it is installed]")
@click.option("--port-flower", type=click.IntRange(1, 65535), metavar="N",
              help="Port of Flower.  [default: 5555, or any that is free]")
@json_option
@click.pass_obj
def up(
    session: Session, fleet_file: Path | None, redis_url: str | None, flower: bool | None, port_flower: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run a whole cluster on this machine until Ctrl-C.

    It starts a Redis (if you name none), the dispatcher, workers and Flower, says when all are ready, and starts again
    any that ends. Waiting jobs survive Ctrl-C: the next `dispatcher up` goes on with them.
    """
    from dispatcher.cli.signals import stop_signals
    from dispatcher.provision.local_cluster import LocalCluster
    from dispatcher.provision.processes import APP
    from dispatcher.provision.state_folder import state_folder

    settings, fleet = session.load_with_fleet(fleet_file, **({"redis_url": redis_url} if redis_url else {}))
    app = session.user_app()
    if app is not None and not settings.redis_url:
        settings = session.connected_settings(settings)
    installed = find_spec("flower") is not None
    if flower and not installed:
        raise click.UsageError(
            "Flower is not installed: `pip install inference-dispatcher[flower]`, or use --no-flower"
        )
    cluster = LocalCluster(
        fleet,
        settings=settings,
        flower=installed if flower is None else flower,
        flower_port=port_flower,
        folder=state_folder(session.environ),
        app=session.app_name or APP,
        environ=session.environ,
        on_event=lambda sentence: click.echo(sentence, err=True),
    )
    click.echo("starting; Ctrl-C stops all of it", err=True)
    with cluster, stop_signals() as stop:
        _say_ready(cluster, as_json=as_json)
        stop.wait()
        click.echo("stopping: workers finish what they run", err=True)


def _say_ready(cluster: LocalCluster, *, as_json: bool) -> None:
    workers = [asdict(worker) for worker in cluster.workers]
    redis_url = redact(cluster.redis_url)
    lines = [f"ready: Redis at {redis_url}"]
    if cluster.flower_url:
        lines.append(f"Flower: {cluster.flower_url}")
    lines += [
        f"worker {worker.name}: pid {worker.pid}, weight {worker.weight:g}, {count(worker.concurrency, 'slot')}, "
        f"{', '.join(worker.models)}"
        for worker in cluster.workers
    ]
    facts = {"ready": True, "redis_url": redis_url, "flower_url": cluster.flower_url, "workers": workers}
    say(facts, "\n".join(lines), as_json=as_json)
