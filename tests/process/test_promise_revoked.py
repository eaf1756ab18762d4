"""A revoke holds though no worker was there to hear of it."""

from __future__ import annotations

import json

import pytest
from celery.exceptions import TaskRevokedError

from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, MakeCluster


def test_a_revoke_that_no_worker_heard_holds(make_cluster: MakeCluster) -> None:
    """By Celery's own call while only a dispatcher runs, by id and by stamp; by ``dispatcher revoke`` while nothing does. The state is
    REVOKED at once where an id was named; workers that come later run none of these jobs, and the others.
    """
    cluster = make_cluster()
    noop = cluster.producer.signature("noop")
    [unheard, by_id, runs] = cluster.send("noop", count=3)
    [later] = cluster.send("noop", countdown=1)
    stamped = noop.clone().stamp(customer="evil").apply_async().id

    told = json.loads(cluster.command("-A", "tests.process.app", "revoke", "--json", unheard))
    assert told == {"revoked": [unheard], "nodes": []}
    assert cluster.result(unheard).state == "REVOKED"

    cluster.start_dispatcher()
    control = cluster.producer.control
    eventually(lambda: control.inspect(timeout=0.5).active_queues(), PATIENCE_S)
    heard = control.revoke([by_id, later], reply=True, timeout=PATIENCE_S, limit=1)
    assert [name.split("@")[0] for answer in heard for name in answer] == ["dispatcher"]
    assert control.revoke_by_stamped_headers({"customer": ["evil"]}, reply=True, timeout=PATIENCE_S, limit=1)
    assert {cluster.result(job).state for job in (by_id, later)} == {"REVOKED"}

    cluster.start_worker("w1")
    cluster.all_succeed([runs])
    eventually(lambda: cluster.result(stamped).state == "REVOKED", PATIENCE_S)
    cluster.nothing_is_left()
    cluster.each_ran_once([runs])
    with pytest.raises(TaskRevokedError):
        cluster.result(by_id).get(timeout=PATIENCE_S)
