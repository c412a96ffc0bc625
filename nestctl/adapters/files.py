"""Write files whole or not at all, and be the only process at something."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from nestctl.deadline import Deadline
from nestctl.errors import PrerequisiteError, UsageError

_WRONG_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file whole or not at all; it has `mode` from its first byte on.

    Raises the system's `OSError` under the name of `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_named(path: Path, content: bytes) -> None:
    """Write a file that the user has named, whole or not at all.

    Raises `UsageError` when there can be no file of that name, `PrerequisiteError` when the system refuses it.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        wrong = UsageError if error.errno in _WRONG_PATH else PrerequisiteError
        raise wrong(f"'{path}' cannot be written: {error.strerror}.") from error


def check_directory(directory: Path) -> None:
    """Raise, before long work is done in vain, where no file could be written into a directory that is made for it.

    Raises `UsageError` when something in its place is no directory, `PrerequisiteError` when it is closed to us.
    """
    there = next(it for it in (directory.absolute(), *directory.absolute().parents) if it.exists())
    if not there.is_dir():
        raise UsageError(f"'{directory}' can be no directory: '{there}' is a file.")
    try:
        TemporaryFile(dir=there).close()
    except OSError as error:
        raise PrerequisiteError(f"Nothing can be written to '{there}': {error.strerror}.") from error


@contextmanager
def hold_lock(path: Path, deadline: Deadline) -> Iterator[None]:
    """Hold a lock (flock) on a file made for it; wait for whoever has it until the deadline.

    The kernel lets go of it when the process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        for _ in deadline.poll():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            break
        yield
