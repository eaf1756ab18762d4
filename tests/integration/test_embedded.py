"""The Redis of a local cluster, and how other commands find it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.clock import ManualClock
from dispatcher.errors import Unavailable
from dispatcher.provision.child import Children
from dispatcher.provision.embedded_redis import EmbeddedRedis, NoRedisServer, find_redis_server
from dispatcher.provision.state_folder import ClusterRuns, StateFolder, find_redis_url, state_folder
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.redis_client.server import read_server_facts
from tests.eventually import eventually


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.close()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "DISPATCHER_STATE_DIR": str(tmp_path / "state")}


@pytest.fixture
def folder(environ: dict[str, str], redis_executable: str) -> Path:
    return state_folder(environ)


def test_where_the_state_is() -> None:
    """Chosen, else where the desktop standard says, else in the home folder; a relative XDG folder is no folder."""
    assert state_folder({"DISPATCHER_STATE_DIR": "/a/b"}) == Path("/a/b")
    assert state_folder({"XDG_STATE_HOME": "/x"}) == Path("/x/inference-dispatcher")
    at_home = Path.home() / ".local" / "state" / "inference-dispatcher"
    assert state_folder({}) == state_folder({"XDG_STATE_HOME": "x"}) == at_home


def test_it_is_private_persistent_and_never_evicts(folder: Path, environ: dict[str, str], children: Children) -> None:
    """What was written is there again after a stop and a start; nobody else can open the folder."""
    with StateFolder(folder):
        redis = EmbeddedRedis(folder, children, environ)
        redis.start()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with connect(redis.url) as client:
            facts = read_server_facts(client)
            assert (facts.problems, facts.warnings, facts.maxmemory_policy) == ([], [], "noeviction")
            client.set("kept", "1")
        redis.stop()
        redis.start()
        with connect(redis.url) as client:
            assert client.get("kept") == "1"


def test_other_commands_find_it_while_it_lives(folder: Path, environ: dict[str, str], children: Children) -> None:
    """Not before it is announced, and not after it ended, however it ended."""
    assert find_redis_url(environ) is None
    with StateFolder(folder) as state:
        redis = EmbeddedRedis(folder, children, environ)
        server = redis.start()
        assert find_redis_url(environ) is None
        state.announce(redis.url)
        assert find_redis_url(environ) == redis.url
        server.kill()
        assert (folder / "redis.sock").exists()
        assert find_redis_url(environ) is None


def test_a_url_elsewhere_is_found_while_the_folder_is_locked(folder: Path, environ: dict[str, str]) -> None:
    """A cluster on somebody's Redis leaves no socket to look at."""
    with StateFolder(folder) as state:
        state.announce("redis://example:6379/0")
        assert find_redis_url(environ) == "redis://example:6379/0"
        assert stat.S_IMODE((folder / "redis_url").stat().st_mode) == 0o600
    assert find_redis_url(environ) is None
    (folder / "redis_url").write_text("redis://example:6379/0")
    assert find_redis_url(environ) is None


def test_one_cluster_a_folder(folder: Path) -> None:
    """Two would share one append-only file."""
    with StateFolder(folder), pytest.raises(ClusterRuns, match="already"), StateFolder(folder):
        pass
    with StateFolder(folder):
        pass


@pytest.mark.parametrize("name", ["long" * 60, "with a space"])
def test_an_awkward_folder_name(
    tmp_path: Path, children: Children, environ: dict[str, str], redis_executable: str, name: str
) -> None:
    """A socket's path has a limit of its own, and goes into URLs; where it cannot, the socket is in a short private folder."""
    folder = tmp_path / name
    with StateFolder(folder):
        redis = EmbeddedRedis(folder, children, environ)
        redis.start()
        short = Path(redis.url.removeprefix("unix://").partition("?")[0]).parent
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        redis.stop()
        assert not short.exists()


