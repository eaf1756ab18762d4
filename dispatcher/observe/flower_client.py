"""One request to a Flower: its list of workers, with the login that its URL may hold."""

from __future__ import annotations

import base64
import http.client
from urllib.parse import unquote, urlsplit

from dispatcher.errors import Unavailable


def get_workers(url: str, query: str, *, timeout_s: float) -> bytes:
    """The body of ``GET <url>/workers?<query>``.

    ``url``: ``http(s)://[user:password@]host[:port][/prefix]``. Raises :class:`Unavailable` where nobody answers in time or Flower refuses;
    the URL is not in its text.
    """
    # http.client, not urllib: it knows no proxies, and a Flower beside us must not be looked for behind one.
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {}
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
        try:
            connection.request("GET", f"{parts.path.rstrip('/')}/workers?{query}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise Unavailable(f"no answer: {exc!r}") from exc
    if answer.status >= 400:
        raise Unavailable(f"{answer.status} {answer.reason}")
    return body
