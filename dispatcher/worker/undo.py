"""Makes an app plain again in this process, whose worker was a dispatched one: its next worker here may be none."""

from __future__ import annotations

from typing import Any

from dispatcher.worker.leasing.consumer import make_plain
from dispatcher.worker.patches.publishing import send_as_ever


def undo_dispatched(app: Any) -> None:
    """Undo what a dispatched worker did to the tasks of ``app``, and to how they send. The app's configuration is not
    looked at. May be called again.
    """
    make_plain(app.tasks.values())
    send_as_ever(app)
