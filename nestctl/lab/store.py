"""What libvirt cannot hold of a lab, in files: its keys, its guests' disks, the lab file it was made from.

labs/NAME/   lab.yaml  keys.json (0600)  ssh_config  client_key (0600)  known_hosts  boots.json
             GUEST.qcow2  GUEST.seed.tar or .iso (0600)  GUEST.console.log
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import yaml

from nestctl.adapters.files import hold_lock, write_atomically
from nestctl.deadline import Deadline
from nestctl.errors import LabFileError, UsageError
from nestctl.lab.parse import Check, read_lab
from nestctl.model.lab import NAME_PATTERN, Lab
from nestctl.paths import cache_directory, state_directory

DEFAULT_FILE = Path("lab.yaml")

_LOCK_TIMEOUT_S = 3600.0


def lab_directory(name: str) -> Path:
    """Return the directory of a lab's keys, disks and seeds; it need not be there. The name has to be a lab's."""
    return state_directory() / "labs" / name


def list_labs() -> tuple[str, ...]:
    """List the labs that have a directory here, by name."""
    with suppress(OSError):
        return tuple(sorted(path.name for path in (state_directory() / "labs").iterdir() if path.is_dir()))
    return ()


def find_lab(reference: str | None, check: Check | None = None) -> Lab:
    """Find a lab by the path of its file, or by its name when it has been brought up; by default ./lab.yaml.

    Raises `UsageError` when there is none and `LabFileError` when the file is wrong; `check` may look further.
    """
    if reference is None:
        return read_lab(DEFAULT_FILE, check)
    if "/" in reference or reference.endswith((".yaml", ".yml")) or Path(reference).is_file():
        return read_lab(Path(reference), check)
    kept = lab_directory(reference) / "lab.yaml"
    if reference in list_labs() and kept.exists():
        return read_lab(kept, check)
    there = ", ".join(f"'{name}'" for name in list_labs()) or "none"
    raise UsageError(f"There is no file and no lab '{reference}'; labs that exist: {there}.")


def read_kept_lab(name: str) -> Lab:
    """Read the lab as it was brought up, whatever its file says now."""
    return read_lab(lab_directory(name) / "lab.yaml")


def find_lab_of(reference: str) -> tuple[Lab, str]:
    """Find the lab of 'GUEST' (that of ./lab.yaml, or the only lab there is) or 'LAB/GUEST', and the guest's name."""
    lab_name, _, name = reference.rpartition("/")
    if lab_name:
        return find_lab(lab_name), name
    labs = list_labs()
    return find_lab(None if DEFAULT_FILE.exists() or len(labs) != 1 else labs[0]), name


def expect_up(lab: Lab) -> Path:
    """Return a lab's directory. Raises `UsageError` when it has not been brought up."""
    directory = lab_directory(lab.name)
    if not (directory / "ssh_config").exists():
        raise UsageError(f"The lab '{lab.name}' is not up.", hint="Bring it up with 'nestctl up'.")
    return directory


def find_lab_name(reference: str | None) -> str:
    """Find the name of a lab that is to be removed: its file may be damaged or gone, its name is enough."""
    try:
        return find_lab(reference).name
    except LabFileError:
        raise
    except UsageError:
        if reference in list_labs():
            return reference
        raise


def find_any_name(reference: str) -> str:
    """Find the name of a lab that may be gone altogether: that of a file, or the reference when it can be a name."""
    try:
        return find_lab_name(reference)
    except LabFileError:
        raise
    except UsageError:
        if re.fullmatch(NAME_PATTERN, reference):
            return reference
        raise


def keep_lab(lab: Lab) -> Path:
    """Make the lab's directory and write the lab into it. Other accounts may pass through it, not look into it."""
    directory = lab_directory(lab.name)
    directory.mkdir(parents=True, exist_ok=True)
    # Under qemu:///system QEMU is another account: it opens its disks by their paths.
    for path in (state_directory(), directory.parent, directory):
        if path.stat().st_uid == os.geteuid():
            path.chmod(0o711)
    document = lab.model_dump(mode="json", exclude_defaults=True)
    # A seed may hold secrets.
    write_atomically(directory / "lab.yaml", yaml.safe_dump(document, sort_keys=False).encode(), mode=0o600)
    return directory


def forget_lab(name: str) -> None:
    """Remove the lab's directory, and those above it that are empty then."""
    directory = lab_directory(name)
    if directory.exists():
        shutil.rmtree(directory)
    for path in (directory.parent, state_directory()):
        with suppress(OSError):
            path.rmdir()


def lock_lab(name: str, timeout_s: float = _LOCK_TIMEOUT_S) -> AbstractContextManager[None]:
    """Be the only nestctl that changes this lab; another one is waited for."""
    deadline = Deadline.after(timeout_s, f"Waiting for another nestctl at work on '{name}'")
    return hold_lock(cache_directory() / "locks" / f"{name}.lock", deadline)


_boots = threading.Lock()


def record_boot(name: str, guest: str, seconds: float) -> None:
    """Note how long a guest took from its start until SSH answered: bench reports it."""
    path = lab_directory(name) / "boots.json"
    with _boots:
        boots = read_boots(name)
        boots.setdefault(guest, []).append(seconds)
        write_atomically(path, json.dumps(boots).encode())


def read_boots(name: str) -> dict[str, list[float]]:
    """Read the boot times noted so far, in seconds, by guest."""
    try:
        document = json.loads((lab_directory(name) / "boots.json").read_text())
        return {str(guest): [float(value) for value in values] for guest, values in document.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
