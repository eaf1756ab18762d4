"""What is shown of a URL."""

from __future__ import annotations

import pytest

from dispatcher.errors import Invalid
from dispatcher.store.connection import celery_url, connect
from dispatcher.store.redaction import redact


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
