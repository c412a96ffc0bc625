"""Fetch a file so that what has come stays: an interrupted download goes on where it was, in the next run too.

downloads/0123456789abcdef/   about.json  data        named by the digest of where the file is from
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nestctl.adapters.files import hold_lock, write_atomically
from nestctl.adapters.http import RangeError, TransferError, is_url, open_url
from nestctl.deadline import Deadline
from nestctl.errors import UnreachableError, UsageError
from nestctl.paths import cache_directory

# Called with how many bytes there are, and how many there will be if that is known.
Progress = Callable[[int, int | None], None]

# A transfer that breaks off is taken up again; so often in a row without getting any further it is given up.
_TRIES = 5
_FIRST_PAUSE_S = 0.5

_CHUNK = 1024 * 1024
_MOST_CHECKSUM_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Partial:
    """A file that is being fetched, or was.

    `title` is what its image will be called; `validator` is the server's name for this version of the file.
    """

    title: str
    location: str
    validator: str = ""
    total_bytes: int | None = None

    @property
    def directory(self) -> Path:
        """Where the download is kept, by its location: the same URL goes on where it broke off."""
        return downloads_directory() / _key(self.location)

    @property
    def data(self) -> Path:
        """The bytes that have come; it need not be there."""
        return self.directory / "data"

    @property
    def received_bytes(self) -> int:
        """How many have come, 0 before the first."""
        return self.data.stat().st_size if self.data.exists() else 0

    @property
    def is_whole(self) -> bool:
        """Tell whether all have come; never where the server did not say how many there are."""
        return self.total_bytes is not None and self.received_bytes == self.total_bytes


def downloads_directory() -> Path:
    """Return the directory of downloads that are not images yet; it need not be there."""
    return cache_directory() / "downloads"


def list_partial() -> tuple[Partial, ...]:
    """All downloads that are not images yet, by what the image will be called."""
    found = [_read(path) for path in downloads_directory().glob("*/about.json")]
    return tuple(sorted((it for it in found if it), key=lambda it: it.title))


def lock_download(location: str, deadline: Deadline) -> AbstractContextManager[None]:
    """Be the only process that fetches from there, or removes what was fetched."""
    return hold_lock(cache_directory() / "locks" / f"import-{_key(location)}.lock", deadline)


def remove_download(location: str) -> None:
    """Remove what was fetched from there. The lock is held."""
    shutil.rmtree(downloads_directory() / _key(location), ignore_errors=True)


def fetch(location: str, title: str, progress: Progress) -> Partial:
    """Have a whole copy of a file or of what is at a URL; what came of it before is not fetched again.

    Whether it is the right file only a checksum tells. The lock is held. Raises `UsageError` when there is no such
    file, `UnreachableError` when the server does not answer or breaks off again and again; what has come then stays.
    """
    partial = _read(downloads_directory() / _key(location) / "about.json") or Partial(title=title, location=location)
    partial = replace(partial, title=title)
    if is_url(location):
        return partial if partial.is_whole else _download(partial, progress)
    _copy(partial, progress)
    return partial


def read_small(location: str) -> str:
    """Read a file, or what is at a URL, that is short and text: a list of checksums. Raises as `fetch` does."""
    if is_url(location):
        content = b""
        with open_url(location) as body:
            while len(content) <= _MOST_CHECKSUM_BYTES and (chunk := body.read(_CHUNK)):
                content += chunk
    else:
        try:
            with Path(location).open("rb") as file:
                content = file.read(_MOST_CHECKSUM_BYTES + 1)
        except OSError as error:
            raise UsageError(f"The checksum file '{location}' cannot be read: {error.strerror}.") from error
    if len(content) > _MOST_CHECKSUM_BYTES:
        raise UsageError(f"'{location}' is no list of checksums: it is longer than any.")
    return content.decode(errors="replace")


def _download(partial: Partial, progress: Progress) -> Partial:
    furthest, failures = partial.received_bytes, 0
    while True:
        try:
            return _continue(partial, progress)
        except RangeError:
            # There is no more of the file, and it is not whole: it has become a shorter one.
            partial.data.unlink()
        except UnreachableError as error:
            failures = 0 if partial.received_bytes > furthest else failures + 1
            furthest = max(furthest, partial.received_bytes)
            if not partial.received_bytes:
                raise
            if failures >= _TRIES:
                kept = f"{partial.received_bytes / 1e6:.1f} MB are kept: the same command goes on from there."
                raise UnreachableError(error.message, hint=kept) from error
            time.sleep(_FIRST_PAUSE_S * 2**failures)
        partial = _read(partial.directory / "about.json") or partial


def _continue(partial: Partial, progress: Progress) -> Partial:
    with open_url(partial.location, offset=partial.received_bytes, validator=partial.validator) as body:
        partial = replace(partial, validator=body.validator, total_bytes=body.total_bytes)
        if body.offset == 0:
            partial.data.unlink(missing_ok=True)
        _write(partial)
        with partial.data.open("ab") as file:
            received = body.offset
            progress(received, partial.total_bytes)
            while chunk := body.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
                progress(received, partial.total_bytes)
    if partial.total_bytes is not None and received < partial.total_bytes:
        raise TransferError(
            f"'{partial.location}' broke off after {received} bytes of the {partial.total_bytes} that it was to have."
        )
    return partial


def _copy(partial: Partial, progress: Progress) -> None:
    """Copy a file of this machine: what is checked has to be what is used, whoever may write to the original."""
    path = Path(partial.location)
    try:
        source = path.open("rb")
    except OSError as error:
        raise UsageError(f"The image '{path}' cannot be read: {error.strerror}.") from error
    if not path.is_file():
        raise UsageError(f"'{path}' is no file.")
    total, copied = path.stat().st_size, 0
    _write(replace(partial, total_bytes=total))
    with closing(source), partial.data.open("wb") as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            copied += len(chunk)
            progress(copied, total)


def _read(path: Path) -> Partial | None:
    try:
        return Partial(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(partial: Partial) -> None:
    partial.directory.mkdir(parents=True, exist_ok=True)
    write_atomically(partial.directory / "about.json", json.dumps(asdict(partial)).encode())


def _key(location: str) -> str:
    return hashlib.sha256(location.encode()).hexdigest()[:16]
