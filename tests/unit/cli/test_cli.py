"""The command line, without a cluster: what is wrong is said in a sentence, with the right exit code and no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dispatcher.cli import cli
from dispatcher.cli.group import COMMANDS
from dispatcher.store.keys import Keys
from dispatcher.store.operator.dead_letters import DeadLetters
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.registration import Registration
from dispatcher.store.worker.worker_store import WorkerStore

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DISPATCHER_STATE_DIR", str(tmp_path / "state"))

    def invoke(*args: str, **options: object) -> Result:
        return CliRunner().invoke(cli, args, **options)

    return invoke


def sentence(result: Result) -> str:
    """The only line on stderr, without the name before it; nothing is on stdout."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("dispatcher: ")
    return line.removeprefix("dispatcher: ")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(run, command: str) -> None:
    """``--help`` works for each, and the group lists it with a line of its own."""
    assert run(command, "--help").exit_code == 0
    listed = [line.split() for line in run("--help").stdout.splitlines()]
    assert any(words[:1] == [command] and len(words) > 1 for words in listed)


def test_version(run) -> None:
    """Name and number."""
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("dispatcher ")


@pytest.mark.parametrize(
    "args",
    [("status",), ("drain", "w"), ("undrain", "w"), ("pause",), ("resume",), ("release",), ("purge", "-f"), ("revoke", "id"),
     ("dead", "list"), ("run",), ("rollout", "status"), ("autoscale", "--advise"), ("submit", "in.jsonl", "--out", "out.jsonl")],
)  # fmt: skip
def test_without_a_cluster(run, args: tuple[str, ...]) -> None:
    """Every command that needs one says how to get one."""
    result = run(*args)
    assert result.exit_code == 2
    assert sentence(result) == "no cluster runs here: start one with `dispatcher up`, or set DISPATCHER_REDIS_URL"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("bogus",), "No such command 'bogus' (see `dispatcher --help`)"),
        (("drain",), "Missing argument 'WORKER' (see `dispatcher drain --help`)"),
        (("submit", "x"), "Missing option '--out' (see `dispatcher submit --help`)"),
        (("dead", "requeue"), "name the jobs, as `dispatcher dead list` shows them, or say --all (see `dispatcher dead requeue --help`)"),
        (("dead", "purge", "1", "--all"),
         "name the jobs, as `dispatcher dead list` shows them, or say --all (see `dispatcher dead purge --help`)"),
        (("-A", "no.such.app", "run"),
         "cannot load the Celery app 'no.such.app' (No module named 'no'): name it as you would for `celery -A`"),
        (("--config", "/none.toml", "status"), "cannot read /none.toml: No such file or directory; name a TOML file that is there"),
        (("--redis-url", "http://x", "status"),
         "cannot use http://x: the URL of Redis begins with redis://, rediss://, redis+socket://, unix:// or sentinel://"),
    ],
)  # fmt: skip
def test_bad_use(run, args: tuple[str, ...], said: str) -> None:
    """One sentence that says what to do, exit code 2."""
    result = run(*args)
    assert (result.exit_code, sentence(result)) == (2, said)


def test_a_redis_that_refuses_is_not_called_down(run, redis_url: str) -> None:
    """Nobody can start one that runs: the URL is wrong."""
    for url in (redis_url.replace("db=0", "db=99"), redis_url.replace("://", "://nobody:secret@", 1)):
        result = run("--redis-url", url, "status")
        assert result.exit_code == 1
        assert "refuses (" in sentence(result)
        assert "secret" not in result.output


def test_a_url_that_cannot_be_used_is_a_mistake_in_the_settings(run) -> None:
    """As other commands have it."""
    assert [run("--redis-url", "http://x", name).exit_code for name in ("check", "status")] == [2, 2]


def test_a_redis_that_does_not_answer_is_failed_work(run) -> None:
    """The use was right: exit code 1. The password is not shown."""
    result = run("--redis-url", "redis://:secret@127.0.0.1:1/0", "status")
    assert result.exit_code == 1
    said = sentence(result)
    assert "does not answer" in said
    assert "secret" not in said


