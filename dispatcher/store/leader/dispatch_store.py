"""What the leading dispatcher does with Redis: one round trip to look (``look_store.py``), one to act.

The client must answer with bytes (``connect(url, text=False)``): messages are moved by the thousand, and none is
decoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import IntEnum
from itertools import chain, groupby
from operator import attrgetter
from typing import Any

import msgspec
import redis

from dispatcher.core.admission.rules import Admitted
from dispatcher.core.facts.decisions import Assign
from dispatcher.core.health.liveness import JITTER_MS
from dispatcher.core.returns.ending import GiveBack
from dispatcher.store.format_store import FormatStore
from dispatcher.store.formats import FORMATS, Formats, encode_formats
from dispatcher.store.frame import NEW, Entry, parse_entry
from dispatcher.store.giveback import LATE_REASON, give_back
from dispatcher.store.key_catalogue import typed_keys
from dispatcher.store.keys import Keys
from dispatcher.store.leader.admit_batch import AdmitBatch, IngressList, admit_records
from dispatcher.store.leader.decision_store import DECISIONS_LIFETIME_MS
from dispatcher.store.leader.leader_view import EXPIRES_MS
from dispatcher.store.leader.learned_store import PolicyStore
from dispatcher.store.leader.look import LookWish
from dispatcher.store.leader.look_store import LookStore
from dispatcher.store.leader.rollout_store import RolloutStore
from dispatcher.store.leader.suspect_store import SuspectStore
from dispatcher.store.leader.unsettled_store import UnsettledStore
from dispatcher.store.scripts.call import Call, led, pack
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS, DEAD_TTL_MS

PROBE_COST_MS = 1

TURN_TTL_MS = 24 * 3600 * 1000
"""How long a turn is remembered. An earlier turn may run again soon after its worker died, or once there is any worker
again.
"""

SHOW_DEAD_MS = 60_000
"""How long `status` shows a worker that is gone."""


class Lead(IntEnum):
    """What came of asking for the lead."""

    NONE = 0
    """Another dispatcher leads, or this one resigned."""
    KEPT = 1
    GAINED = 2
    """This dispatcher leads from now on. It did not lead a moment ago, even if it thinks so: others may have led in
    between.
    """


class Applied(msgspec.Struct, frozen=True):
    """What came of a step's decisions."""

    admitted: list[int] = msgspec.field(default_factory=list)
    """Per admit batch, how many jobs were admitted."""
    assigned: list[int] = msgspec.field(default_factory=list)
    """Per assignment, how many jobs were assigned."""
    promoted: int = 0
    """Scheduled jobs that were due, and were moved."""
    first_jobs: list[int] = msgspec.field(default_factory=list)
    """Per admit batch, the number of its first job; the numbers of the others follow."""
    frames: list[bytes] = msgspec.field(default_factory=list)
    """Per lane that was assigned from, the frames of the assigned jobs, end to end, in the order they were given."""
    late: int = 0
    """How many of the promoted jobs went to dead letters."""
    aside: list[bytes] = msgspec.field(default_factory=list)
    """Keys of lanes that were of another type, and of ``scheduled`` if members were no jobs.

    What lay there lies under that name and ``:aside`` now.
    """


