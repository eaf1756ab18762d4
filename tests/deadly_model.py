"""A model, as a Python callable, that dies of some inputs."""

from __future__ import annotations

import os
import signal
from typing import Any


def answer(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``die`` kills the process, ``kill`` the one that started it, ``exit`` ends it, ``print`` says something; all others are answered."""
    for body in bodies:
        if body["input"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif body["input"] == "kill":
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        elif body["input"] == "exit":
            os._exit(3)
        elif body["input"] == "print":
            print("not an answer", flush=True)
        elif body["input"] == "fail":
            raise ValueError("cannot read this")
    return [{"said": body["input"], "usage": {"prompt_tokens": 1, "total_tokens": 1}} for body in bodies]
