"""What the system refuses, as a sentence: a full disk, a closed directory, a standard output that takes no more."""

from __future__ import annotations

import errno
import os
import pwd
import sys
from pathlib import Path

from nestctl.errors import NestctlError, PrerequisiteError, UsageError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_RIGHT = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_PLACE = {errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}


def explain_refusal(error: OSError) -> NestctlError | None:
    """Say what was refused, where, and what to do; None for what nestctl should have seen coming, which is a bug."""
    path = str(error.filename) if isinstance(error.filename, str | os.PathLike) else ""
    place = f"'{path}': " if path else ""
    variable, root = _find_root(path)
    owned = "places" if " and " in variable else "a place"
    if error.errno in _NO_SPACE:
        hint = f"Free some space, or set {variable} to {owned} that has it." if variable else "Free some space there."
    elif error.errno in _NO_RIGHT:
        own = "Choose a place where this account may write."
        hint = f"Let this account write there, or set {variable} to {owned} it owns." if variable else own
    elif error.errno in _NO_PLACE and variable and not root.is_dir():
        hint = f"{variable} has to name a directory, or where one can be made."
    elif error.errno == errno.ENAMETOOLONG:
        return UsageError(f"There can be no file of this name: {place}{error.strerror}.")
    else:
        return None
    return PrerequisiteError(f"{place}{error.strerror}.", hint=hint)


def _find_root(path: str) -> tuple[str, Path]:
    """Find which of nestctl's own directories a path belongs to, and the variables that name it; else ''."""
    from nestctl.paths import cache_directory, state_directory

    roots = {"NESTCTL_STATE": state_directory(), "NESTCTL_CACHE": cache_directory()}
    # A directory that is to be made is refused under the name of the first parent that cannot be.
    found = {
        variable: root
        for variable, root in roots.items()
        if path and (Path(path).is_relative_to(root) or root.is_relative_to(path))
    }
    return " and ".join(found), next(iter(found.values()), Path())


def have_home() -> None:
    """Give an account that no one knows, as containers have, the home that they give it: '/'."""
    if "HOME" not in os.environ:
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["HOME"] = "/"


def open_missing_streams() -> None:
    """Have the three standard streams: closed ones lead nowhere, and no other file takes their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def flush_output() -> None:
    """Write what is left for standard output; what cannot be written goes nowhere, or Python would fail at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
