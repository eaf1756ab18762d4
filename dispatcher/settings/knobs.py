"""Every knob, in one frozen object: unit, default and meaning of each, and the relations between them.

Precedence: option, environment (``DISPATCHER_*``), TOML file, Celery app, default (``settings/reading.py`` reads them).
``docs/settings.md`` is generated from :class:`Settings` (``make docs``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Final

from dispatcher.core.choosing.order.ordering import ORDERS
from dispatcher.core.choosing.place.wishes import read_distances
from dispatcher.core.choosing.strategies import STRATEGIES
from dispatcher.core.facts.header import DEFAULT_MODEL
from dispatcher.errors import Invalid

ENV_PREFIX: Final = "DISPATCHER_"
STICKY: Final = ("off", "prefer", "require")
ON_CUT_OFF: Final = ("finish", "stop")


def knob(default: Any, unit: str, doc: str) -> Any:
    """A dataclass field that knows its unit and meaning. ``default`` may be any immutable value."""
    return field(default=default, metadata={"unit": unit, "doc": doc})


def env_name(field_name: str) -> str:
    """The environment variable of a knob."""
    return ENV_PREFIX + field_name.upper()


def toml_place(field_name: str) -> tuple[str, str]:
    """Table and key of a knob in a TOML file: ``autoscaler_x`` is ``[autoscaler] x``, all else ``[dispatcher]``."""
    if field_name.startswith("autoscaler_"):
        return "autoscaler", field_name.removeprefix("autoscaler_")
    return "dispatcher", field_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set. Spans end in their unit; ``problems()`` lists every mistake at once."""

    redis_url: str = knob("", "URL", "Redis or Valkey that carries the jobs: redis://, rediss://, redis+socket:// or unix://; or "
                          "sentinels, sentinel://a:26379;sentinel://b:26379/0?master_name=name. "
                          "Empty: the Celery app's broker, else the local cluster's.")
    result_backend: str = knob("", "URL", "Celery result backend of the ready-made app. Empty: the same Redis.")
    cell: str = knob("dispatch", "name", "Prefix of every key of this dispatcher; two cells may share one Redis.")
    ingress_queues: tuple[str, ...] = knob(("dispatch",), "names", "Queues to admit from, besides those that workers name.")
    strategy: str = knob("earliest_completion", "name", "How a worker is chosen: earliest_completion, least_work, least_connections, "
                         "weighted_least_connections, power_of_two, random, round_robin or weighted_round_robin.")
    model_strategies: tuple[str, ...] = knob((), "model=strategy", "Strategies of single models, by name or name@version.")
    order: str = knob("shortest", "name", "Which jobs of a tenant are next: shortest (by waiting time over cost, so that short jobs "
                      "go first and none starves), or oldest (first come).")
    priority_ageing_s: float = knob(120.0, "s", "A job that has waited so long is served like one of the next higher priority, and so "
                                    "on. 0: never.")
    model_load_s: tuple[str, ...] = knob((), "model=seconds", "How long models take to load, by name or name@version, until that "
                                         "was measured.")
    tenant_weights: tuple[str, ...] = knob((), "tenant=weight", "Shares of tenants that compete; 1 for those not named.")
    tenant_caps: tuple[str, ...] = knob((), "tenant=s", "Most work of a tenant, in seconds of cost, that workers may hold at once.")
    model_caps: tuple[str, ...] = knob((), "model=s", "The same of a model, by name or name@version.")
    hold_ratio: float = knob(1.5, "times", "A job waits for a full worker where it would be done more than this many times sooner "
                             "than on any with room. 0: never.")
    hold_max_s: float = knob(30.0, "s", "A job that was admitted longer ago is not held for a faster worker, or for that of its session.")
    sticky_wait_s: float = knob(2.0, "s", "A job leaves the worker of its session or prefix where another would be done with it so much "
                                "sooner. Four times what a job takes, on average, keeps nearly all there.")
    sticky: str = knob("prefer", "name", "Do jobs of a session, or with the same prefix, go to the worker that had the jobs before them: "
                       "off, prefer (while it can), or require (they wait for it).")
    region_rtt_ms: tuple[str, ...] = knob((), "a:b=ms", "Round trip between two regions, such as eu:us=90: what it costs a job to run on a "
                                          "worker whose label `region` is not the one it prefers.")
    prefer_cost_s: float = knob(1.0, "s", "How much longer a job would rather take than have none of what it prefers (region aside, where "
                                "its round trip is set).")
    models: tuple[str, ...] = knob((), "names", "Models that producers may ask for before any worker serves them. A model that "
                                   "is neither here nor was ever served by a worker is unknown, and its jobs are dead letters.")
    model_routes: tuple[str, ...] = knob((), "task=model", "Model of the jobs that name none, by task name.")
    default_cost_s: float = knob(1.0, "s", "Expected work of a job that declares no cost, on a worker of weight 1, until it is learned.")
    learn_costs: bool = knob(True, "yes/no", "Learn what jobs cost that declare nothing, by task and model, from those that were done.")
    measure_speed: bool = knob(True, "yes/no", "Measure how fast each worker does the jobs of each model. Its weight is where that begins.")
    speed_prior_jobs: float = knob(5.0, "jobs", "A worker's weight counts as so many measured jobs when its speed is estimated.")
    batch_size: int = knob(1000, "jobs", "Most jobs that one step admits, and assigns (1 to 1000).")
    message_bytes_max: int = knob(16 * 1024 * 1024, "bytes", "A larger message is a dead letter.")
    lease_ttl_s: float = knob(5.0, "s", "A worker silent for this long is dead; its jobs go back in line.")
    heartbeat_s: float = knob(1.0, "s", "How often a worker beats.")
    on_cut_off: str = knob("finish", "name", "What a worker does that Redis has not answered for almost lease_ttl_s: "
                           "finish what it runs (the others may be given it too, so it may run twice at once), or stop "
                           "(kill it and end, so that it never does). It cannot tell a cut of its own from an outage of "
                           "Redis: stop ends it in both.")
    leader_ttl_s: float = knob(2.0, "s", "A leading dispatcher silent for this long is replaced by a standby.")
    idle_wait_s: float = knob(0.2, "s", "Longest sleep of the dispatcher between two looks when nothing wakes it.")
    tick_interval_ms: float = knob(2.0, "ms", "Shortest time between two ticks under load; longer means larger batches.")
    window_extra: int = knob(0, "jobs", "Leases beyond its concurrency that a worker may hold, at least; more as its rate asks for.")
    window_hide_ms: float = knob(25.0, "ms", "Time to the next refill that a worker's window covers at its measured rate.")
    window_idle: float = knob(0.05, "share", "Share of a worker's slots that may stand idle until the next refill, rather than have "
                              "it hold a job more that another could begin.")
    attempts_max: int = knob(3, "runs", "A job that died so often with its worker, or with its process there, is buried, the last time "
                             "while it ran alone.")
    reject_backoff_s: float = knob(1.0, "s", "First wait of a job that its task rejected with requeue; doubles, at most a minute.")
    stall_s: float = knob(3.0, "s", "A worker that beats but has not looked at its queue for this long gets nothing.")
    decisions_kept: int = knob(10_000, "jobs", "Jobs in the decision log that `dispatcher explain` reads; about 100 bytes of Redis each "
                               "under load, 1,000 where they come one by one. 0: no log.")
    eject_failures: int = knob(5, "jobs", "A worker that fails so many jobs in a row, or twice as many of its last ones, while others do "
                               "jobs of the same kinds well, is ejected. 0: never.")
    eject_slow_ratio: float = knob(5.0, "times", "A worker that takes so many times longer than it did, while others do not, is ejected. "
                                   "0: never.")
    eject_base_s: float = knob(30.0, "s", "An ejected worker gets nothing for so long, times how often it was ejected, at most ten times; "
                               "0: nobody is ejected.")
    eject_max_share: float = knob(0.1, "share", "Most of the fleet that may be ejected at once; one worker always may, unless it is the "
                                  "only one.")
    panic_share: float = knob(0.5, "share", "While fewer of the workers than this are healthy, ejections are ignored: the cause is "
                              "elsewhere.")
    slow_start_s: float = knob(10.0, "s", "A worker that returns from an ejection is trusted with a tenth of its speed at first, and with "
                               "all of it after so long.")
    slow_start_new_s: float = knob(0.0, "s", "The same for every worker that starts.")
    probe_interval_s: float = knob(10.0, "s", "How often a worker that is ejected, or has had nothing to do, gets a small real job through "
                                   "its queue, the task `dispatcher.probe`. 0: never.")
    probe_timeout_s: float = knob(10.0, "s", "A probe that has not ended by then has failed.")
    recall_after_s: float = knob(1.0, "s", "A job that has waited in a worker's queue for so long may go back in line when another worker "
                                 "could begin it at once and be done in half the time. 0: never.")
    recalls_max: int = knob(3, "times", "Most times that a job goes back in line so; a worker that drains, hangs or is ejected gives back "
                            "what it has not begun in any case.")
    shutdown_grace_s: float = knob(0.0, "s", "What a worker still runs so long after a SIGTERM is cut short and goes back in line. Set "
                                   "it some seconds below what kills the worker otherwise. 0: it finishes, however long that takes.")
    revokes_kept_s: float = knob(86_400.0, "s", "How long a revoke holds, at least. A revoked job that waits for longer before a worker "
                                 "may have it, for its `eta` say, runs.")
    unroutable_after_s: float = knob(30.0, "s", "A lane whose jobs no worker may have is told of, as an event and in `dispatcher status`, "
                                     "once it has been so for this long.")
    drain_timeout_s: float = knob(3600.0, "s", "How long workers of `dispatcher autoscale` may finish what they run when it ends.")
    chunk_tokens_max: int = knob(4096, "tokens", "Padded token budget of one chunk of a batch (longest line × lines).")
    chunk_lines_max: int = knob(64, "lines", "Most lines in one chunk of a batch.")
    autoscaler_enabled: bool = knob(False, "yes/no", "`dispatcher up` starts and stops workers by seconds of work waiting; "
                                   "`dispatcher autoscale` always does.")
    autoscaler_target_wait_s: float = knob(10.0, "s", "Work waiting, in seconds for the whole fleet, that is acceptable.")
    autoscaler_stabilization_s: float = knob(60.0, "s", "Scale down only after this long of agreement.")
    autoscaler_interval_s: float = knob(1.0, "s", "How often the autoscaler looks.")
    autoscaler_workers_min: int = knob(1, "workers", "Fewest workers.")
    autoscaler_workers_max: int = knob(4, "workers", "Most workers.")
    flower_port: int = knob(5555, "port", "Port of Flower on the loopback interface.")
    flower_url: str = knob("", "URL", "A running Flower that the dispatcher tells of new lanes and workers; a login may stand "
                           "before the host. Empty: none.")

    def problems(self, name_of: Callable[[str], str] = env_name) -> Iterator[str]:
        """Every mistake, relations included, one sentence each; empty when all is well. ``name_of``: a field as the
        reader knows it.
        """
        for knob_field in fields(self):
            value = getattr(self, knob_field.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
                yield f"{name_of(knob_field.name)} is {value}: it must not be negative"
        for name in ("lease_ttl_s", "heartbeat_s", "leader_ttl_s", "default_cost_s", "autoscaler_interval_s", "speed_prior_jobs",
                     "autoscaler_target_wait_s", "chunk_tokens_max", "chunk_lines_max", "attempts_max", "revokes_kept_s",
                     "message_bytes_max"):
            if getattr(self, name) == 0:
                yield f"{name_of(name)} is 0: it must be more"
        for name in ("eject_max_share", "panic_share"):
            if getattr(self, name) > 1:
                yield f"{name_of(name)} is {getattr(self, name)}: it is a share, from 0 to 1"
        if 0 < self.eject_slow_ratio < 1.5:
            yield f"{name_of('eject_slow_ratio')} is {self.eject_slow_ratio}: it must be 0 for never, or at least 1.5, or chance ejects"
        if self.recalls_max > 99:
            yield f"{name_of('recalls_max')} is {self.recalls_max}: it must be at most 99, for jobs are counted back no further"
        if self.probe_interval_s and not self.probe_timeout_s:
            yield f"{name_of('probe_timeout_s')} is 0: it must be more, or every probe has failed before it is sent"
        for name, known in (("strategy", STRATEGIES), ("order", ORDERS), ("sticky", STICKY), ("on_cut_off", ON_CUT_OFF)):
            if getattr(self, name) not in known:
                yield f"{name_of(name)} is {getattr(self, name)!r}: there are {', '.join(known)}"
        if 0 < self.hold_ratio < 1:
            yield f"{name_of('hold_ratio')} is {self.hold_ratio}: it must be 0 for never, or at least 1"
        for pair in self.model_strategies:
            model, _, chosen = pair.partition("=")
            if not model or chosen not in STRATEGIES:
                yield f"{name_of('model_strategies')} holds {pair!r}: write model=strategy; there are {', '.join(STRATEGIES)}"
        for name, unit in (
            ("model_load_s", "model=seconds"), ("tenant_weights", "tenant=weight"), ("tenant_caps", "tenant=seconds"),
            ("model_caps", "model=seconds"),
        ):  # fmt: skip
            for pair in getattr(self, name):
                named, _, value = pair.partition("=")
                if not named or not _is_positive(value):
                    yield f"{name_of(name)} holds {pair!r}: write {unit}, a number above 0"
        if not self.cell or any(c in self.cell for c in " :*?[]"):
            yield f"{name_of('cell')} is {self.cell!r}: use letters, digits, '-', '_' or '.'"
        if not self.ingress_queues:
            yield f"{name_of('ingress_queues')} is empty: name at least one queue, such as 'dispatch'"
        try:
            read_distances(self.region_rtt_ms, prefer_cost_s=self.prefer_cost_s)
        except Invalid as exc:
            yield f"{name_of('region_rtt_ms')}: {exc}"
        for route in self.model_routes:
            if not all(route.partition("=")):
                yield f"{name_of('model_routes')} holds {route!r}: write task=model"
        if not 1 <= self.batch_size <= 1000:
            yield f"{name_of('batch_size')} is {self.batch_size}: it must be from 1 to 1000, or a script call blocks Redis too long"
        if 0 < self.decisions_kept < self.batch_size:
            least = f"{name_of('batch_size')}, which is {self.batch_size}"
            yield (f"{name_of('decisions_kept')} is {self.decisions_kept}: it must be 0, or at least {least}, or the "
                   "log cannot hold what one tick decides")
        if self.lease_ttl_s <= 2 * self.heartbeat_s:
            yield (f"{name_of('lease_ttl_s')} is {self.lease_ttl_s}: it must exceed two heartbeats "
                   f"({name_of('heartbeat_s')} is {self.heartbeat_s}), or one late beat loses a healthy worker its "
                   "jobs")
        if self.idle_wait_s >= self.leader_ttl_s / 2:
            most = f"{name_of('leader_ttl_s')}, which is {self.leader_ttl_s}"
            yield (f"{name_of('idle_wait_s')} is {self.idle_wait_s}: it must be under half of {most}, or a sleeping "
                   "leader loses its lead")
        if self.flower_url and not self.flower_url.startswith(("http://", "https://")):
            # Its value is not shown: a login may stand in it.
            yield f"{name_of('flower_url')} does not begin with http:// or https://: write http://host:port"
        if self.autoscaler_workers_min > self.autoscaler_workers_max:
            yield (f"{name_of('autoscaler_workers_min')} is {self.autoscaler_workers_min}: it must not exceed "
                   f"{name_of('autoscaler_workers_max')}, which is {self.autoscaler_workers_max}")

    def route(self, task: str) -> str:
        """The model of a job of ``task`` that names none; ``default`` where no route does."""
        return dict(route.split("=", 1) for route in self.model_routes).get(task, DEFAULT_MODEL)

    def checked(self) -> Settings:
        """This object, or :class:`Invalid` with all problems, one a line."""
        if problems := list(self.problems()):
            raise Invalid("\n".join(problems))
        return self


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
