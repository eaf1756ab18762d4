"""A message read by the rules of a made-up cell, for tests of admission."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from dispatcher.core.admission.rules import Admission, Admitted, Refused

NOW_MS = 1_700_000_000_000
REASONS = {
    "not_json", "too_large", "no_headers", "no_properties", "no_id", "no_task", "no_delivery_tag", "bad_body", "bad_header",
    "bad_timelimit", "bad_eta", "bad_expires", "content_refused", "unknown_model", "wrong_type",
}  # fmt: skip
"""All there are."""


def admission(**rules: Any) -> Admission:
    return Admission(**{"routes": {}, "default_cost_s": 1.0, **rules})


def read(raw: bytes, rules: Admission | None = None) -> Admitted | Refused:
    return (rules or admission()).read(raw, ingress="dispatch", step=3, now_ms=NOW_MS)


def encoded(body: str) -> str:
    return b64encode(body.encode()).decode()