def test_check_tells_every_mistake_at_once(run, tmp_path: Path) -> None:
    """Environment, file, fleet, relations and names that are none."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[dispatcher]\nlease_ttl_s = 0.5\nnonsense = 1\n[[worker]]\nname = ""\n[extra]')
    result = run("check", str(fleet), env={"DISPATCHER_BATCH_SIZE": "many", "DISPATCHER_LEASE_TTL": "5"})
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    for part in ("nonsense", "DISPATCHER_BATCH_SIZE", "two heartbeats", "[[worker]] 1", "[extra]", "DISPATCHER_LEASE_TTL is no setting"):
        assert sum(part in line for line in lines) == 1, part
    as_json = run("check", str(fleet), "--json", env={"DISPATCHER_BATCH_SIZE": "many", "DISPATCHER_LEASE_TTL": "5"})
    facts = json.loads(as_json.stdout)
    assert not facts["ok"]
    assert facts["mistakes"] == lines


def test_a_mistake_is_named_after_the_place_of_its_value(run, tmp_path: Path) -> None:
    """Table and key of the file, for defaults and both sides of a relation too; the environment variable where that overrides the file."""
    file = tmp_path / "settings.toml"
    file.write_text("[dispatcher]\nlease_ttl_s = 0.5\nbatch_size = 0\n[autoscaler]\nworkers_min = 9\n")
    lines = run("check", str(file), env={"DISPATCHER_BATCH_SIZE": "5000"}).stderr.splitlines()
    assert any(line.startswith(f"[dispatcher] lease_ttl_s in {file} is 0.5: it must exceed two heartbeats") for line in lines)
    assert any(line.startswith("DISPATCHER_BATCH_SIZE is 5000: ") for line in lines)
    assert any(line.startswith(f"[autoscaler] workers_min in {file} is 9: ") for line in lines)
    assert f"it must not exceed [autoscaler] workers_max (not in {file}), which is 4" in "".join(lines)
    file.write_text("[dispatcher]\nheartbeat_s = 9.0\n")
    assert run("check", str(file)).stderr.startswith(
        f"[dispatcher] lease_ttl_s (not in {file}) is 5.0: it must exceed two heartbeats ([dispatcher] heartbeat_s in {file} is 9.0), "
    )
    file.write_text("dispatcher = 3\n")
    assert f"{file}: dispatcher is 3: write a table, [dispatcher]" in run("check", str(file)).stderr


@pytest.mark.parametrize(("text", "said"), [
    ("[dispatchr]\nlease_ttl_s = 5.0", "there is no table [dispatchr]; "),
    ("lease_ttl_s = 5.0", "lease_ttl_s stands in no table; "),
    ("[dispatcher]\nworkers_min = 3", "[dispatcher] has no setting 'workers_min'; write workers_min under [autoscaler]"),
    ("[dispatcher]\nautoscaler_workers_max = 3", "has no setting 'autoscaler_workers_max'; write workers_max under [autoscaler]"),
    ("[autoscaler]\nlease_ttl_s = 5.0", "[autoscaler] has no setting 'lease_ttl_s'; write lease_ttl_s under [dispatcher]"),
    ("[dispatcher]\nlease_ttl_s = true", "[dispatcher] lease_ttl_s = true: expected a number"),
    ("[dispatcher]\nlease_ttl_s = nan", "[dispatcher] lease_ttl_s = nan: expected a number"),
    ('[dispatcher]\nmodels = ["a", 1, true]', '[dispatcher] models = ["a", 1, true]: expected a list of strings'),
    ("[dispatcher]\nlearn_costs = 2026-01-01", "[dispatcher] learn_costs = 2026-01-01: expected true or false"),
], ids=lambda text: text.partition("\n")[2] or text)  # fmt: skip
def test_whatever_a_settings_file_has_wrong_is_named_as_it_stands_there(run, tmp_path: Path, text: str, said: str) -> None:
    """In one line; a command that is handed the file ends with it."""
    file = tmp_path / "settings.toml"
    file.write_text(text)
    for words in (("check", str(file)), ("--config", str(file), "status")):
        result = run(*words)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert result.stderr.partition(f"{file}: ")[2].removeprefix("[dispatcher] ").startswith(said.removeprefix("[dispatcher] "))


def test_a_settings_file_that_is_no_text(run, tmp_path: Path) -> None:
    """A sentence, no traceback."""
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xff\xfe")
    assert "is not TOML" in sentence(run("--config", str(file), "status"))


def test_check_of_good_settings(run) -> None:
    """Exit code 0 and a sentence."""
    result = run("check", "--offline")
    assert (result.exit_code, result.stdout) == (0, "the settings are right\n")


def test_check_knows_every_variable_that_documents_name(run) -> None:
    """Those of workers, and docker-compose.yml's, are no settings and no mistakes."""
    texts = [(ROOT / name).read_text("utf-8") for name in ("docs/settings.md", "docker-compose.yml", "README.md")]
    named = {name for text in texts for name in re.findall(r"DISPATCHER_[A-Z_]+[A-Z]", text)}
    assert {"DISPATCHER_WORKER_MODELS_MAX", "DISPATCHER_REDIS_PORT", "DISPATCHER_LEASE_TTL_S"} <= named
    assert "is no setting" not in run("check", "--offline", env=dict.fromkeys(named, "1")).stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, shell: str) -> None:
    """The script of each shell, for the command by its own name."""
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_DISPATCHER_COMPLETE" in result.stdout


