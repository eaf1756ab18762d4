"""``dispatcher health``: a yes or a no, for the health checks of containers."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlsplit

import click

from dispatcher.cli.output import json_option, say
from dispatcher.cli.session import Session
from dispatcher.errors import Invalid, Unavailable
from dispatcher.observe.flower_client import get_workers
from dispatcher.store.operator.status import ENDED
from dispatcher.store.redis_client.redaction import redact, refuse_unquoted

BEAT_AGE_MAX_S: Final = 5.0
FLOWER_TIMEOUT_S: Final = 3.0


@click.command()
@click.option("--worker", metavar="NAME", help="Also check that this worker (its node name) has started and beats.")
@click.option("--flower", metavar="URL",
              help="Check instead that this Flower sees a dispatcher; its login may be in the URL.")
@json_option
@click.pass_obj
def health(session: Session, worker: str | None, flower: str | None, as_json: bool) -> None:
    """Check that Redis answers and a dispatcher leads.

    Exit code 0 if so; else 1, with the reason on stderr.
    """
    if flower is not None:
        facts = {"flower": _nodes_online(flower)}
        if not any(name.startswith("dispatcher@") for name in facts["flower"]):
            others = ", ".join(facts["flower"]) or "nobody"
            raise Unavailable(f"Flower at {redact(flower)} sees no dispatcher online, only {others}")
        say(facts, "healthy", as_json=as_json)
        return
    with session.admin() as admin:
        status = admin.status()
    if status["leader"] is None:
        raise Unavailable("no dispatcher leads: start one with `dispatcher run`")
    if worker is not None:
        _check_worker(status, worker)
    say({"leader": status["leader"], "worker": worker, "unroutable": status["unroutable"]}, "healthy", as_json=as_json)


def _check_worker(status: dict[str, Any], name: str) -> None:
    lives = [life for life in status["workers"] if life["name"] == name and life["state"] not in ENDED]
    if not lives:
        raise Unavailable(f"no worker {name!r} lives: `dispatcher status` lists the workers that do")
    life = min(lives, key=lambda life: life["beat_age_s"])
    if life["state"] == "starting":
        raise Unavailable(f"worker {name!r} is starting")
    if life["beat_age_s"] > BEAT_AGE_MAX_S:
        raise Unavailable(f"worker {name!r} has been silent for {life['beat_age_s']:.0f} s")


def _nodes_online(url: str) -> list[str]:
    refuse_unquoted(url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(f"--flower is {redact(url)!r}: write http://host:port")
    try:
        nodes = json.loads(get_workers(url, "json=1", timeout_s=FLOWER_TIMEOUT_S))["data"]
        return sorted(node["hostname"] for node in nodes if node["status"])
    except (Unavailable, ValueError, LookupError, TypeError) as exc:
        raise Unavailable(f"Flower at {redact(url)} does not answer as Flower does ({exc})") from exc