class DispatchStore(LookStore):
    """The transitions of a dispatcher. All that change jobs carry ``token``.

    They raise :class:`~dispatcher.errors.NotLeader` once another dispatcher leads.
    """

    def __init__(self, client: redis.Redis, keys: Keys, token: str) -> None:
        super().__init__(client, keys)
        self.token = token
        self._keys_of_epoch: dict[str, tuple[str, str, str, str]] = {}
        self._dead = (keys.dead_letters, keys.dead_reasons, keys.unsettled)

    def unsettled(self) -> UnsettledStore:
        """The dead letters that this dispatcher settles while it leads."""
        return UnsettledStore(self._client, self.keys, self.token)

    def policy(self) -> PolicyStore:
        """What this leader learns from, and where it keeps what it has learned."""
        return PolicyStore(self._client, self.keys, self.token)

    def suspects(self) -> SuspectStore:
        """The workers where suspects run alone."""
        return SuspectStore(self._client, self.keys, self.token)

    def formats(self) -> FormatStore:
        """Which formats lie in the cell, as this leader reads and raises them."""
        return FormatStore(self._client, self.keys, self.token)

    def rollouts(self) -> RolloutStore:
        """The aliases of the cell, as this leader reads and changes them."""
        return RolloutStore(self._client, self.keys, self.token)

    def log_decisions(self, ticks: Sequence[tuple[int, bytes]], *, kept: int) -> None:
        """Add ticks to the decision log, each as (how many jobs, JSON). Ticks older than the last ``kept`` jobs are
        dropped.
        """
        args: list[Any] = [self.token, kept, DECISIONS_LIFETIME_MS, *(part for tick in ticks for part in tick)]
        led(self._scripts.run("log_decisions", [self.keys.leader, self.keys.decisions], args))

    def drop_idle_connections(self) -> None:
        """Close idle connections. After an outage each of them would raise once more, as if there were another outage."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    # -- leading

    def elect(self, *, ttl_ms: int, info: dict[str, Any], resign: bool = False, formats: Formats = FORMATS) -> Lead:
        """Become or stay leader. ``formats``: those that this dispatcher reads."""
        args = [self.token, ttl_ms, msgspec.json.encode(info), "1" if resign else "0", encode_formats(formats)]
        return Lead(self._scripts.run("elect", [self.keys.leader, self.keys.leader_info, self.keys.leader_view], args))

    # -- keys of another type

    def free_keys(self) -> list[str]:
        """Move aside what lies under the cell's keys and is of another type. Returns the keys beside which something
        lies, now or since an earlier call. Needs no lead.
        """
        names, types = typed_keys(self.keys)
        return [key.decode(errors="backslashreplace") for key in self._scripts.run("free_keys", names, types)]

    # -- looking

    def wish(self, ingress: Sequence[IngressList], *, limit: int, message_bytes_max: int, by_lane: bool = False) -> LookWish:
        """A look that Redis takes later, when the sender of the wish is woken up."""
        calls = self._look_calls(ingress, limit, message_bytes_max, by_lane=by_lane)
        return LookWish(tuple(ingress), b"".join(map(pack, calls)), len(calls))

    def tell(self, encoded: bytes) -> None:
        """Publish the leader's view (JSON of a :class:`~dispatcher.store.leader.leader_view.LeaderView`) for `status`
        and others.
        """
        led(self._scripts.run("tell", [self.keys.leader, self.keys.leader_view], [self.token, encoded, EXPIRES_MS]))

    # -- acting

    def apply(
        self,
        batches: Iterable[AdmitBatch],
        assignments: Callable[[], Sequence[Assign]],
        *,
        promote: int,
        when_sent: Callable[[], object] | None = None,
    ) -> Applied:
        """Admit, promote scheduled jobs that are due (at most ``promote``), and assign, in that order.

        ``batches`` is read and ``assignments`` is called while Redis already works on what was sent before: deciding
        about messages takes about as long as moving them, and each would wait for the other. ``when_sent`` is called
        when all calls are under way, before a reply is read.
        """
        keys = self.keys
        with self._scripts.stream() as stream:
            sent, admits = 0, []
            for batch in batches:
                if turns := [job for job in batch.decisions if isinstance(job, Admitted) and job.turn]:
                    stream.send(self._note_turns_call(turns))
                    sent += 1
                stream.send(self._admit_call(batch))
                admits.append(sent)
                sent += 1
            if promote:
                names = [keys.leader, keys.scheduled, keys.lanes, *self._dead]
                stream.send(("promote_scheduled", names, [self.token, keys.lane_prefix, promote, LATE_REASON]))
            stream.flush()  # a single message would wait for what is decided about it
            if decided := assignments():
                stream.send(self._assign_call(decided))
            if when_sent is not None:
                stream.flush()
                when_sent()
            replies = stream.replies()
        for reply in replies:
            led(reply)
        admitted = [replies[at][0] for at in admits]
        promoted, *sorted_out = replies[sent] if promote else (0, 0, 0)
        assigned = replies[-1] if decided else []
        first_jobs = [replies[at][1] if replies[at][0] else 0 for at in admits]
        late, foreign = sorted_out
        aside = [key for at in admits for key in replies[at][2:]] + [keys.scheduled.encode()] * bool(foreign)
        return Applied(admitted, assigned[: len(decided)], promoted, first_jobs, assigned[len(decided) :], late, aside)

    def bury_late(self, lanes: Sequence[tuple[str, int]], *, limit: int) -> list[tuple[int, int]]:
        """Bury waiting jobs whose deadline has passed. ``lanes``: name, and how many jobs at its head to pass over.

        Looks at ``limit`` jobs in all. Returns per lane how many were looked at, and how many of them were late.
        """
        keys = self.keys
        names = [keys.leader, keys.lanes, *self._dead, *(keys.lane(lane) for lane, _ in lanes)]
        counts = led(self._scripts.run("bury_late", names, [self.token, LATE_REASON, limit, *chain.from_iterable(lanes)]))
        return list(zip(counts[::2], counts[1::2], strict=True))

    def _admit_call(self, batch: AdmitBatch) -> Call:
        keys = self.keys
        records, lanes, verdicts = admit_records(batch)
        fixed = [
            keys.leader, batch.source.key, keys.sequence, keys.messages, keys.lanes, keys.scheduled, keys.dead_letters,
            keys.dead_reasons, keys.unsettled,
        ]  # fmt: skip
        return "admit", [*fixed, *map(keys.lane, lanes)], [self.token, records, len(lanes), *lanes, *verdicts]

    def _note_turns_call(self, turns: Sequence[Admitted]) -> Call:
        names = [self.keys.leader, *(self.keys.turn(job.task_id) for job in turns)]
        return "note_turns", names, [self.token, TURN_TTL_MS, *(job.turn for job in turns)]

    def _assign_call(self, assignments: Sequence[Assign]) -> Call:
        keys = self.keys
        names = [keys.leader, keys.lanes, keys.sequence]
        args: list[Any] = [self.token, sum(assignment.count for assignment in assignments)]
        for lane, group in groupby(assignments, key=attrgetter("lane")):
            its_assignments = list(group)
            names.append(keys.lane(lane))
            args += (lane, len(its_assignments))
            for assignment in its_assignments:
                names += self._epoch_keys(assignment.epoch)
                args += (assignment.epoch, assignment.count, assignment.window)
        return "assign", names, args

    def _epoch_keys(self, epoch: str) -> tuple[str, str, str, str]:
        names = self._keys_of_epoch.get(epoch)
        if names is None:
            keys = self.keys
            names = (keys.alive(epoch), keys.worker(epoch), keys.leases(epoch), keys.worker_queue(epoch))
            self._keys_of_epoch[epoch] = names
        return names

    def assign_probe(self, epoch: str, *, lane: str, window: int, message: bytes) -> bool:
        """Lease a probe to a worker that has fewer than ``window`` leases. False: that cannot be done now."""
        keys = self.keys
        names = [keys.leader, *self._epoch_keys(epoch), keys.sequence, keys.messages, keys.alone]
        facts = f"{PROBE_COST_MS:09d}{NEW}"
        return bool(led(self._scripts.run("assign_probe", names, [self.token, epoch, window, facts, lane, message])))

    # -- ending worker lives

    def end_silent(self, epoch: str, *, beat_age_ms: int) -> bool:
        """Declare a silent worker dead: from now on it can take and ack nothing, and is assigned nothing.

        ``beat_age_ms``: the age of its last beat, as of a look. False: it has beaten since that look.
        """
        keys = self.keys
        reply = self._scripts.run(
            "end_epoch",
            [keys.leader, keys.alive(epoch), keys.dead(epoch), keys.wake],
            [self.token, "silent", DEAD_TTL_MS, ALIVE_TTL_MS - beat_age_ms + JITTER_MS],
        )
        return bool(led(reply))

    def leases(self, epoch: str) -> list[tuple[str, Entry, bool]]:
        """(lease id, entry, was it taken) of each lease of a worker that can be read, newest job first."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hgetall(self.keys.leases(epoch))
            pipe.hkeys(self.keys.taken(epoch))
            leases, taken = pipe.execute()
        started = set(taken)
        readable: list[tuple[str, Entry, bool]] = []
        for lease_id, entry in leases.items():
            with suppress(ValueError):
                readable.append((lease_id.decode(), parse_entry(entry.decode()), lease_id in started))
        return sorted(readable, key=lambda lease: lease[1].job, reverse=True)

    def giveback(self, epoch: str, leases: Sequence[GiveBack]) -> int:
        """End leases of a worker, at most :data:`~dispatcher.store.giveback.GIVEBACK_MAX`. Returns how many were ended."""
        return int(led(give_back(self._scripts.run, self.keys, epoch, leases, guard=self.keys.leader, guard_value=self.token)))

    def forget_worker(self, epoch: str) -> bool:
        """Remove what is left of a dead worker. False: it still has leases, or lives."""
        keys = self.keys
        names = [
            keys.leader, keys.workers, keys.worker(epoch), keys.leases(epoch), keys.taken(epoch), keys.worker_queue(epoch),
            keys.alive(epoch), keys.gone, keys.totals,
        ]  # fmt: skip
        self._keys_of_epoch.pop(epoch, None)
        return bool(led(self._scripts.run("forget_worker", names, [self.token, epoch, SHOW_DEAD_MS])))
