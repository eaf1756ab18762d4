"""A model, as a Python callable, that dies of some inputs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import Any

ODD: dict[str, Any] = {
    "none": None, "number": 0.5, "half": {"said": "cut \ud83d"}, "nan": {"said": [0.5, float("nan")]}, "bytes": {"said": b"raw"},
    "group": {"said": os.getpgrp()},
}  # fmt: skip
"""Answers that are no response body, and the group of this process."""


def answer(bodies: list[dict[str, Any]]) -> list[Any]:
    """``die`` kills the process, ``kill`` the one that started it, ``exit`` and ``sys.exit`` end it,
    ``cancel`` and ``fail`` raise, ``slow`` never ends, ``thread`` leaves a thread behind, ``print`` says something; all are answered that
    can be, some as no line of a result may be.
    """
    for body in bodies:
        if body["input"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif body["input"] == "kill":
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        elif body["input"] == "exit":
            os._exit(3)
        elif body["input"] == "sys.exit":
            sys.exit(3)
        elif body["input"] == "cancel":
            raise asyncio.CancelledError
        elif body["input"] == "slow":
            threading.Event().wait()
        elif body["input"] == "thread":
            threading.Thread(target=threading.Event().wait).start()
        elif body["input"] == "print":
            print("not an answer", flush=True)
        elif body["input"] == "fail":
            raise ValueError("cannot read this")
    return [ODD.get(body["input"], {"said": body["input"], "usage": {"prompt_tokens": 1, "total_tokens": 1}}) for body in bodies]
