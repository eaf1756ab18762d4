"""The group of all commands: its options, and how a command ends in an error (a sentence, no traceback)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import redis

from dispatcher.cli.session import Session
from dispatcher.errors import DispatcherError, Invalid
from dispatcher.provision.embedded_redis import NoRedisServer

BAD_USE: Final = 2
FAILED: Final = 1
INTERRUPTED: Final = 130

COMMANDS: Final = {
    "up": "up",
    "run": "run",
    "autoscale": "autoscale",
    "submit": "submit",
    "status": "status",
    "top": "top",
    "explain": "explain",
    "health": "health",
    "drain": "drain",
    "undrain": "drain",
    "pause": "pause",
    "resume": "pause",
    "release": "release",
    "revoke": "revoke",
    "purge": "purge",
    "dead": "dead",
    "rollout": "rollout",
    "simulate": "simulate",
    "replay": "replay",
    "check": "check",
    "completion": "completion",
}
"""Command → module of this package.

A module is imported when its command is used, so ``--help`` and completion stay quick.
"""


class Commands(click.Group):
    """Imports commands on demand, and turns the errors that they raise into a sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (module := COMMANDS.get(cmd_name)) is None:
            return None
        command = getattr(import_module(f"dispatcher.cli.{module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the command, and exit."""
        try:
            code = super().main(args, prog_name or "dispatcher", complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as exc:
            click.echo(exc.format_message(), err=True)
            sys.exit(BAD_USE)
        except click.UsageError as exc:
            where = f" (see `{exc.ctx.command_path} --help`)" if exc.ctx is not None else ""
            _fail(exc.format_message().rstrip(".") + where, BAD_USE)
        except click.ClickException as exc:
            _fail(exc.format_message(), exc.exit_code)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(INTERRUPTED)
        except (Invalid, NoRedisServer) as exc:
            _fail(str(exc), BAD_USE)
        except DispatcherError as exc:
            _fail(str(exc), FAILED)
        except redis.RedisError as exc:
            _fail(f"Redis refuses a command, or its answers do not arrive: {exc}", FAILED)
        except BrokenPipeError:  # `| head` has read enough and is gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"dispatcher: {message}", err=True)
    sys.exit(code)


def _version() -> str:
    try:
        return version("inference-dispatcher")
    except PackageNotFoundError:
        return "0 (not installed)"


@click.group(
    "dispatcher", cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("-A", "--app", metavar="APP",
              help="A Celery app, named as for `celery -A`: use its broker, options and backend.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE",
              help="Settings in TOML: [dispatcher], [autoscaler].")
@click.option("--redis-url", metavar="URL", help="The Redis that carries the jobs.  [env: DISPATCHER_REDIS_URL]")
@click.version_option(_version(), message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, app: str | None, config: Path | None, redis_url: str | None) -> None:
    """A load-aware dispatcher for inference jobs on Celery and Redis.

    Settings come from options, then DISPATCHER_* variables, the TOML file, the Celery app, and defaults.
    """
    ctx.obj = Session(os.environ, app_name=app, config=config, redis_url=redis_url)


def main() -> NoReturn:
    """The ``dispatcher`` command."""
    cli.main()
