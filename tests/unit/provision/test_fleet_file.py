"""The fleet file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatcher.errors import Invalid
from dispatcher.provision.base import WorkerKind
from dispatcher.provision.fleet_file import Fleet, FleetEntry, default_fleet, load_fleet


@pytest.fixture
def fleet(tmp_path: Path):
    def load(text: str) -> Fleet:
        (tmp_path / "fleet.toml").write_text(text)
        return load_fleet(tmp_path / "fleet.toml")

    return load


def test_everything_that_can_be_said(fleet) -> None:
    """All keys of a worker arrive; the other tables are left to the settings."""
    found = fleet(
        """
        [[worker]]
        name = "gpu"
        count = 2
        weight = 4
        concurrency = 3
        pool = "threads"
        models = ["minilm", "chat@2"]
        models_max = 1
        threads = 2
        labels = { region = "eu" }
        [autoscaler]
        enabled = true
        [dispatcher]
        lease_ttl_s = 9
        """
    )
    kind = WorkerKind("gpu", 4.0, 3, "threads", ("minilm", "chat@2"), {"region": "eu"}, models_max=1, threads=2)
    assert found == Fleet((FleetEntry(kind, 2),))
    assert found.workers() == [("gpu1", kind), ("gpu2", kind)]


def test_the_slots_of_a_whole_fleet_are_known(fleet) -> None:
    """As many as may run at once: what it starts with, or what the autoscaler may make of it; never none."""
    text = '[[worker]]\nname = "a"\ncount = 2\nconcurrency = 3\n[[worker]]\nname = "b"'
    assert fleet(text).slots_most() == 7
    assert fleet(text).slots_most(workers_max=2) == 7
    assert fleet(text).slots_most(workers_max=4) == 12
    assert fleet('[[worker]]\nname = "a"\ncount = 0').slots_most() == 1


def test_one_worker_keeps_its_name(fleet) -> None:
    """A number is added only where there are several."""
    assert [name for name, _ in fleet('[[worker]]\nname = "a"').workers()] == ["a"]


def test_no_workers_means_the_default_fleet(fleet) -> None:
    """A file with settings alone is a fleet file too."""
    assert fleet("[dispatcher]") == default_fleet()


def test_every_mistake_is_told_at_once_with_its_place(fleet, tmp_path: Path) -> None:
    """One run of the command is enough to correct the whole file."""
    with pytest.raises(Invalid) as refused:
        fleet(
            """
            typo = 1
            [[worker]]
            weight = 0
            concurency = 2
            [[worker]]
            name = "b c"
            count = -1
            pool = "gevent"
            models = "minilm"
            labels = { region = 1 }
            [[worker]]
            name = "solo"
            pool = "solo"
            concurrency = 4
            """
        )
    lines = str(refused.value).splitlines()
    path = tmp_path / "fleet.toml"
    assert [line.removeprefix(f"{path}: ").split(":")[0] for line in lines] == [
        "typo stands in no table; a settings file has [dispatcher] and [autoscaler], a fleet file has [[worker]] besides",
        *["[[worker]] 1"] * 3,
        *["[[worker]] 2 (b c)"] * 5,
        "[[worker]] 3 (solo)",
    ]
    assert "unknown key 'concurency'" in lines[1]
    assert [line.partition("): ")[2] for line in lines[4:9]][2:] == [
        'pool = "gevent": expected one of prefork, threads, solo',
        'models = "minilm": expected a list of names, such as ["hash-384"]',
        'labels = { region = 1 }: expected names and values without spaces, such as { region = "eu" }',
    ]


def test_two_workers_of_one_name_are_refused(fleet) -> None:
    """Also where a number makes them alike."""
    with pytest.raises(Invalid, match="two workers would be called 'a1'"):
        fleet('[[worker]]\nname = "a"\ncount = 2\n[[worker]]\nname = "a1"')


@pytest.mark.parametrize(("text", "said"), [("[worker]\nname='a'", "two brackets"), ("= 1", "is not TOML")])
def test_what_is_no_fleet_file(fleet, text: str, said: str) -> None:
    """Said in a sentence, whatever the file holds."""
    with pytest.raises(Invalid, match=said):
        fleet(text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Named, with the remedy."""
    with pytest.raises(Invalid, match=r"cannot read .*none\.toml.*name a TOML file"):
        load_fleet(tmp_path / "none.toml")
