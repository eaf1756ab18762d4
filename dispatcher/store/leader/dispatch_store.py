"""What the leading dispatcher does with Redis. One round trip to look, one to act.

The client must answer with bytes (``connect(url, text=False)``): messages are read by the thousand and decoded by none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import IntEnum
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, cast

import msgspec
import redis

from dispatcher.core.admission.rules import Admitted
from dispatcher.core.facts.decisions import Assign
from dispatcher.core.health.liveness import JITTER_MS
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import NotLeader
from dispatcher.store.format_store import FormatStore
from dispatcher.store.formats import FORMATS, Formats, encode_formats
from dispatcher.store.frame import NEW, Entry, parse_entry
from dispatcher.store.keys import Keys
from dispatcher.store.leader.admit_batch import AdmitBatch, IngressList, admit_records
from dispatcher.store.leader.decision_store import DECISIONS_LIFETIME_MS
from dispatcher.store.leader.leader_view import EXPIRES_MS
from dispatcher.store.leader.learned_store import PolicyStore
from dispatcher.store.leader.look import Look, LookWish, as_look
from dispatcher.store.leader.rollout_store import RolloutStore
from dispatcher.store.leader.suspect_store import SuspectStore
from dispatcher.store.leader.unsettled_store import UnsettledStore
from dispatcher.store.registration import Registration, Registrations
from dispatcher.store.scripts.stream import Call, ScriptRunner
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS, DEAD_TTL_MS, LATE_REASON, giveback

READ_BYTES_MAX = 8 * 1024 * 1024
"""One look reads about this much of the ingress at most."""

PROBE_COST_MS = 1

TURN_TTL_MS = 24 * 3600 * 1000
"""An earlier turn runs again soon after its worker died, or when there is a worker again at all."""

SHOW_DEAD_MS = 60_000
"""How long `status` shows a worker that is gone."""


class Lead(IntEnum):
    """How a dispatcher stands after it asked for the lead."""

    NONE = 0
    """Another leads, or it resigned."""
    KEPT = 1
    GAINED = 2
    """It did not lead a moment ago, whatever it thinks: others may have led in between."""


class Applied(msgspec.Struct, frozen=True):
    """What came of a batch of decisions: per admit batch and per assignment, how many jobs were moved.

    ``first_jobs``: per admit batch, the number that its first job got; the others' follow on it. ``frames``: per lane that was assigned
    from, the frames of the jobs, end to end, in the order they were given. ``late``: how many of the promoted went to dead letters.
    ``aside``: keys of lanes that were of another type, and that of ``scheduled`` where members were no jobs: what was there is
    under that name and ``:aside`` now.
    """

    admitted: list[int] = msgspec.field(default_factory=list)
    assigned: list[int] = msgspec.field(default_factory=list)
    promoted: int = 0
    first_jobs: list[int] = msgspec.field(default_factory=list)
    frames: list[bytes] = msgspec.field(default_factory=list)
    late: int = 0
    aside: list[bytes] = msgspec.field(default_factory=list)


class DispatchStore:
    """The transitions of a dispatcher. All that change jobs carry ``token``, and raise :class:`NotLeader` once another leads."""

    def __init__(self, client: redis.Redis, keys: Keys, token: str) -> None:
        self.keys = keys
        self.token = token
        self._client = client
        self._keys_of_epoch: dict[str, tuple[str, str, str, str]] = {}
        self._cell = keys.lane_prefix.removesuffix("lane:")
        self._scripts = ScriptRunner(client)
        self._dead = (keys.dead_letters, keys.dead_reasons, keys.unsettled)

    def unsettled(self) -> UnsettledStore:
        """The dead letters that this dispatcher settles while it leads."""
        return UnsettledStore(self._client, self.keys, self.token)

    def policy(self) -> PolicyStore:
        """What this leader learns from, and where it keeps what it has learned."""
        return PolicyStore(self._client, self.keys, self.token)

    def suspects(self) -> SuspectStore:
        """Where suspects run alone, as this leader sees to it."""
        return SuspectStore(self._client, self.keys, self.token)

    def formats(self) -> FormatStore:
        """Which formats lie in the cell, as this leader reads and raises them."""
        return FormatStore(self._client, self.keys, self.token)

    def rollouts(self) -> RolloutStore:
        """The aliases of the cell, as this leader reads and changes them."""
        return RolloutStore(self._client, self.keys, self.token)

    def log_decisions(self, ticks: Sequence[tuple[int, bytes]], *, kept: int) -> None:
        """Add (how many jobs, JSON of a :class:`Tick`) to the decision log; what is older than the last ``kept`` jobs goes."""
        args: list[Any] = [self.token, kept, DECISIONS_LIFETIME_MS, *(part for tick in ticks for part in tick)]
        self._led(self._run("log_decisions", [self.keys.leader, self.keys.decisions], args))

    def drop_idle_connections(self) -> None:
        """Redis was away: each connection that was idle meanwhile would raise once more, as if there were another outage."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    # -- leading

    def elect(self, *, ttl_ms: int, info: dict[str, Any], resign: bool = False, formats: Formats = FORMATS) -> Lead:
        """Become or stay leader. ``formats``: those that this dispatcher reads."""
        args = [self.token, ttl_ms, msgspec.json.encode(info), "1" if resign else "0", encode_formats(formats)]
        return Lead(self._run("elect", [self.keys.leader, self.keys.leader_info, self.keys.leader_view], args))

    # -- looking

    def look(self, ingress: Sequence[IngressList], *, limit: int, message_bytes_max: int, by_lane: bool = False) -> Look:
        """Messages at the head of the ingress lists, and a snapshot; one round trip, nothing written. ``by_lane``: with ``leased_ms``."""
        calls = self._look_calls(ingress, limit, message_bytes_max, by_lane=by_lane)
        try:
            replies = self._scripts.ask(calls)
        except redis.exceptions.NoScriptError:
            replies = self._scripts.ask(calls)  # the scripts are loaded now, and nothing was written
        return as_look(ingress, *replies)

    def wish(self, ingress: Sequence[IngressList], *, limit: int, message_bytes_max: int, by_lane: bool = False) -> LookWish:
        """A look that Redis takes later, when whoever sends the wish is woken up."""
        calls = self._look_calls(ingress, limit, message_bytes_max, by_lane=by_lane)
        return LookWish(tuple(ingress), b"".join(map(self._scripts.pack, calls)), len(calls))

    def _look_calls(self, ingress: Sequence[IngressList], limit: int, message_bytes_max: int, *, by_lane: bool) -> list[Call]:
        keys = self.keys
        names = [keys.leader, keys.lanes, keys.workers, keys.paused, keys.scheduled]
        calls: list[Call] = [("snapshot", names, [self.token, self._cell, ALIVE_TTL_MS, "1" if by_lane else ""])]
        if ingress:
            calls.append(("read_ingress", [one.key for one in ingress], [limit, message_bytes_max, READ_BYTES_MAX]))
        return calls

    def registrations(self, epochs: Sequence[str]) -> dict[str, Registration]:
        """What those workers said of themselves; without those that are gone, or said what cannot be read."""
        return Registrations(self._client, self.keys).learn(epochs).new

    def ingress_queues(self) -> set[str]:
        """Queues that workers have named."""
        return {name.decode(errors="replace") for name in cast("set[bytes]", self._client.smembers(self.keys.ingress_queues))}

    def models(self) -> set[str]:
        """Models that any worker has ever served."""
        return {name.decode(errors="replace") for name in cast("set[bytes]", self._client.smembers(self.keys.models))}

    def tell(self, encoded: bytes) -> None:
        """Say what this leader sees, for `status` and its like: the JSON of a :class:`LeaderView`."""
        self._led(self._run("tell", [self.keys.leader, self.keys.leader_view], [self.token, encoded, EXPIRES_MS]))

    # -- acting

    def apply(
        self,
        batches: Iterable[AdmitBatch],
        assignments: Callable[[], Sequence[Assign]],
        *,
        promote: int,
        when_sent: Callable[[], object] | None = None,
    ) -> Applied:
        """Admit, promote what is due, assign, in that order. ``promote``: how many scheduled jobs at most. ``when_sent`` is called when
        all is under way, before an answer is read.

        ``batches`` is read and ``assignments`` called while Redis already works on what was sent before: deciding about messages and
        moving them take about as long, and each would wait for the other.
        """
        keys = self.keys
        with self._scripts.stream() as stream:
            sent, admits = 0, []
            for batch in batches:
                if turns := [one for one in batch.decisions if isinstance(one, Admitted) and one.turn]:
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
        admitted = [replies[at][0] for at in admits]
        promoted, *sorted_out = replies[sent] if promote else (0, 0, 0)
        assigned = replies[-1] if decided else []
        if any(reply == -1 for reply in (*admitted, promoted, *assigned[:1])):
            raise NotLeader("another dispatcher leads this cell")
        first_jobs = [replies[at][1] if replies[at][0] else 0 for at in admits]
        late, foreign = sorted_out
        aside = [key for at in admits for key in replies[at][2:]] + [keys.scheduled.encode()] * bool(foreign)
        return Applied(admitted, assigned[: len(decided)], promoted, first_jobs, assigned[len(decided) :], late, aside)

    def bury_late(self, lanes: Sequence[tuple[str, int]], *, limit: int) -> list[tuple[int, int]]:
        """Bury jobs whose deadline has passed. ``lanes``: name, and how many jobs at its head to pass over; looks at ``limit`` in all.

        Per lane how many were looked at, and how many of them were late.
        """
        keys = self.keys
        names = [keys.leader, keys.lanes, *self._dead, *(keys.lane(lane) for lane, _ in lanes)]
        found = self._run("bury_late", names, [self.token, LATE_REASON, limit, *chain.from_iterable(lanes)])
        self._led(found[0] if found else 0)
        return list(zip(found[::2], found[1::2], strict=True))

    def _admit_call(self, batch: AdmitBatch) -> Call:
        keys = self.keys
        records, lanes, verdicts = admit_records(batch)
        fixed = [
            keys.leader, batch.source.key, keys.sequence, keys.messages, keys.lanes, keys.scheduled, keys.dead_letters,
            keys.dead_reasons, keys.unsettled,
        ]  # fmt: skip
        return "admit", [*fixed, *map(keys.lane, lanes)], [self.token, records, len(lanes), *lanes, *verdicts]

    def _note_turns_call(self, turns: Sequence[Admitted]) -> Call:
        names = [self.keys.leader, *(self.keys.turn(one.task_id) for one in turns)]
        return "note_turns", names, [self.token, TURN_TTL_MS, *(one.turn for one in turns)]

    def _assign_call(self, assignments: Sequence[Assign]) -> Call:
        keys = self.keys
        names = [keys.leader, keys.lanes, keys.sequence]
        args: list[Any] = [self.token, sum(one.count for one in assignments)]
        for lane, group in groupby(assignments, key=attrgetter("lane")):
            workers = list(group)
            names.append(keys.lane(lane))
            args += (lane, len(workers))
            for one in workers:
                names += self._epoch_keys(one.epoch)
                args += (one.epoch, one.count, one.window)
        return "assign", names, args

    def _epoch_keys(self, epoch: str) -> tuple[str, str, str, str]:
        found = self._keys_of_epoch.get(epoch)
        if found is None:
            keys = self.keys
            found = (keys.alive(epoch), keys.worker(epoch), keys.leases(epoch), keys.worker_queue(epoch))
            self._keys_of_epoch[epoch] = found
        return found

    def assign_probe(self, epoch: str, *, lane: str, window: int, message: bytes) -> bool:
        """Lease a probe to a worker that holds fewer than ``window`` leases; False: not now."""
        keys = self.keys
        names = [keys.leader, *self._epoch_keys(epoch), keys.sequence, keys.messages, keys.alone]
        facts = f"{PROBE_COST_MS:09d}{NEW}"
        return bool(self._led(self._run("assign_probe", names, [self.token, epoch, window, facts, lane, message])))

    # -- ending worker lives

    def end_silent(self, epoch: str, *, beat_age_ms: int) -> bool:
        """Declare a silent worker dead: from here on it can take, ack and be assigned nothing. False: it beat after the look that found
        its last beat to be so old.
        """
        keys = self.keys
        reply = self._run(
            "end_epoch",
            [keys.leader, keys.alive(epoch), keys.dead(epoch), keys.wake],
            [self.token, "silent", DEAD_TTL_MS, ALIVE_TTL_MS - beat_age_ms + JITTER_MS],
        )
        return bool(self._led(reply))

    def leases(self, epoch: str) -> list[tuple[str, Entry, bool]]:
        """(lease id, entry, was taken) of all leases of a worker that can be read, newest job first."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hgetall(self.keys.leases(epoch))
            pipe.hkeys(self.keys.taken(epoch))
            leases, taken = pipe.execute()
        started = set(taken)
        found: list[tuple[str, Entry, bool]] = []
        for id_, entry in leases.items():
            with suppress(ValueError):
                found.append((id_.decode(), parse_entry(entry.decode()), id_ in started))
        return sorted(found, key=lambda lease: lease[1].job, reverse=True)

    def giveback(self, epoch: str, leases: Sequence[GiveBack]) -> int:
        """End leases of a worker, at most ``GIVEBACK_MAX``. How many were ended."""
        return self._led(giveback(self._run, self.keys, epoch, leases, guard=self.keys.leader, guard_value=self.token))

    def forget_worker(self, epoch: str) -> bool:
        """Remove what is left of a worker whose leases are all ended."""
        keys = self.keys
        names = [
            keys.leader, keys.workers, keys.worker(epoch), keys.leases(epoch), keys.taken(epoch), keys.worker_queue(epoch),
            keys.alive(epoch), keys.gone, keys.totals,
        ]  # fmt: skip
        self._keys_of_epoch.pop(epoch, None)
        return bool(self._led(self._run("forget_worker", names, [self.token, epoch, SHOW_DEAD_MS])))

    # -- scripts

    def _led(self, reply: int) -> int:
        if reply == -1:
            raise NotLeader("another dispatcher leads this cell")
        return int(reply)

    def _run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        return self._scripts.ask([(name, keys, args)])[0]
