"""Fetch files by HTTP and HTTPS. Nothing else in nestctl does.

The standard library's client: it takes the proxies of the environment and the system's certificates, as curl does.
"""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from nestctl import __version__
from nestctl.errors import FailedError, UnreachableError, UsageError

# How long a server may be silent, in seconds.
SILENCE_S = 30.0


class TransferError(UnreachableError):
    """A transfer broke off, or the server is too busy: trying again may help."""


class RangeError(FailedError):
    """The server has no part of the file that begins where it was asked to (416)."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a server sends of a file.

    `offset` is where in the file it begins, `total_bytes` how long the whole file is, if the server says so, and
    `validator` (an entity tag or a date) names this version of it; empty when the server names none.
    """

    url: str
    offset: int
    total_bytes: int | None
    validator: str
    stream: Any

    def read(self, size: int) -> bytes:
        """Return what has come, at most `size` bytes, and none at the end, which may be too early.

        Raises `TransferError` when the connection breaks or is silent.
        """
        try:
            return bytes(self.stream.read1(size))
        except http.client.HTTPException as error:
            raise TransferError(f"'{self.url}' broke off: {error!r}.") from error
        except OSError as error:
            raise TransferError(f"'{self.url}' broke off: {error}.") from error


def is_url(text: str) -> bool:
    """Tell a URL, of whatever kind, from a path."""
    return "://" in text


def check_url(url: str) -> None:
    """Raise `UsageError` for a URL that is none, or none of HTTP and HTTPS."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - looks at the port, which may be none
    except ValueError as error:
        raise UsageError(f"'{url}' is no URL: {error}.") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"'{url}' is no URL that can be fetched: use https://, http:// or the path of a file.")


@contextmanager
def open_url(url: str, *, offset: int = 0, validator: str = "") -> Iterator[Body]:
    """Ask for a file, from `offset` on if it is still the version of `validator`; else it comes whole.

    Redirects are followed, but not from HTTPS to HTTP. Raises `UsageError` for a URL that is none or has no file,
    `FailedError` for what the server refuses, `UnreachableError` when it does not answer.
    """
    check_url(url)
    headers = {"User-Agent": f"nestctl/{__version__}", "Accept-Encoding": "identity"}
    if offset and validator:
        # Without a validator the parts of two versions would be glued together (RFC 9110, 13.1.5).
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme was looked at
        response = _opener().open(request, timeout=SILENCE_S)
    except urllib.error.HTTPError as error:
        with error:
            raise _explain_status(url, error.code, error.reason) from error
    except urllib.error.URLError as error:
        raise _explain(url, error.reason) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _explain(url, error) from error
    with response:
        yield _read_head(url, response, offset)


def _read_head(url: str, response: Any, asked: int) -> Body:
    headers: http.client.HTTPMessage = response.headers
    length = headers.get("Content-Length", "")
    offset, total = 0, int(length) if length.isdecimal() else None
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if not found or int(found[1]) != asked:
            raise FailedError(f"'{url}' sends another part of the file than it was asked for.")
        offset, total = asked, int(found[2]) if found[2] != "*" else None
    elif response.status != 200:
        raise _explain_status(url, response.status, response.reason)
    tag = headers.get("ETag", "")
    # A weak tag says that two versions are alike, not that their bytes are (RFC 9110, 8.8.1).
    validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    return Body(url=response.url, offset=offset, total_bytes=total, validator=validator, stream=response)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        check_url(newurl)
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise FailedError(
                f"'{req.full_url}' leads to '{newurl}': from an encrypted connection to one that is not.",
                hint="Find out where the vendor has the file, and give that address.",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _explain_status(url: str, status: int, reason: str) -> Exception:
    if status in {404, 410}:
        return UsageError(f"There is no file '{url}' (the server says {status} {reason}).")
    if status == 416:
        return RangeError(f"'{url}' has no more of the file.")
    if status in {408, 429, 500, 502, 503, 504}:
        return TransferError(f"'{url}' is not sent now: the server says {status} {reason}.")
    return FailedError(f"'{url}' is not sent: the server says {status} {reason}.")


def _explain(url: str, error: Any) -> Exception:
    if isinstance(error, ssl.SSLCertVerificationError):
        return FailedError(
            f"'{url}' does not prove who it is: {error.verify_message}.",
            hint="Install the certificates (package 'ca-certificates'), or name yours in SSL_CERT_FILE.",
        )
    return TransferError(f"'{url}' does not answer: {getattr(error, 'strerror', None) or error}.")
