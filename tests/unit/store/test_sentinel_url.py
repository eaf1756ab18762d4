"""URLs of sentinels: Celery's form, with the name of the master at the end."""

from __future__ import annotations

import pytest
from celery import Celery

from dispatcher.errors import Invalid
from dispatcher.store.redis_client.connection import bound_waits, celery_url, connect, point_broker_at, point_results_at
from dispatcher.store.redis_client.redaction import redact
from dispatcher.store.redis_client.sentinel import read_sentinel_url

URL = "sentinel://:secret@a:26380;sentinel://b;sentinel://c/2?master_name=cell"


def test_all_parts_are_read() -> None:
    """Login from whichever part has one, database and name from the last."""
    found = read_sentinel_url(URL)
    assert found.sentinels == (("a", 26380), ("b", 26379), ("c", 26379))
    assert (found.master_name, found.database, found.password) == ("cell", 2, "secret")


def test_celery_gets_the_name_in_its_transport_options() -> None:
    """kombu refuses a URL that has it; what the app has set besides is kept."""
    app = Celery(set_as_current=False)
    app.conf.broker_transport_options = {"sep": ":"}
    point_broker_at(app.conf, URL)
    point_results_at(app.conf, URL)
    assert app.conf.broker_url == "sentinel://:secret@a:26380;sentinel://b;sentinel://c/2"
    assert app.conf.broker_transport_options == {"sep": ":", "master_name": "cell"}
    assert app.conf.result_backend_transport_options == {"master_name": "cell"}


def test_no_sentinel_is_waited_for_long() -> None:
    """In a failover the first one is often gone with the master: no wait of Celery's for it is longer than ours."""
    app = Celery(set_as_current=False)
    point_broker_at(app.conf, URL)
    point_results_at(app.conf, URL)
    bound_waits(app.conf)
    for options in (app.conf.broker_transport_options, app.conf.result_backend_transport_options):
        assert options["sentinel_kwargs"]["socket_timeout"] <= 1.0
    assert app.conf.broker_transport_options["socket_timeout"] == 5.0


def test_waits_that_the_app_has_set_are_kept() -> None:
    """Ours stand in for none only."""
    app = Celery(set_as_current=False)
    app.conf.update(broker_transport_options={"socket_timeout": 60}, redis_socket_timeout=7.0)
    bound_waits(app.conf)
    assert app.conf.broker_transport_options["socket_timeout"] == 60
    assert app.conf.redis_socket_timeout == 7.0


def test_a_client_needs_the_name_of_the_master() -> None:
    """From the URL or from the app's transport options; the refusal says where it may stand."""
    with pytest.raises(Invalid, match="master_name"):
        connect("sentinel://a;sentinel://b")
    connect("sentinel://a;sentinel://b", transport={"master_name": "cell"}).close()


@pytest.mark.parametrize("url", ["sentinel://a;redis://b", "sentinel://", "sentinel://a/x?master_name=m"])
def test_what_is_no_url_of_sentinels_is_refused(url: str) -> None:
    """In a sentence, before anything connects."""
    with pytest.raises(Invalid, match="sentinel"):
        celery_url(url)


def test_no_part_shows_its_password() -> None:
    """Logs and messages get the URL redacted."""
    assert "secret" not in redact("sentinel://b;" + URL)
