"""``dispatcher top`` against a real cell: one frame into a pipe, and live in a terminal until it is told to end."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from dispatcher.cli import cli
from tests.eventually import eventually
from tests.integration.stage import Stage


def test_one_frame(stage: Stage) -> None:
    """Where the output is no terminal, too; nothing is cut there."""
    stage.worker("w1", models=("chat",)).beat()
    stage.send(9)
    stage.steps()

    for option in ((), ("--once",)):
        result = CliRunner().invoke(cli, ["--redis-url", stage.url, "top", *option])
        assert result.exit_code == 0
        assert "waiting 6" in result.stdout
        assert "w1@h" in result.stdout
        assert "dispatch/demo.job/default/p0/c10" in result.stdout


class Terminal:
    """``dispatcher top`` on a terminal of its own, and all that it has written."""

    def __init__(self, url: str) -> None:
        self.end, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dispatcher", "--redis-url", url, "top", "--interval", "0.1"],
            stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
        )  # fmt: skip
        os.close(theirs)
        self.written = b""

    def shows(self, text: str) -> bool:
        while select.select([self.end], [], [], 0)[0]:
            try:
                self.written += os.read(self.end, 65536)
            except OSError:  # the other end is closed
                break
        return text.encode() in self.written

    def ended(self) -> bool:
        self.shows("")
        return self.process.poll() is not None


@contextmanager
def terminal(url: str) -> Iterator[Terminal]:
    one = Terminal(url)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait(10)
        os.close(one.end)


@pytest.mark.parametrize("how", ["q", "ctrl-c"])
def test_live_until_it_is_told_to_end(stage: Stage, how: str) -> None:
    """It shows what has changed without being asked; `q` and Ctrl-C end it with exit code 0."""
    stage.steps()
    with terminal(stage.url) as top:
        eventually(lambda: top.shows("no workers"), 20, lambda: top.written)
        stage.worker("w1").beat()
        eventually(lambda: top.shows("w1@h"), 20, lambda: top.written)

        if how == "q":
            os.write(top.end, b"q")
        else:
            top.process.send_signal(signal.SIGINT)

        eventually(top.ended, 20, lambda: top.written)
        assert top.process.returncode == 0
