"""``dispatcher autoscale``: start and drain workers by seconds of work waiting."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import click

from dispatcher.cli.output import json_option
from dispatcher.cli.run import log_to_stderr
from dispatcher.cli.session import Session
from dispatcher.events import Event

log = logging.getLogger(__name__)


@click.command()
@click.option("--advise", is_flag=True, help="Start and drain nothing; print what should be done.")
@click.option("--fleet", "fleet_file", type=click.Path(path_type=Path), metavar="FILE",
              help="The workers to start, in TOML.")
@json_option
@click.pass_obj
def autoscale(session: Session, advise: bool, fleet_file: Path | None, as_json: bool) -> None:
    """Start and drain workers by seconds of work waiting.

    It starts workers on this machine so that at most autoscaler_target_wait_s of work waits, and prints every decision
    with its reasons. When it ends, its workers finish what they run and end too.
    """
    from dispatcher.cli.signals import stop_signals
    from dispatcher.clock import SystemClock
    from dispatcher.observe.log_lines import log_line
    from dispatcher.provision.autoscaler import Autoscaler
    from dispatcher.provision.child import Children
    from dispatcher.provision.processes import APP
    from dispatcher.provision.state_folder import state_folder
    from dispatcher.provision.supervisor import Supervisor
    from dispatcher.wiring import connect_cell, keys_of

    log_to_stderr("WARNING")
    settings, fleet = session.load_with_fleet(fleet_file)
    settings = session.connected_settings(settings)

    def print_event(event: Event) -> None:
        facts = {"event": type(event).__name__, **asdict(event)}
        click.echo(json.dumps(facts) if as_json else log_line(event)[1])

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        client = stack.enter_context(connect_cell(settings, session.user_app(), text=False))
        workers = None
        if not advise:
            children = stack.enter_context(contextlib.closing(Children()))
            supervisor = Supervisor(
                children,
                settings,
                environ=session.environ,
                logs=state_folder(session.environ) / "logs",
                app=session.app_name or APP,
                on_event=log.warning,
                slots=fleet.slots_most(settings.autoscaler_workers_max),
            )
            workers = supervisor.workers
            stack.callback(workers.stop_all, timeout_s=settings.drain_timeout_s)
            stack.enter_context(supervisor.running())
        keys = keys_of(settings, session.user_app())
        Autoscaler(
            client, keys, settings, kinds=fleet.kinds(), provisioner=workers, clock=SystemClock(), emit=print_event
        ).run(stop)
