"""Where nestctl keeps things, and where its templates and playbooks are."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import PlatformDirs

from nestctl.errors import PrerequisiteError


def _directories() -> PlatformDirs:
    # Root's guests run under an account of libvirt's that may not look into /root: its files go below /var.
    return PlatformDirs("nestctl", appauthor=False)


def cache_directory() -> Path:
    """Images and anything else that can be made again: $NESTCTL_CACHE, /var/cache/nestctl or ~/.cache/nestctl."""
    if chosen := os.environ.get("NESTCTL_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path("/var/cache/nestctl") if os.geteuid() == 0 else _directories().user_cache_path


def state_directory() -> Path:
    """Keys, disks and results of labs: $NESTCTL_STATE, /var/lib/nestctl or ~/.local/state/nestctl."""
    if chosen := os.environ.get("NESTCTL_STATE"):
        return Path(chosen).expanduser().absolute()
    return Path("/var/lib/nestctl") if os.geteuid() == 0 else _directories().user_state_path


def resource(kind: str, name: str = "") -> Path:
    """Find a file of templates/ or playbooks/, in an installed wheel or in a checkout.

    Raises `PrerequisiteError` when neither has it: the installation is broken.
    """
    package = Path(__file__).parent
    for root in (package / "_data", package.parent):
        path = root / kind / name
        if path.exists():
            return path
    raise PrerequisiteError(
        f"'{kind}/{name}' is missing from this installation of nestctl.", hint="Install nestctl again."
    )
