"""Look at a device such as /dev/kvm from outside: whose it is, and whether this user is let in by the group."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Any, Callable

FIRST_OF_PEOPLE = 1000  # UID_MIN and GID_MIN of login.defs(5), everywhere


def look_at(path: str) -> dict[str, Any]:
    """Raises OSError when there is nothing at `path`."""
    status = Path(path).stat()
    return {
        "mode": stat.filemode(status.st_mode),
        "owner": _name_of(pwd.getpwuid, status.st_uid),
        "group": _name_of(grp.getgrgid, status.st_gid),
        "in_group": status.st_gid in {os.getegid(), *os.getgroups()},
        "is_member": _is_member(status.st_gid),
    }


def _name_of(look_up: Callable[[int], Any], number: int) -> str:
    """Name a user or group of the system; one that people made stays a number, so that a recording names nobody."""
    try:
        return str(look_up(number)[0]) if number < FIRST_OF_PEOPLE else str(number)
    except KeyError:
        return str(number)


def _is_member(group: int) -> bool:
    """Say whether the user is in the group since the last time somebody logged in, in effect here or not."""
    try:
        return pwd.getpwuid(os.geteuid())[0] in grp.getgrgid(group)[3]
    except KeyError:
        return False
