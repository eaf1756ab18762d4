"""The errors of this package, one tree, ordered by what the caller can do about them.

    DispatcherError
    ├── Invalid          what you passed is wrong: change it and call again
    │   ├── NoCluster        … because it names no Redis, and no local cluster runs
    │   └── FormatMismatch   … because this version and what lies in Redis, or another process, cannot read each other
    ├── Unavailable      something needed is not there (Redis, a binary): start it and call again
    ├── NotLeader        another dispatcher leads this cell: become a standby
    ├── EpochEnded       this worker life was declared dead: stop the process, start a new one
    └── JobDead          raised by ``AsyncResult.get()`` for a job that went to dead letters
        └── PoisonJob    … because its worker, or its process there, died each time: look at its input before you
                         send it again

The code that calls Redis or kombu turns their errors into one of these, ``from exc``. Every class passes all its
fields to ``super().__init__``, because Celery pickles or JSON-encodes errors and rebuilds them from ``args``.
"""

from __future__ import annotations


class DispatcherError(Exception):
    """The base of all errors that this package raises on purpose."""


class Invalid(DispatcherError):
    """An argument, option or setting is wrong; the message says what, where, and what to do."""


class NoCluster(Invalid):
    """Nothing names a Redis, and no local cluster runs in this user's state folder."""

    def __init__(
        self, message: str = "no cluster runs here: start one with `dispatcher up`, or set DISPATCHER_REDIS_URL"
    ) -> None:
        super().__init__(message)


class FormatMismatch(Invalid):
    """This process cannot read what lies in Redis, or shares no format with a live process.

    The message says with which process, and what to do.
    """


class Unavailable(DispatcherError):
    """Something needed is missing or does not answer; the message says what and how to get it."""


class NotLeader(DispatcherError):
    """A script was refused because another dispatcher leads this cell. Nothing was written."""


class EpochEnded(DispatcherError):
    """This worker life was declared dead. Its leases belong to other workers: stop, and write nothing."""


class JobDead(DispatcherError):
    """The job is a dead letter: it was refused, or it killed its workers too often.

    ``args`` is ``(reason, detail)``, so the error survives JSON and pickle in Celery's result backend.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class PoisonJob(JobDead):
    """The job's worker, or the job's process there, died each time it ran, the last time with no other job beside it;
    or each worker failed to hand the job to its pool.

    ``detail`` tells of each run: which worker, when, and how it ended.
    """
