"""``dispatcher autoscale``: start and drain workers by seconds of work waiting."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dispatcher.cli.output import json_option
from dispatcher.cli.run import log_to_stderr
from dispatcher.cli.session import Session
from dispatcher.events import Event

if TYPE_CHECKING:
    from dispatcher.provision.processes import ProcessProvisioner

SUPERVISE_INTERVAL_S: Final = 0.2


@click.command()
@click.option("--advise", is_flag=True, help="Only say what should be done.")
@click.option("--fleet", "fleet_file", type=click.Path(path_type=Path), metavar="FILE", help="Workers to start, in TOML.")
@json_option
@click.pass_obj
def autoscale(session: Session, advise: bool, fleet_file: Path | None, as_json: bool) -> None:
    """Start and drain workers by seconds of work waiting.

    It starts them on this machine, so that no more than autoscaler_target_wait_s of work waits. Every decision is
    printed with its reasons. Workers that it started end with it, after what they run.
    """
    from dispatcher.cli.signals import stop_signals
    from dispatcher.clock import SystemClock
    from dispatcher.observe.log_lines import log_line
    from dispatcher.provision.autoscaler import Autoscaler
    from dispatcher.provision.child import Children
    from dispatcher.provision.embedded_redis import state_folder
    from dispatcher.provision.local_cluster import APP
    from dispatcher.provision.processes import ProcessProvisioner
    from dispatcher.settings import settings_environ
    from dispatcher.wiring import connect_cell, keys_of

    log_to_stderr("WARNING")
    settings, fleet = session.load_with_fleet(fleet_file)
    settings = session.connected_settings(settings)

    def tell(event: Event) -> None:
        facts = {"event": type(event).__name__, **asdict(event)}
        click.echo(json.dumps(facts) if as_json else log_line(event)[1])

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        client = stack.enter_context(connect_cell(settings, session.user_app(), text=False))
        provisioner = None
        if not advise:
            children = Children()
            stack.callback(children.close)
            provisioner = ProcessProvisioner(
                children,
                environ={**session.environ, **settings_environ(settings)},
                logs=state_folder(session.environ) / "logs",
                app=session.app_name or APP,
                on_restart=lambda name, why: logging.getLogger(__name__).warning("worker %s %s", name, why),
            )
            stack.callback(provisioner.stop_all, timeout_s=settings.drain_timeout_s)
            thread = threading.Thread(target=_supervise, args=(provisioner, stop), name="supervise", daemon=True)
            thread.start()
            stack.callback(thread.join, 5.0)
        Autoscaler(
            client, keys_of(settings, session.user_app()), settings, kinds=fleet.kinds(), provisioner=provisioner,
            clock=SystemClock(), emit=tell,
        ).run(stop)  # fmt: skip


def _supervise(provisioner: ProcessProvisioner, stop: threading.Event) -> None:
    while not stop.wait(SUPERVISE_INTERVAL_S):
        provisioner.step()
