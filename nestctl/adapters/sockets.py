"""Directories of sockets for a connection's life, and those that a nestctl that was killed has left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

# What they are called: 'nestctl-socket-PID-' and something random.
SOCKETS = "nestctl-socket-"


def find_stale_sockets(root: Path | None = None) -> Iterator[Path]:
    """Yield those whose nestctl was killed, as far as they are of this account (see `SshShell.open_socket_to`)."""
    for path in sorted((root or Path(gettempdir())).glob(f"{SOCKETS}*-*")):
        pid = path.name.removeprefix(SOCKETS).partition("-")[0]
        with suppress(OSError):
            if pid.isdecimal() and path.lstat().st_uid == os.geteuid() and not Path(f"/proc/{pid}").exists():
                yield path


def remove_stale_sockets() -> None:
    """Remove what `find_stale_sockets` finds: sockets of nestctl processes of this account that are gone."""
    for path in find_stale_sockets():
        shutil.rmtree(path, ignore_errors=True)
