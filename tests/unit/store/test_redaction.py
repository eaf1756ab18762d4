"""What is shown of a URL."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dispatcher.cli.up import _say_ready
from dispatcher.errors import Invalid
from dispatcher.settings import Settings, load_settings
from dispatcher.store.redis_client.connection import celery_url, connect
from dispatcher.store.redis_client.redaction import redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:sesame@h/0", "redis://:***@h/0"),
        ("redis://me:sesame@h/0?password=sesame&db=1", "redis://me:***@h/0?password=***&db=1"),
        ("redis://me:ses/ame@h/0", "redis://me:***@h/0"),
        ("redis://me:s@ses#ame@h/0", "redis://me:***@h/0"),
        ("unix://me:sesame@/run/r.sock?db=0", "unix://me:***@/run/r.sock?db=0"),
        ("sentinel://:sesame@a:1;sentinel://:sesame@b:2/0?master_name=m", "sentinel://:***@a:1;sentinel://:***@b:2/0?master_name=m"),
        ("sentinel://:ses;ame@a:1;sentinel://b:2", "sentinel://:***@a:1;sentinel://b:2"),
        ("unix:///run/a@b.sock?db=0", "unix:///run/a@b.sock?db=0"),
        ("sesame", "sesame"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    """The rest stays readable."""
    assert redact(url) == shown


@pytest.mark.parametrize("password", ["ses/ame", "ses#ame", "ses?ame", "12/ame", "ses[ame"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "sentinel"])
@pytest.mark.parametrize("use", [connect, celery_url])
def test_a_password_that_tears_the_url_is_refused_unseen(use, scheme: str, password: str) -> None:
    """It would be taken for a port, and shown."""
    with pytest.raises(Invalid, match="in a password write") as refused:
        use(f"{scheme}://me:{password}@h:6379/0")
    assert "ses" not in str(refused.value)
    assert "***@h" in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_socket_may_have_any_name() -> None:
    """An @ in a path is no login."""
    assert celery_url("unix:///run/a@b.sock?db=3") == "redis+socket:///run/a@b.sock?virtual_host=3"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_cluster_that_is_ready_shows_no_password(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """What ``dispatcher up`` prints lands in journals."""
    cluster = SimpleNamespace(redis_url="redis://me:sesame@h/0", flower_url="", workers=())
    _say_ready(cast("Any", cluster), as_json=as_json)
    assert "redis://me:***@h/0" in capsys.readouterr().out


def test_a_flower_url_without_its_scheme_is_not_shown() -> None:
    """A login stands in it."""
    (problem,) = Settings(flower_url="me:sesame@flower:5555").problems()
    assert "sesame" not in problem
    assert "write http://host:port" in problem


@pytest.mark.parametrize("name", ["redis_url", "result_backend", "flower_url"])
def test_a_url_of_the_wrong_type_is_not_shown(tmp_path: Path, name: str) -> None:
    """Whoever has three sentinels may write a list of them, with their passwords."""
    file = tmp_path / "dispatcher.toml"
    file.write_text(f'[dispatcher]\n{name} = ["sentinel://:sesame@a:26379"]\n')
    with pytest.raises(Invalid, match=rf"\[dispatcher\] {name}: expected a string") as refused:
        load_settings({}, toml_path=file)
    assert "sesame" not in str(refused.value)


def test_a_limit_that_no_message_keeps_is_refused() -> None:
    """0 stands for "none" elsewhere; here every job would be a dead letter."""
    (problem,) = Settings(message_bytes_max=0).problems()
    assert "MESSAGE_BYTES_MAX is 0" in problem
