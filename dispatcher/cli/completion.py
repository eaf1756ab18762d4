"""``dispatcher completion``: shell completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: eval "$(dispatcher completion bash)"     in ~/.bashrc
    zsh:  eval "$(dispatcher completion zsh)"      in ~/.zshrc
    fish: dispatcher completion fish | source      in config.fish
    """  # noqa: D301 (click's mark for a paragraph that it must not wrap)
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "dispatcher", "_DISPATCHER_COMPLETE").source())
