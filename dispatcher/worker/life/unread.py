"""What becomes of a job that this worker has taken and cannot read: another worker may have it."""

from __future__ import annotations

import logging

import redis

from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.returns.ending import GiveBack, elsewhere
from dispatcher.store.frame import lane_of
from dispatcher.store.registration import Registration
from dispatcher.store.worker.worker_store import WorkerStore
from dispatcher.worker.life.held import Held

log = logging.getLogger(__name__)


def pass_on(lease: GiveBack, held: Held, store: WorkerStore, registration: Registration) -> GiveBack:
    """``lease``, with the lane in which the job waits for the others. Asks Redis which there are."""
    try:
        others = store.others()
    except redis.RedisError as exc:  # then it goes back in line, where whoever comes may have it
        log.warning("cannot see which other workers there are: %s", exc)
        others = {"": registration}
    return elsewhere(lease, parse_lane(lane_of(held.entry)), store.epoch, others)
