"""Look for everything of a lab's that is on this machine, wherever it could have been left.

What is inside a guest is on the guest's disk. libvirt's own log files stay, as it leaves them of every domain.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nestctl.adapters.embedded import embedded_root
from nestctl.adapters.libvirt import Hypervisor
from nestctl.adapters.sockets import find_stale_sockets
from nestctl.adapters.uri import EMBEDDED_URI, SESSION_URI, SYSTEM_URI, choose_uri, parse_embedded_root
from nestctl.lab.host import has_domains, open_connection
from nestctl.lab.network_plan import bridge_prefix, filter_owner
from nestctl.lab.render import parse_mark, parse_network_owner
from nestctl.lab.store import list_labs
from nestctl.paths import state_directory

log = logging.getLogger(__name__)

# Where libvirt keeps what belongs to a domain by its name: its firmware's variables, saved memory.
_SYSTEM_DIRECTORY, _SESSION_DIRECTORY = Path("/var/lib/libvirt/qemu"), Path("~/.config/libvirt/qemu")
_KEPT_BY_NAME = ("nvram", "save")

_KINDS = {"keys.json": "key", "client_key": "key", ".qcow2": "disk", ".seed.tar": "seed", ".seed.iso": "seed"}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One thing of a lab's: its `kind`, and a `name` by which it is found."""

    lab: str
    kind: str
    name: str


def audit(lab: str | None, *, connect: str | None) -> tuple[Trace, ...]:
    """List everything that is there of one lab, or of all of them."""
    uri = choose_uri(connect)
    if not has_domains(uri):
        return tuple(find_traces(lab, None))
    with open_connection(uri) as hypervisor:
        return tuple(find_traces(lab, hypervisor))


def find_traces(lab: str | None, hypervisor: Hypervisor | None) -> Iterator[Trace]:
    """Yield everything of one lab, or of all, that libvirt, the file system and the list of processes have."""
    domains = hypervisor.list_domains() if hypervisor else ()
    for domain in domains:
        if (mark := parse_mark(domain.xml)) and lab in (None, mark.lab):
            yield Trace(lab=mark.lab, kind="domain", name=domain.name)
    for network in hypervisor.list_networks() if hypervisor else ():
        if (owner := parse_network_owner(network.xml)) and lab in (None, owner):
            yield Trace(lab=owner, kind="network", name=network.name)
    for it in hypervisor.list_filters() if hypervisor else ():
        if (owner := filter_owner(it.name, it.uuid)) and lab in (None, owner):
            yield Trace(lab=owner, kind="filter", name=it.name)
    yield from find_bridges(lab)
    if lab is None:
        # Whose they were is not known any more; the next nestctl that reaches into a guest removes them.
        for path in find_stale_sockets():
            yield Trace(lab="-", kind="socket", name=str(path))
    yield from _find_files(lab)
    if lab is not None:
        # Without a lab to ask for, files that are named after a domain that is gone cannot be told from others'.
        root = _libvirt_directory(hypervisor.uri if hypervisor else "")
        yield from find_kept_by_name(lab, {it.name for it in domains}, root)
    yield from find_processes(lab, state_directory() / "labs")


def find_bridges(lab: str | None, interfaces: Path = Path("/sys/class/net")) -> Iterator[Trace]:
    """Yield the bridges of a lab's networks; without a lab to ask for, theirs that have a directory here."""
    labs = list_labs() if lab is None else (lab,)
    for name in labs:
        for path in sorted(interfaces.glob(f"{bridge_prefix(name)}*")):
            yield Trace(lab=name, kind="bridge", name=path.name)


def _find_files(lab: str | None) -> Iterator[Trace]:
    root = state_directory() / "labs"
    for directory in sorted(root.iterdir()) if root.is_dir() else ():
        if lab not in (None, directory.name):
            continue
        files = sorted(path for path in directory.rglob("*") if not path.is_dir())
        for path in files or [directory]:
            kind = next((kind for end, kind in _KINDS.items() if path.name.endswith(end)), "file")
            yield Trace(lab=directory.name, kind=kind, name=str(path))


def _libvirt_directory(uri: str) -> Path:
    """Say where the libvirt of a connection keeps things; what the others keep there is no lab's of ours."""
    if uri == SYSTEM_URI:
        return _SYSTEM_DIRECTORY
    if uri == SESSION_URI:
        return _SESSION_DIRECTORY.expanduser()
    return (parse_embedded_root(uri) if uri.startswith(EMBEDDED_URI) else embedded_root()) / "lib/qemu"


def find_kept_by_name(lab: str, others: Iterable[str], root: Path) -> Iterator[Trace]:
    """Yield what libvirt keeps below `root` for domains of a lab that are gone.

    A user of the system's libvirt may not look there: libvirt removed it with the domain, and that has to do.
    """
    for kind in _KEPT_BY_NAME:
        try:
            paths = sorted((root / kind).glob(f"{lab}-*")) if (root / kind).is_dir() else []
        except PermissionError:
            log.info("%s cannot be looked into", root / kind)
            continue
        for path in paths:
            if not any(path.name.startswith((f"{name}_", f"{name}.")) for name in others):
                yield Trace(lab=lab, kind=kind, name=str(path))


def find_processes(lab: str | None, labs: Path, proc: Path = Path("/proc")) -> Iterator[Trace]:
    """Yield the QEMUs that have disks of a lab's open, and the ports that they forward."""
    pattern = re.compile(rf"{re.escape(str(labs))}/([^/,]+)/[^/,]+\.qcow2")
    for path in sorted(proc.glob("[0-9]*/cmdline")):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        found = pattern.search(" ".join(words))
        if not found or "qemu" not in Path(words[0]).name or lab not in (None, found[1]):
            continue
        name = next((word for word in words if word.startswith("guest=")), "guest=?").split(",")[0][6:]
        yield Trace(lab=found[1], kind="process", name=f"QEMU of '{name}', process {path.parent.name}")
        for port in re.findall(r"hostfwd=tcp:127\.0\.0\.1:(\d+)-", " ".join(words)):
            yield Trace(lab=found[1], kind="port", name=f"127.0.0.1:{port}")
