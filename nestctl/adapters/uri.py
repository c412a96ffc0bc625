"""Which libvirt of this machine is spoken to, by its connection URI (https://libvirt.org/drvqemu.html)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from nestctl.adapters.embedded import embedded_root
from nestctl.errors import UsageError
from nestctl.paths import cache_directory, state_directory

log = logging.getLogger(__name__)

SYSTEM_URI = "qemu:///system"
SESSION_URI = "qemu:///session"
# The driver embedded in the process; '?root=DIRECTORY' follows.
EMBEDDED_URI = "qemu:///embed"

_SYSTEM_SOCKETS = (Path("/run/libvirt/virtqemud-sock"), Path("/run/libvirt/libvirt-sock"))


def choose_uri(wanted: str | None) -> str:
    """Choose the connection: what was asked for, or $LIBVIRT_DEFAULT_URI, or the best that works here.

    The system's libvirt where its socket may be used and its accounts can reach our files; else the session's for a
    user, and for root, where no daemon runs, the driver embedded in this process. Raises as `check_uri`.
    """
    if chosen := wanted or os.environ.get("LIBVIRT_DEFAULT_URI"):
        check_uri(chosen)
        return chosen
    if any(os.access(path, os.W_OK) for path in _SYSTEM_SOCKETS):
        # Guests' disks are in one, and the images that they are overlays of in the other.
        closed = [it for it in (state_directory(), cache_directory()) if not _is_open_to_others(it)]
        if os.geteuid() == 0 or not closed:
            return SYSTEM_URI
        log.info("%s is closed to libvirt's accounts: using %s", closed[0], SESSION_URI)
    return SESSION_URI if os.geteuid() != 0 else f"{EMBEDDED_URI}?root={embedded_root()}"


def check_uri(uri: str) -> None:
    """Raise `UsageError` for a URI that is none of QEMU's on this machine."""
    if uri.partition("?")[0] not in {SYSTEM_URI, SESSION_URI, EMBEDDED_URI}:
        raise UsageError(
            f"The connection '{uri}' is not this machine's QEMU.",
            hint=f"Use {SYSTEM_URI}, {SESSION_URI} or {EMBEDDED_URI}?root=DIRECTORY.",
        )
    if uri.startswith(EMBEDDED_URI):
        parse_embedded_root(uri)


def parse_embedded_root(uri: str) -> Path:
    """Find the directory in a connection URI. Raises `UsageError` when it names none."""
    root = Path(uri.partition("root=")[2].partition("&")[0])
    if not root.is_absolute():
        raise UsageError(
            f"The connection '{uri}' names no absolute directory.", hint=f"Use {EMBEDDED_URI}?root=/some/directory."
        )
    return root


def _is_open_to_others(directory: Path) -> bool:
    """Tell whether other accounts can pass through a directory and all above it, as far as they exist."""
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents) if path.exists())
