"""``dispatcher rollout``: what an operator types, against a Redis with workers registered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import msgspec
import pytest
from click.testing import CliRunner, Result

from dispatcher.cli import cli
from dispatcher.core.rollout.canary import Tally, Watch
from dispatcher.core.rollout.changes import GuardPlan, set_shares
from dispatcher.store.leader.rollout_store import SUBJECT, RolloutStore, Stored
from tests.integration.stage import Stage

Run = Callable[..., Result]


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    made = Stage(redis_url)
    made.worker(models=("chat@1", "chat@2"))
    yield made
    made.close()


@pytest.fixture
def run(stage: Stage) -> Run:
    return lambda *args: CliRunner().invoke(cli, ["--redis-url", stage.url, "rollout", *args])


def shares(run: Run) -> dict[str, float]:
    (alias,) = json.loads(run("status", "chat", "--json").stdout)
    return {one["version"]: one["share"] for one in alias["versions"] if not one["withdrawn"]}


def refusal(result: Result, code: int = 2) -> str:
    assert result.exit_code == code
    assert result.stdout == ""
    return result.stderr.removeprefix("dispatcher: ").rstrip()


def test_a_canary_by_hand_and_the_way_back(run: Run) -> None:
    """set, set, promote, back, back: each says what is so now."""
    assert run("set", "chat", "chat@1=100").stdout == "chat: chat@1 100 %\n"
    assert run("set", "chat", "chat@2=5").stdout == "chat: chat@1 95 %, chat@2 5 %\n"
    assert run("promote", "chat").stdout == "chat: chat@2 100 %\n"
    assert shares(run) == {"chat@2": 100}
    assert run("back", "chat").stdout == "chat: chat@1 95 %, chat@2 5 %\n"
    assert json.loads(run("back", "chat", "--json").stdout) == {
        "alias": "chat", "revision": 5, "guarded": False, "shares": {"chat@1": 100.0}
    }  # fmt: skip
    assert "withdrawn" in run("status").stdout
    assert refusal(run("back", "chat")) == "there is no split before this one"


def test_a_guard_says_what_it_will_do_and_what_it_has_seen(run: Run, stage: Stage) -> None:
    """Its steps when it begins; its evidence and what it waits for in `status`."""
    run("set", "chat", "chat@1=100")
    assert run("set", "chat", "chat@2=5", "--guard", "--steps", "5,50,100").stdout == (
        "chat: chat@1 95 %, chat@2 5 %; guarded against chat@1, then 50 %, 100 %\n"
    )
    assert "0 of 50 runs seen at this share" in run("status").stdout
    guard = RolloutStore(stage.text, stage.keys).read()["chat"].rollout.guard
    assert guard is not None
    watch = Watch(guard.began_ms, Tally(300, 2, 3000.0), Tally(20, 1, 200.0), stage_jobs=21)
    stage.client.hset(stage.keys.policy, SUBJECT, msgspec.json.encode({"chat": watch}))
    said = run("status").stdout
    assert "chat is guarded: 21 of 50 runs seen at this share (chat@2 21 runs, 1 failed, 10 ms; chat@1 302 runs, 2 failed" in said
    (facts,) = json.loads(run("status", "--json").stdout)
    assert facts["guard"]["candidate"] == {"version": "chat@2", "runs": 21, "failed": 1, "mean_ms": 10.0}
    assert facts["guard"]["steps"] == [50.0, 100.0]
    run("set", "chat", "chat@2=5", "--no-guard")
    assert json.loads(run("status", "--json").stdout)[0]["guard"] is None


def test_a_version_that_no_worker_serves(run: Run) -> None:
    """Refused, unless it is meant; going back is never refused, but said."""
    said = refusal(run("set", "chat", "chat@1=50", "chat@3=50"))
    assert said.startswith("no worker serves chat@3: start one with --models chat@3, or say --force")
    assert run("set", "chat", "chat@3=100", "--force").exit_code == 0
    assert "chat@3   100 %  no" in run("status").stdout
    assert run("set", "chat", "chat@1=100").exit_code == 0
    result = run("back", "chat")
    assert (result.exit_code, result.stderr) == (0, "warning: no worker serves chat@3\n")
    run("set", "chat", "chat@1=90", "chat@3=10", "--force")
    assert "no worker serves chat@3" in refusal(run("promote", "chat"))


def test_nothing_is_refused_silently(run: Run) -> None:
    """Each mistake in a sentence, and nothing is changed by it."""
    assert run("status").stdout == "no aliases\n"
    for args, part in (
        (("set", "chat", "chat@1=95"), "add up to 95 %"),
        (("set", "chat", "chat@1"), "is no share"),
        (("set", "chat", "chat@1=100", "--guard"), "compares two versions"),
        (("set", "chat", "chat@1=95", "chat@2=5", "--guard", "--steps", "20,5"), "each must be more"),
        (("promote", "chat"), "there is no alias 'chat'"),
        (("back", "chat"), "there is no alias 'chat'"),
        (("remove", "chat"), "there is no alias 'chat'"),
        (("status", "chat"), "there is no alias 'chat'"),
    ):
        assert part in refusal(run(*args))
    assert run("status", "--json").stdout == "[]\n"


def test_an_alias_of_an_alias(run: Run) -> None:
    """Refused: it would not be looked up. A version of the alias' own name is none."""
    run("set", "chat", "chat@1=100")
    assert "'chat' is an alias itself" in refusal(run("set", "talk", "chat=100", "--force"))
    assert run("set", "chat", "chat@1=50", "chat=50", "--force").exit_code == 0


def test_removed(run: Run) -> None:
    """It is no alias any more."""
    run("set", "chat", "chat@1=100")
    assert run("remove", "chat").stdout == "chat is no alias any more\n"
    assert run("status").stdout == "no aliases\n"


def test_what_waits_is_counted(run: Run, stage: Stage) -> None:
    """For each version: who switches from blue to green sees when blue is empty."""
    run("set", "chat", "chat@1=100")
    stage.dispatcher.step()
    for stub in stage.workers.values():
        stub.store.drain("keep")
    stage.send(3, headers={"dispatch": {"model": "chat"}})
    stage.steps()
    (facts,) = json.loads(run("status", "--json").stdout)
    assert [(one["version"], one["waiting"]) for one in facts["versions"]] == [("chat@1", 3)]


def test_a_guard_that_is_quicker_is_no_obstacle(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is made again from what is there now."""
    run("set", "chat", "chat@1=100")
    change = RolloutStore.change
    before: list[bool] = []

    def interrupted(self: RolloutStore, alias: str, seen: Stored | None, wanted: object) -> Stored | None:
        if not before:
            before.append(True)
            assert seen is not None
            change(self, alias, seen, set_shares(seen.rollout, {"chat@2": 500}, 1, guard=GuardPlan()))
        return change(self, alias, seen, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(RolloutStore, "change", interrupted)
    assert run("set", "chat", "chat@2=20").exit_code == 0
    monkeypatch.undo()
    assert shares(run) == {"chat@1": 80, "chat@2": 20}
    run("back", "chat")
    assert shares(run) == {"chat@1": 95, "chat@2": 5}