def test_no_server_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence that says how to get one."""
    monkeypatch.setattr("dispatcher.provision.embedded_redis._bundled_server", lambda: None)
    with pytest.raises(NoRedisServer, match=r"no redis-server or valkey-server on PATH: install one .*DISPATCHER_REDIS_URL") as refused:
        find_redis_server({"PATH": "/nowhere"})
    assert "\n" not in str(refused.value)


def test_a_server_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """valkey-server is taken where redis-server is old, and the old one is named where there is no other."""
    old, new = tmp_path / "redis-server", tmp_path / "valkey-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=0'\n")
    old.chmod(0o700)
    monkeypatch.setattr("dispatcher.provision.embedded_redis._bundled_server", lambda: None)
    with pytest.raises(NoRedisServer, match=r"redis-server is 5\.0, older than 6\.2"):
        find_redis_server({"PATH": str(tmp_path)})
    new.write_text("#!/bin/sh\necho 'Valkey server v=8.1.0 sha=0'\n")
    new.chmod(0o700)
    assert find_redis_server({"PATH": str(tmp_path)}) == str(new)


def test_a_server_that_does_not_start(folder: Path, environ: dict[str, str], children: Children, tmp_path: Path) -> None:
    """What it said is part of the message."""
    fake = tmp_path / "redis-server"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo v=7.0.0 || { echo "disk on fire"; exit 3; }\n')
    fake.chmod(0o700)
    with StateFolder(folder), pytest.raises(Unavailable, match="ended with 3 instead of starting: disk on fire"):
        EmbeddedRedis(folder, children, environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"}).start()


def test_a_server_that_still_reads_its_file_is_not_started_twice(
    folder: Path, environ: dict[str, str], children: Children, tmp_path: Path
) -> None:
    """Two servers would write one file. Who asks again waits for the first."""
    fake, starts = tmp_path / "redis-server", tmp_path / "starts"
    fake.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo v=7.0.0 || {{ echo started >>{starts}; exec sleep 600; }}\n')
    fake.chmod(0o700)
    with StateFolder(folder):
        redis = EmbeddedRedis(folder, children, environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"}, ManualClock(1_000))
        for _ in range(2):
            with pytest.raises(Unavailable, match="has not answered within 60 s"):
                redis.start()
            eventually(starts.exists)
        assert starts.read_text().split() == ["started"]
        redis.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_children_die_with_us_however_we_die(tmp_path: Path, death: signal.Signals) -> None:
    """Also by SIGKILL, which nobody can handle."""
    program = (
        "import os, sys, threading\n"
        "from pathlib import Path\n"
        "from dispatcher.provision.child import Children\n"
        "children = Children()\n"
        "made = []\n"
        "def start(): made.append(children.start('c', ['sleep', '1000'], log=Path(sys.argv[1]), environ=os.environ))\n"
        "thread = threading.Thread(target=start); thread.start(); thread.join()\n"
        "print(made[0].pid, flush=True)\n"
        "threading.Event().wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    eventually(lambda: b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes())
    parent.send_signal(death)
    parent.wait(10)
    parent.stdout.close()
    eventually(lambda: not Path(f"/proc/{child}").exists())


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_ignores_sigterm_is_killed_within_the_bound(tmp_path: Path, children: Children) -> None:
    """With its whole group, and reaped."""
    script = "trap '' TERM; sleep 1000 & echo started $!; while :; do sleep 1; done"
    child = children.start("stubborn", ["sh", "-c", script], log=tmp_path / "log", environ=os.environ)
    eventually(lambda: "started" in child.log_tail())
    children.stop([child], timeout_s=0.2)
    assert child.exit_code == -signal.SIGKILL
    grandchild = Path("/proc", child.log_tail().split()[-1])
    # Nobody may have reaped it yet: in a container the first process often does not.
    eventually(lambda: not grandchild.exists() or (grandchild / "stat").read_text().rpartition(")")[2].split()[0] == "Z")
