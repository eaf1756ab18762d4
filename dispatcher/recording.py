"""Recordings of ``dispatcher run --record``: with the same settings every plan, made again, must be the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from dispatcher.core.choosing.policy import Policy
from dispatcher.core.choosing.recorded import Recorded
from dispatcher.core.facts.decisions import Plan
from dispatcher.errors import Invalid
from dispatcher.settings import Settings, load_settings, settings_environ
from dispatcher.settings.knobs import ENV_PREFIX
from dispatcher.settings.rules import policy_of


class _Header(msgspec.Struct):
    """The first line of a recording."""

    settings: dict[str, str]
    """As environment variables; without URLs, which may hold passwords."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of making the plans of a recording again."""

    plans: int
    same: int
    """Plans that are as recorded."""
    jobs: int
    """Jobs that all plans together gave to workers."""
    first_other: tuple[int, Plan, Plan] | None
    """The first plan that is not as recorded: (number of its line, recorded, made again)."""


def open_recording(path: Path, settings: Settings) -> BinaryIO:
    """Open a new file for the plans of a dispatcher with these settings. Raises :class:`Invalid` if that fails."""
    recorded = {
        name: value
        for name, value in settings_environ(settings).items()
        if not name.endswith("_URL") and name != _BACKEND
    }
    try:
        file = path.open("wb")
    except OSError as exc:
        raise Invalid(f"cannot write {path}: {exc.strerror}; name a file that can be written") from exc
    file.write(msgspec.json.encode(_Header(recorded)) + b"\n")
    return file


_BACKEND = f"{ENV_PREFIX}RESULT_BACKEND"


def replay(path: Path) -> Replayed:
    """Make every plan of a recording again. Raises :class:`Invalid` if the file is no recording."""
    plans, same, jobs, first_other = 0, 0, 0, None
    for number, recorded, policy in _read(path):
        again = recorded.again(policy)
        plans += 1
        jobs += sum(assign.count for assign in again.assignments)
        if again == recorded.plan:
            same += 1
        elif first_other is None:
            first_other = (number, recorded.plan, again)
    return Replayed(plans, same, jobs, first_other)


def _read(path: Path) -> Iterator[tuple[int, Recorded, Policy]]:
    decode = msgspec.json.Decoder(Recorded).decode
    try:
        with path.open("rb") as file:
            policy = policy_of(load_settings(msgspec.json.decode(next(file, b""), type=_Header).settings))
            for number, line in enumerate(file, 2):
                if line.endswith(b"\n"):  # the last line may have been cut off
                    yield number, decode(line), policy
    except OSError as exc:
        raise Invalid(f"cannot read {path}: {exc.strerror}; name a recording that is there") from exc
    except msgspec.MsgspecError as exc:
        raise Invalid(f"{path} is no recording of `dispatcher run --record`: {exc}") from exc
