"""The models in memory of one process: loaded once, never more than the limit, the one used longest ago closed first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.clock import ManualClock
from tests.eventually import eventually
from workers.runtimes import Answer, Body, Rejected, ResidentModels
from workers.runtimes import resident as resident_module


class Fake:
    """A model that counts; ``gate`` holds its loading up."""

    endpoints: frozenset[str] = frozenset()

    def __init__(self, name: str, shelf: Shelf) -> None:
        self.name = name
        self.shelf = shelf

    def load(self) -> None:
        self.shelf.clock.sleep(2.0)
        self.shelf.loads.append(self.name)
        self.shelf.loaded += 1
        self.shelf.most = max(self.shelf.most, self.shelf.loaded)
        if self.name == "broken":
            raise OSError("no such file")
        self.shelf.gate.wait(10)

    def run(self, batch: list[Body]) -> list[Answer]:
        return list(batch)

    def probe(self) -> None: ...

    def close(self) -> None:
        self.shelf.loaded -= 1
        self.shelf.closed.append(self.name)
        if self.name == "clumsy":
            raise OSError("cannot close")


class Shelf:
    """Every model there is, but ``missing``."""

    def __init__(self, limit: int = 0) -> None:
        self.clock = ManualClock()
        self.gate = threading.Event()
        self.gate.set()
        self.loads: list[str] = []
        self.closed: list[str] = []
        self.loaded = self.most = 0
        self.models = ResidentModels(self.make, limit=lambda: limit, clock=self.clock)

    def make(self, model: str) -> Fake:
        if model == "missing":
            raise Rejected(404, "there is none")
        return Fake(model, self)

    def use(self, *models: str) -> None:
        for model in models:
            with self.models.use(model):
                pass


def test_a_model_is_loaded_once() -> None:
    """Without a limit, however often and in whatever order models are used."""
    shelf = Shelf()
    shelf.use("a", "b", "a", "c", "b")
    assert (shelf.loads, shelf.closed) == (["a", "b", "c"], [])
    shelf.models.close()
    assert sorted(shelf.closed) == ["a", "b", "c"]


def test_over_the_limit_the_one_used_longest_ago_is_closed() -> None:
    """Used, not loaded: a hit counts."""
    shelf = Shelf(limit=2)
    shelf.use("a", "b", "a", "c")
    assert shelf.closed == ["b"]
    shelf.use("a", "b")
    assert (shelf.loads, shelf.closed) == (["a", "b", "c", "b"], ["b", "c"])


def test_a_model_that_does_not_exist_costs_no_place() -> None:
    """Nothing is closed for a job that is refused."""
    shelf = Shelf(limit=1)
    shelf.use("a")
    with pytest.raises(Rejected):
        shelf.use("missing")
    assert shelf.closed == []


def test_a_load_that_fails_gives_its_place_back() -> None:
    """The next job may load another, or try again; what the failed one took is let go."""
    shelf = Shelf(limit=1)
    for _ in range(2):
        with pytest.raises(OSError, match="no such file"):
            shelf.use("broken")
    shelf.use("a", "clumsy", "b")
    assert shelf.loads == ["broken", "broken", "a", "clumsy", "b"]
    assert shelf.closed == ["broken", "broken", "a", "clumsy"]


def test_what_is_in_memory_is_reported_with_the_time_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a load what has gone and what comes, after it what has come, or not; a hit reports nothing."""
    reports: list[tuple[list[str], dict[str, float] | None, list[str]]] = []
    monkeypatch.setattr(resident_module, "report_models", lambda has, load_s=None, *, loading: reports.append((has, load_s, loading)))
    shelf = Shelf(limit=1)
    shelf.use("a", "a", "b")
    assert reports == [([], None, ["a"]), (["a"], {"a": 2.0}, []), ([], None, ["b"]), (["b"], {"b": 2.0}, [])]
    shelf.models.close()
    with pytest.raises(OSError, match="no such file"):
        shelf.use("broken")
    assert reports[-1] == ([], None, [])


def test_threads_share_one_load() -> None:
    """Those that want a model while it is being loaded wait for it; those that want another do not."""
    shelf = Shelf(limit=2)
    shelf.use("warm")
    shelf.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(shelf.use, "cold") for _ in range(3)]
        eventually(lambda: shelf.loads == ["warm", "cold"])
        pool.submit(shelf.use, "warm").result(10)
        assert not any(job.done() for job in jobs)
        shelf.gate.set()
        for job in jobs:
            job.result(10)
    assert shelf.loads == ["warm", "cold"]


def test_a_model_in_use_keeps_its_place() -> None:
    """A job whose model finds no place waits until one is free: memory holds no more than the limit says."""
    shelf = Shelf(limit=1)
    with ThreadPoolExecutor(1) as pool:
        with shelf.models.use("a"):
            waiting = pool.submit(shelf.use, "b")
            eventually(lambda: shelf.models._changed._waiters)
            assert (shelf.loads, shelf.closed) == (["a"], [])
        waiting.result(10)
    assert (shelf.loads, shelf.closed) == (["a", "b"], ["a"])


@given(st.integers(1, 3), st.lists(st.sampled_from("abcdef"), max_size=40))
def test_never_more_than_the_limit_and_as_few_loads_as_lru_has(limit: int, jobs: list[str]) -> None:
    """Any sequence of jobs, beside a list that is kept in order of use."""
    shelf, order, misses = Shelf(limit), [], 0
    for model in jobs:
        shelf.use(model)
        misses += model not in order
        order = [*(one for one in order if one != model), model][-limit:]
    assert len(shelf.loads) == misses
    assert shelf.most <= limit


def test_many_threads_never_hold_more_than_the_limit() -> None:
    """Eight threads, six models, two places: every job gets its model, and no two threads a copy each."""
    shelf = Shelf(limit=2)
    with ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(shelf.use, "abcdef"[n * 7 % 6]) for n in range(300)]:
            job.result(20)
    assert shelf.most <= 2
    assert shelf.loaded <= 2
