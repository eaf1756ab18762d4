"""What docker-compose.yml and the Dockerfile promise, read without a Docker engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "redis"}
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text("utf-8")


def test_the_parts_are_there() -> None:
    """Redis, a dispatcher, two kinds of worker, an autoscaler that only advises, and Flower."""
    assert set(SERVICES) == {"redis", "dispatcher", "worker-big", "worker-small", "autoscaler", "flower"}
    assert "--advise" in SERVICES["autoscaler"]["command"]


def test_kinds_of_worker_have_different_weights() -> None:
    """Two kinds that are alike would need no dispatcher."""
    commands = [service["command"] for name, service in SERVICES.items() if name.startswith("worker-")]
    weights = {float(command[command.index("--weight") + 1]) for command in commands}

    assert len(weights) == len(commands) == 2


def test_published_ports_are_on_loopback() -> None:
    """No port is open to another machine."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_flower_without_a_login_steers_nothing() -> None:
    """It listens beyond loopback, and refuses to stop workers as long as nobody opens its API."""
    assert [name for name, service in SERVICES.items() if "FLOWER_UNAUTHENTICATED_API" in service.get("environment", {})] == []
    assert not [part for part in SERVICES["flower"]["command"] if "auth" in part]


@pytest.mark.parametrize("name", SERVICES)
def test_every_part_has_a_health_check(name: str) -> None:
    """Each asks for readiness, not for a process that runs."""
    test = SERVICES[name]["healthcheck"]["test"]

    assert ("redis-cli ping" if name == "redis" else "dispatcher health") in " ".join(test)


@pytest.mark.parametrize("name", OURS)
def test_parts_start_when_what_they_need_is_healthy(name: str) -> None:
    """Nobody starts before Redis is ready, and all but the dispatcher wait for the dispatcher."""
    needs = {"redis"} if name == "dispatcher" else {"redis", "dispatcher"}

    assert OURS[name]["depends_on"] == {need: {"condition": "service_healthy"} for need in needs}


@pytest.mark.parametrize("name", OURS)
def test_parts_share_one_image_and_run_as_nobody_special(name: str) -> None:
    """One image; not root; no way to become it."""
    service = OURS[name]

    assert service["image"] == "inference-dispatcher"
    assert int(service["user"].partition(":")[0]) > 0
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_redis_keeps_what_it_is_told() -> None:
    """An append-only file on a volume, and no eviction."""
    redis = SERVICES["redis"]
    command = " ".join(redis["command"])

    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert {volume.partition(":")[0] for volume in redis["volumes"]} <= set(COMPOSE["volumes"])
    assert redis["volumes"][0].endswith(":/data")


def test_the_image_runs_as_a_plain_user() -> None:
    """The last USER is no root, by number, so that Kubernetes' runAsNonRoot can tell."""
    user = re.findall(r"^USER (\d+)", DOCKERFILE, re.MULTILINE)[-1]

    assert int(user) > 0


def test_the_dockerfile_needs_no_frontend_from_a_registry() -> None:
    """A `# syntax=` line would be fetched before anything is built."""
    assert "syntax=" not in DOCKERFILE
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"python:3.12-slim"}


def test_only_what_the_image_needs_is_sent_to_the_builder() -> None:
    """The ignore file starts from nothing: a secret in the working copy cannot end up in a layer."""
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]

    assert lines[0] == "*"
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in source.split():
            assert f"!{name}" in lines
