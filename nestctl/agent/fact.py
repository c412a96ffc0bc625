"""A fact is known with its value, or unknown with its reason."""

from __future__ import annotations

import errno
from typing import Any, Callable, Dict

Fact = Dict[str, Any]


class NotFoundOut(Exception):  # noqa: N818 - not an error of the program: it becomes a fact that is unknown
    """A question has no answer here; the text says why."""


def known(value: Any) -> Fact:
    """Make a known fact; `value` has to be what json.dump can write."""
    return {"value": value}


def unknown(reason: str, error: str = "") -> Fact:
    """Make an unknown fact; `error` is the name of the system's error, such as 'EACCES'."""
    return {"unknown": reason, "error": error} if error else {"unknown": reason}


def find_out(look: Callable[[], Any]) -> Fact:
    """Call `look` and make a fact of what it returns, or of why it could not."""
    try:
        return known(look())
    except NotFoundOut as reason:
        return unknown(str(reason))
    except OSError as error:
        what = error.strerror or str(error)
        name = errno.errorcode.get(error.errno or 0, "")
        return unknown(f"{error.filename}: {what}" if error.filename else what, name)
