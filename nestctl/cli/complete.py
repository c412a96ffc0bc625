"""What the shell completes: names of labs and guests, read from small files. Nothing is asked of libvirt or a guest.

A shell calls this at every press of Tab: it loads little, and is silent about whatever is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def complete_lab(incomplete: str) -> list[str]:
    """Complete the name of a lab that exists, or a lab file of this directory."""
    files = (path.name for pattern in ("*.yaml", "*.yml") for path in Path().glob(pattern))
    return sorted(name for name in {*_labs(), *files} if name.startswith(incomplete))


def complete_guest(incomplete: str) -> list[str]:
    """Complete 'LAB/GUEST', and 'GUEST' where one lab is there."""
    labs = list(_labs())
    names = {f"{lab}/{guest}" for lab in labs for guest in _guests(lab)}
    if len(labs) == 1:
        names.update(_guests(labs[0]))
    return sorted(name for name in names if name.startswith(incomplete))


def _labs() -> Iterator[str]:
    from nestctl.paths import state_directory

    with suppress(OSError):
        yield from (path.name for path in (state_directory() / "labs").iterdir() if path.is_dir())


def _guests(lab: str) -> list[str]:
    """Read the names of a lab's guests, as `up` noted them."""
    from nestctl.paths import state_directory

    # Not through nestctl.lab.ssh_config, which has the file's name: it loads pydantic, libvirt and paramiko.
    with suppress(OSError, ValueError, KeyError, TypeError):
        document = json.loads((state_directory() / "labs" / lab / "guests.json").read_text())
        return [str(guest["name"]) for guest in document["guests"]]
    return []
