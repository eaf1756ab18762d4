"""Keeps passwords in URLs out of logs and messages, even passwords that are not percent-encoded as they should be."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from dispatcher.errors import Invalid

# From the colon after the user to the last @ of a URL. A URL of sentinels is several URLs, separated by `;`.
_PASSWORD = re.compile(r"(//[^:@/?#;]*:)(?:(?!;\w+://).)*@", re.DOTALL)
_FIELD = re.compile(r"([?&;]\w*(?:password|secret|token)=)[^&;#]*", re.IGNORECASE)


def redact(url: str) -> str:
    """``url`` without its password, fit for logs and messages."""
    return _FIELD.sub(r"\1***", _PASSWORD.sub(r"\1***@", url))


def refuse_unquoted(url: str) -> None:
    """Raise :class:`Invalid` if part of a password would be taken for a host, port or path, because it is not
    percent-encoded.

    Errors about that host, port or path would show the password.
    """
    for part in url.split(";"):
        try:
            parts = urlsplit(part)
            _ = parts.port
            torn = "@" in part and "@" not in parts.netloc and bool(parts.netloc)
        except ValueError:
            torn = True
        if torn:
            raise Invalid(
                f"cannot read {redact(url)}: in a password write %2F for /, %23 for #, %3F for ?, %40 for @, %3B for ;, %5B for ["
            )
