"""Batch files with a line that kills whatever runs it, submitted one after the other while the battle goes on."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from celery import Celery

from benchmarks.battle.odd import MODEL
from dispatcher.batches import submit_file
from dispatcher.errors import Unavailable
from dispatcher.settings import Settings
from dispatcher.store.redis_client.connection import celery_url

LINES = 16
"""Of each file; eight make a chunk."""
STUCK_AFTER_S = 300.0
"""A submission that goes on for so long when all else is done is stuck."""
CODES = frozenset({"job_dead", "process_died"})
"""What the error of a line that kills may say."""


class Submitter(threading.Thread):
    """Submits ``count`` files, evenly over ``seconds``. ``wrong`` is what is not as it must be, a sentence each; ``deadly`` counts the
    lines that kill and have ended as they must.
    """

    def __init__(self, broker: str, folder: Path, count: int, seconds: float, rng: Random) -> None:
        super().__init__(name="submitter", daemon=True)
        self._app = Celery("submitter", broker=celery_url(broker), set_as_current=False)
        self._app.conf.update(result_backend=celery_url(broker.replace("db=0", "db=1")), result_backend_thread_safe=True)
        self._settings = replace(Settings(), redis_url=broker, chunk_lines_max=8)
        self._folder = folder / "batches"
        self._count = count
        self._seconds = seconds
        self._rng = rng
        self.wrong: list[str] = []
        self.deadly = 0
        self.answered = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as exc:
            self.error = exc
            raise

    def finish(self) -> None:
        """Wait until all files have their answers; one that has none is not as it must be."""
        if self.ident is not None:
            self.join(STUCK_AFTER_S)
        if self.is_alive():
            self.wrong.append(f"batches have not ended {STUCK_AFTER_S:.0f} s after all else")

    def _run(self) -> None:
        self._folder.mkdir(exist_ok=True)
        began = time.monotonic()
        for number in range(self._count):
            time.sleep(max(0.0, began + number * self._seconds / self._count - time.monotonic()))
            self._submit(number, self._rng.randrange(LINES))

    def _submit(self, number: int, deadly: int) -> None:
        path, out = self._folder / f"{number}.jsonl", self._folder / f"{number}.out.jsonl"
        path.write_text("".join(json.dumps({
            "custom_id": str(line), "method": "POST", "url": "/v1/embeddings",
            "body": {"model": MODEL, "input": "kill" if line == deadly else f"text {line}"},
        }) + "\n" for line in range(LINES)))  # fmt: skip
        while True:
            try:
                submit_file(self._app, path, out, settings=self._settings, resume=True)
                break
            except Unavailable:  # Redis was away for too long
                continue
        good, bad = _read(out), _read(out.with_name(out.name + ".errors.jsonl"))
        said = {line["custom_id"]: line["response"]["body"]["said"] for line in good}
        codes = {line["custom_id"]: (line["error"] or {}).get("code") for line in bad}
        self.answered += len(said)
        if said != {str(line): f"text {line}" for line in range(LINES) if line != deadly} or len(good) != len(said):
            self.wrong.append(f"batch {number}: line {deadly} kills, and the answers are of lines {sorted(said, key=int)}; errors: {bad}")
        if codes.keys() != {str(deadly)} or not CODES.issuperset(codes.values()):
            self.wrong.append(f"batch {number}: line {deadly} kills, and the errors are {codes}")
        else:
            self.deadly += 1


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