def test_up_with_a_wrong_fleet_starts_nothing(run, tmp_path: Path) -> None:
    """All mistakes of settings and fleet at once, before anything runs."""
    fleet = tmp_path / "fleet.toml"
    fleet.write_text("[dispatcher]\nnonsense = 1\n[[worker]]\n")
    result = run("up", "--fleet", str(fleet))
    assert result.exit_code == 2
    assert "nonsense" in result.stderr
    assert "give it a name" in result.stderr
    assert not (tmp_path / "state").exists()


class TestAgainstRedis:
    """Commands on a Redis with nothing else there."""

    @pytest.fixture
    def run(self, run, redis_url: str):
        return lambda *args, **options: run("--redis-url", redis_url, *args, **options)

    def test_status_json_has_the_documented_shape(self, run) -> None:
        """One object on one line."""
        result = run("status", "--json")
        assert result.exit_code == 0
        nothing = {"leader": None, "ingress": 0, "scheduled": 0, "dead": 0, "unsettled": 0, "unroutable": 0}
        nothing |= {"unreadable": [], "lanes": [], "workers": []}
        assert json.loads(result.stdout) == nothing
        assert "no dispatcher leads" in run("status").stdout

    def test_status_shows_what_workers_hold_in_memory(self, run, redis_url: str) -> None:
        """From registration on; what holds nothing is told from what does not say."""
        client = connect(redis_url)
        for name, resident in (("w1", None), ("w2", ()), ("w3", ("chat@1", "other"))):
            models = ("chat@1", "other", name)
            assert WorkerStore(client, Keys(), name).register(Registration(name, "h", 1, 1, models=models, resident=resident))
        assert [one["resident"] for one in json.loads(run("status", "--json").stdout)["workers"]] == [None, [], ["chat@1", "other"]]
        rows = run("status").stdout.splitlines()[-3:]
        assert [row.split()[-1] for row in rows] == ["-", "none", "chat@1,other"]
        client.close()

    def test_a_wrong_worker(self, run) -> None:
        """Names those there are."""
        result = run("drain", "w1")
        assert (result.exit_code, sentence(result)) == (2, "no worker 'w1' lives: there are none")

    def test_pause_and_resume(self, run) -> None:
        """Shown by status until it is taken back."""
        assert json.loads(run("pause", "--json").stdout) == {"paused": ["*"]}
        assert "paused: every queue" in run("status").stdout
        assert json.loads(run("resume", "--json").stdout) == {"paused": []}
        assert "paused" not in run("status").stdout

    def test_purge_asks(self, run) -> None:
        """Without a yes nothing happens, and the exit code says so."""
        assert run("purge", input="n\n").exit_code == 130
        assert json.loads(run("purge", "--force", "--json").stdout) == {"purged": 0}

    def test_dead_letters(self, run, monkeypatch: pytest.MonkeyPatch) -> None:
        """Jobs that are no dead letters are failed work, said after what was done."""
        assert run("dead", "list").stdout == "no dead letters\n"
        assert json.loads(run("dead", "list", "--json").stdout) == []
        monkeypatch.setattr(DeadLetters, "requeue", lambda *_: 1)
        result = run("dead", "requeue", "1", "2")
        assert (result.exit_code, result.stdout) == (1, "1 job back in line\n")
        assert "1 of the 2 named are no dead letters" in result.stderr

    def test_check_warns_of_a_redis_without_persistence(self, run) -> None:
        """It would do, so the exit code is 0."""
        result = run("check")
        assert result.exit_code == 0
        assert "warning: appendonly is no" in result.stderr

    def test_check_finds_a_key_that_ends_workers(self, run, redis_url: str) -> None:
        """Of a queue that workers named, too; in a sentence with the key, and exit code 1."""
        with connect(redis_url) as client:
            assert WorkerStore(client, Keys(), "w1").register(Registration("w1", "h", 1, 1, ingress=("gpu",)))
            client.zadd("_kombu.binding.gpu", {"x": 1})
        result = run("check")
        assert result.exit_code == 1
        assert "the key '_kombu.binding.gpu' is a zset, and workers, which need a set there, end for it" in result.stderr
        facts = json.loads(run("check", "--json").stdout)
        assert (facts["ok"], len(facts["problems"])) == (False, 1)

    def test_status_shows_threads_and_what_redis_refuses(self, run, redis_url: str) -> None:
        """Redis' own sentence below the table; a worker that does not say its threads has a dash."""
        with connect(redis_url) as client:
            for name, threads in (("w1", 0), ("w2", 3)):
                store = WorkerStore(client, Keys(), name)
                assert store.register(Registration(name, "h", 1, 1, threads=threads))
                store.heartbeat({"done": 0, "refused": "NOPERM you may not" if threads else ""})
        w1, w2 = json.loads(run("status", "--json").stdout)["workers"]
        assert [(one["state"], one["threads"], one["refused"]) for one in (w1, w2)] == [
            ("ready", 0, ""), ("refused", 3, "NOPERM you may not"),
        ]  # fmt: skip
        lines = run("status").stdout.splitlines()
        assert lines[-1] == "Redis refuses what w2 needs: NOPERM you may not"
        assert [line.split()[4] for line in lines[-3:-1]] == ["-", "3"]

    def test_run_refuses_a_redis_that_evicts(self, run, make_redis) -> None:
        """Jobs are not a cache."""
        evicting = make_redis("--maxmemory-policy", "allkeys-lru")
        result = run("--redis-url", evicting.url(), "run")
        assert (result.exit_code, "maxmemory-policy is allkeys-lru" in sentence(result)) == (2, True)
        assert run("--redis-url", evicting.url(), "check").exit_code == 1

    def test_an_app_s_broker_is_used_where_nothing_else_is_said(self, run, redis_url: str, tmp_path: Path, monkeypatch) -> None:
        """Its ``global_keyprefix`` too; the environment comes before it."""
        (tmp_path / "their_app.py").write_text(
            "from celery import Celery\n"
            f"app = Celery('theirs', broker='{redis_url.replace('unix://', 'redis+socket://').replace('?db=0', '?virtual_host=5')}')\n"
            "app.conf.broker_transport_options = {'global_keyprefix': 'theirs:'}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        from dispatcher.store.redis_client.connection import connect

        result = CliRunner().invoke(cli, ["-A", "their_app", "pause", "--json"])
        assert result.exit_code == 0, result.stderr
        with connect(redis_url.replace("db=0", "db=5")) as client:
            assert client.smembers("theirs:dispatch:paused") == {"*"}
        result = CliRunner().invoke(cli, ["-A", "their_app", "pause"], env={"DISPATCHER_REDIS_URL": redis_url})
        with connect(redis_url) as client:
            assert client.smembers("theirs:dispatch:paused") == {"*"}
