"""How Flower is started, and what events say in the log."""

from __future__ import annotations

import dataclasses
import logging
import typing

import pytest

from dispatcher.errors import Invalid
from dispatcher.events import Event, WorkerReaped
from dispatcher.observe.flower import command, environment, is_loopback
from dispatcher.observe.log_lines import log_line

URL = "unix:///run/redis.sock?db=0"


def test_flower_binds_to_loopback() -> None:
    """Without a word about the address only this machine reaches Flower."""
    assert "--address=127.0.0.1" in command(URL, 5555)


@pytest.mark.parametrize("address", ["0.0.0.0", "", "::", "192.168.1.5", "flower.example"])
def test_flower_refuses_other_addresses_without_a_login(address: str) -> None:
    """Beyond loopback somebody must be asked for a password."""
    with pytest.raises(Invalid, match="open to everybody"):
        command(URL, 5555, address=address)
    assert f"--address={address}" in command(URL, 5555, address=address, basic_auth=["me:pass"])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_addresses(address: str) -> None:
    """All of these stay on this machine."""
    assert is_loopback(address)


def test_no_secret_is_in_the_command() -> None:
    """What `ps` shows holds neither the broker's password nor a login; the environment does."""
    url = "redis://:sesame@redis.example:6379/0"
    assert not [part for part in command(url, 5555, basic_auth=["me:pass"]) if "sesame" in part or "me:pass" in part]
    assert environment(url, ["me:pass"])["FLOWER_BASIC_AUTH"] == "me:pass"
    assert environment(URL)["CELERY_BROKER_URL"] == "redis+socket:///run/redis.sock?virtual_host=0"


@pytest.mark.parametrize("kind", typing.get_args(Event), ids=lambda kind: kind.__name__)
def test_every_event_has_its_line(kind: type) -> None:
    """Each event becomes one line that is not empty and spans one line."""
    values = {"int": 2, "str": "some", "float": 1.5}
    event = kind(**{one.name: values.get(str(one.type), ("one",)) for one in dataclasses.fields(kind)})
    level, line = log_line(event)

    assert level in (logging.INFO, logging.WARNING, logging.ERROR)
    assert line
    assert "\n" not in line


def test_a_goodbye_is_no_warning() -> None:
    """A worker that leaves as it should worries nobody; one that died does."""
    assert log_line(WorkerReaped("w", "e", "goodbye", 0, 0))[0] == logging.INFO
    assert log_line(WorkerReaped("w", "e", "silent", 3, 0))[0] == logging.WARNING
