"""A request to a Flower for its list of workers, with the login in its URL, if any."""

from __future__ import annotations

import base64
import http.client
from urllib.parse import unquote, urlsplit

from dispatcher.errors import Unavailable


def get_workers(url: str, query: str, *, timeout_s: float) -> bytes:
    """The body of ``GET <url>/workers?<query>``.

    ``url``: ``http(s)://[user:password@]host[:port][/prefix]``. Raises :class:`Unavailable` if no answer comes in time
    or Flower refuses; the error does not show the URL.
    """
    # http.client, not urllib: urllib uses the proxy of the environment, which does not lead to a Flower beside us.
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
