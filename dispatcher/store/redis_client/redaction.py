"""Passwords in URLs: kept out of whatever is shown, whether or not they were written as a URL wants them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from dispatcher.errors import Invalid

# From the colon after the user to the last @ of a URL, whatever stands between; sentinels are several URLs in one, after `;`.
_PASSWORD = re.compile(r"(//[^:@/?#;]*:)(?:(?!;\w+://).)*@", re.DOTALL)
_FIELD = re.compile(r"([?&;]\w*(?:password|secret|token)=)[^&;#]*", re.IGNORECASE)


def redact(url: str) -> str:
    """``url`` without its password, fit for logs and messages."""
    return _FIELD.sub(r"\1***", _PASSWORD.sub(r"\1***@", url))


def refuse_unquoted(url: str) -> None:
    """Raise :class:`Invalid` where a password that should have been percent-encoded would be taken for a host, port or path: errors
    about those would show it.
    """
    for one in url.split(";"):
        try:
            parts = urlsplit(one)
            _ = parts.port
            torn = "@" in one and "@" not in parts.netloc and bool(parts.netloc)
        except ValueError:
            torn = True
        if torn:
            raise Invalid(
                f"cannot read {redact(url)}: in a password write %2F for /, %23 for #, %3F for ?, %40 for @, %3B for ;, %5B for ["
            )
