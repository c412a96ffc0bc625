"""The directory of libvirt's embedded driver: ours alone while it is open, cleaned of what a killed process left.

https://libvirt.org/drvqemu.html, "Embedded driver". libvirt keeps below the directory what its daemon keeps below
/etc, /run and /var/lib.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import signal
from contextlib import ExitStack, suppress
from pathlib import Path

from nestctl.adapters.files import hold_lock
from nestctl.deadline import Deadline
from nestctl.errors import UsageError
from nestctl.paths import cache_directory, state_directory

log = logging.getLogger(__name__)

# Logs go to files, because no virtlogd runs without a daemon; QEMU runs as the account that calls, as in a session. It
# can open its files as they are: an image that was given to it would be taken from the guests of a daemon.
# No mount namespace of its own: containers and chroots, where this driver is of most use, often cannot give it one.
_CONFIGURATION = """\
stdio_handler = "file"
user = "+{user}"
group = "+{group}"
dynamic_ownership = 0
namespaces = []
"""


def embedded_root() -> Path:
    """Say where the embedded driver keeps its domains, as long as there are any."""
    return state_directory() / "embed"


# What this process owns. libvirt keeps a directory to itself until the process ends, also when the connection is
# closed, if a guest runs: so do we.
_owned: dict[Path, ExitStack] = {}
# The directories that the driver made in one that is removed. It makes them once a process, and misses them after.
_made: dict[Path, tuple[Path, ...]] = {}


def own_embedded_root(root: Path, deadline: Deadline) -> None:
    """Be the only process that has a directory open, from now until it ends; wait for another until the deadline.

    What libvirt learns of QEMU, in seconds of probing, is kept in our cache: it outlives the directory. Raises
    `UsageError` when a directory that the user named cannot be made, `OSError` for nestctl's own.
    """
    if root not in _owned:
        name = hashlib.sha256(str(root).encode()).hexdigest()[:12]
        stack = ExitStack()
        stack.enter_context(hold_lock(cache_directory() / "locks" / f"embed-{name}.lock", deadline))
        _owned[root] = stack
    try:
        (root / "etc").mkdir(parents=True, exist_ok=True, mode=0o711)
    except OSError as error:
        if root.is_relative_to(state_directory()):
            raise
        raise UsageError(f"The embedded libvirt's directory '{root}' cannot be made: {error.strerror}.") from error
    for directory in _made.pop(root, ()):
        directory.mkdir(parents=True, exist_ok=True)
    learnt, link = cache_directory() / "libvirt", root / "cache"
    learnt.mkdir(exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(learnt)
    (root / "etc/qemu.conf").write_text(_CONFIGURATION.format(user=os.geteuid(), group=os.getegid()))
    _forget_dead_guests(root)


def is_unused_root(root: Path) -> bool:
    """Tell whether no domain is defined in a directory any more.

    Only our own default one is ours to remove, and only by the process that owns it: not by one that waited in vain.
    """
    return root == embedded_root() and root in _owned and root.exists() and not any((root / "etc/qemu").glob("*.xml"))


def remove_root(root: Path) -> None:
    """Remove the driver's directory, and the one it is in when that is empty then."""
    _made[root] = tuple(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())
    shutil.rmtree(root)
    with suppress(OSError):  # a lab's files are beside it
        root.parent.rmdir()


def _forget_dead_guests(root: Path) -> None:
    """Remove libvirt's notes of guests that are gone: it would wait half a minute for each before it believes it.

    A guest dies unseen when no process has the directory open, or when nestctl is killed while it starts one.
    """
    for note in (root / "run/qemu").glob("*.xml"):
        found = re.search(r"<domstatus [^>]*\bpid='(\d+)'", note.read_text(errors="replace"))
        pid = int(found[1]) if found else 0
        if pid and f"guest={note.stem}," in _command_line(pid):
            continue
        log.info("the guest '%s' is gone: forgetting that it ran", note.stem)
        _end_half_started(root, note.stem)
        note.unlink()


def _end_half_started(root: Path, domain: str) -> None:
    """End a QEMU that was started and never noted: it waits, stopped, for a libvirt that was killed."""
    for path in Path("/proc").glob("[0-9]*"):
        command = _command_line(int(path.name))
        if f"guest={domain}," in command and f"{root}/lib/qemu/domain-" in command:
            with suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGKILL)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
