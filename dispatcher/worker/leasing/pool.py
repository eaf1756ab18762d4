"""Celery's prefork pool, with three differences: it forgets a job that it cannot pickle, and no other; and a process that
dies while it reads a job ends that job.
"""

from __future__ import annotations

import fcntl
import sys
import termios
from functools import cache
from typing import Any

from billiard.pool import EX_RECYCLE, RUN
from celery.platforms import EX_OK


class LeasePoolMixin:
    """On top of ``celery.concurrency.asynpool.AsynPool``."""

    def apply_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As billiard's, which remembers a job before it pickles it: a job that cannot be pickled is forgotten again,
        or the pool would wait for it when it ends.
        """
        before = next(reversed(self._cache), None)
        try:
            return super().apply_async(*args, **kwargs)  # type: ignore[misc]
        except Exception:
            last = next(reversed(self._cache), None)
            if last != before:
                self._cache.pop(last, None)
            raise

    def flush(self: Any) -> None:
        """A connection was lost: finish the jobs that are half written to a process, for the event loop that wrote them
        ends. Celery's forgets all jobs that no process has accepted, since it expects them from the broker again. Here
        none comes again; and if its process is gone meanwhile, nobody would hear of the job.
        """
        for job in list(self._cache.values()):
            writer = job._writer() if getattr(job, "_writer", None) is not None else None
            if writer is not None:
                self._flush_writer(job._write_to or job._scheduled_for, writer)
                writer.close()

    def on_partial_read(self: Any, job: Any, process: Any) -> None:
        """A process is gone that was written a job to, and has not accepted it. Celery gives the job to the next
        process, and so on for ever if reading the job is what ends them: here a process that died while it read the
        job ends the job, as if the job had run there.
        """
        died = (
            not job._accepted
            and job._terminated is None
            and self._state == RUN
            and process.exitcode not in (EX_OK, EX_RECYCLE)
            and not getattr(process, "_controlled_termination", False)
            and _has_begun_to_read(process, job)
        )
        if died:
            job._accepted = True
        super().on_partial_read(job, process)  # type: ignore[misc]
        if died:
            self.mark_as_worker_lost(job, process.exitcode)


def _has_begun_to_read(process: Any, job: Any) -> bool:
    """True if less of the job is left in the pipe to the process than was written: this process holds the pipe's other
    end, too. A process that was just ending has left the job whole.
    """
    header, _, body_size = job._payload
    unread = bytearray(4)
    fcntl.ioctl(process.inq._reader.fileno(), termios.FIONREAD, unread)
    return bool(int.from_bytes(unread, sys.byteorder) < len(header) + body_size)


@cache
def lease_pool(base: Any) -> Any:
    """The prefork pool of a worker whose own is ``base``."""
    pool = type("LeasePool", (LeasePoolMixin, base.Pool), {"__module__": __name__})
    return type(base.__name__, (base,), {"__module__": __name__, "Pool": pool})
