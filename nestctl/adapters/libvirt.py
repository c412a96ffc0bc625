"""Call libvirt: this machine's, or a guest's through its SSH connection. Nothing else in nestctl does."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The driver that is embedded in this process would log to our standard error; what matters comes as an exception.
os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", "3:file:/dev/null")

import libvirt

from nestctl.adapters.embedded import is_unused_root, own_embedded_root, remove_root
from nestctl.adapters.limits import limit_domain
from nestctl.adapters.refusals import explain
from nestctl.adapters.uri import EMBEDDED_URI, SYSTEM_URI, check_uri, parse_embedded_root
from nestctl.deadline import Deadline

if TYPE_CHECKING:
    from nestctl.adapters.ssh import SshShell

log = logging.getLogger(__name__)

# How often the embedded driver is tried again while a process that had it open ends.
_RETRY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A domain as libvirt has it. `xml` is the inactive definition; `live_xml` what runs, or empty."""

    name: str
    is_running: bool
    xml: str
    live_xml: str


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network as libvirt has it; `xml` is what is active, or the definition."""

    name: str
    is_active: bool
    xml: str


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A network filter; libvirt keeps it until it is undefined."""

    name: str
    uuid: str
    xml: str


@dataclass(frozen=True, kw_only=True)
class Hypervisor:
    """One libvirt, at whatever level. Every call raises `HypervisorError` with libvirt's own words when it fails."""

    where: str
    uri: str
    connection: Any

    @contextmanager
    def notify(self, happened: Callable[[], object]) -> Iterator[None]:
        """Have a function called, by another thread, whenever a domain is defined, started, stopped or removed."""
        with _errors(f"listen to {self.where}"):
            number = self.connection.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *_about: happened(), None
            )
        try:
            yield
        finally:
            with suppress(libvirt.libvirtError):  # a connection that is lost has no events to end
                self.connection.domainEventDeregisterAny(number)

    def list_domains(self) -> tuple[Domain, ...]:
        """List all domains; one that is removed meanwhile is left out."""
        with _errors(f"list the domains of {self.where}"):
            return tuple(it for domain in self.connection.listAllDomains() if (it := _observe(domain)))

    def find_domain(self, name: str) -> Domain | None:
        """Find a domain by its name; None when there is none."""
        with _errors(f"look for the domain '{name}' on {self.where}"), _gone(libvirt.VIR_ERR_NO_DOMAIN):
            return _observe(self.connection.lookupByName(name))
        return None

    def define_domain(self, xml: str) -> None:
        """Define a domain, checked against libvirt's schema (elements it does not know are errors, not ignored)."""
        with _errors(f"define a domain on {self.where}"):
            self.connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

    def start_domain(self, name: str) -> None:
        """Start a domain that is defined and off. Raises `PortTakenError` when a forwarded port is taken."""
        with _errors(f"start the domain '{name}' on {self.where}"):
            self.connection.lookupByName(name).create()

    def read_trouble(self, name: str) -> str:
        """Say what keeps a domain from running on, as the end of a sentence; empty when nothing does."""
        with _errors(f"ask {self.where} about the domain '{name}'"):
            domain = self.connection.lookupByName(name)
            state, _ = domain.state()
            # QEMU stops a guest whose write fails for want of space (its default, werror=enospc).
            failed = domain.diskErrors() if state == libvirt.VIR_DOMAIN_PAUSED else {}
        if state in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
            return "has stopped"
        if failed:
            is_full = libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE in failed.values()
            said = f"No space left on device on {self.where}" if is_full else f"I/O error on {self.where}"
            return f"stands still, because its disk could not be written: {said}"
        return ""

    def stop_domain(self, name: str) -> None:
        """Stop a domain at once, as if it lost its power; one that is off stays so."""
        with _errors(f"stop the domain '{name}' on {self.where}"):
            domain = self.connection.lookupByName(name)
            if domain.isActive():
                _destroy(domain)

    def remove_domain(self, name: str) -> None:
        """Stop a domain at once and forget it, with its nvram and managed save if it has any."""
        with _errors(f"remove the domain '{name}' from {self.where}"):
            domain = self.connection.lookupByName(name)
            if domain.isActive():
                _destroy(domain)
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)

    def shut_down_domain(self, name: str, deadline: Deadline) -> None:
        """Have a domain shut itself down (ACPI), and stop it when it has not until the deadline. It stays defined."""
        with _errors(f"shut down the domain '{name}' on {self.where}"):
            domain = self.connection.lookupByName(name)
            if domain.isActive():
                domain.shutdown()
            while domain.isActive() and not deadline.is_over:
                time.sleep(_RETRY_S)
            if domain.isActive():
                _destroy(domain)

    def write_metadata(self, name: str, xml: str, *, prefix: str, namespace: str) -> None:
        """Write an element into a domain's metadata, in place of the one of its namespace; it runs on meanwhile."""
        with _errors(f"write metadata of the domain '{name}' on {self.where}"):
            domain = self.connection.lookupByName(name)
            live = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
            domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                xml,
                prefix,
                namespace,
                libvirt.VIR_DOMAIN_AFFECT_CONFIG | live,
            )

    def set_limits(self, name: str, limits: Mapping[str, int | None]) -> None:
        """Set limits of a domain that runs, by the names of `Quota`; None lifts one. Its definition stays as it is."""
        with _errors(f"limit the domain '{name}' on {self.where}"):
            domain = self.connection.lookupByName(name)
            limit_domain(domain, limits)

    def list_networks(self) -> tuple[Network, ...]:
        """List the networks, but those removed meanwhile; none where the driver has none at all (qemu:///embed)."""
        try:
            networks = self.connection.listAllNetworks()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                return ()
            raise explain(error, f"list the networks of {self.where}") from error
        with _errors(f"list the networks of {self.where}"):
            return tuple(it for network in networks if (it := _observe_network(network)))

    def has_networks(self) -> bool:
        """Tell whether the driver has networks at all."""
        try:
            self.connection.numOfNetworks()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                return False
            raise explain(error, f"list the networks of {self.where}") from error
        return True

    def define_network(self, xml: str) -> None:
        """Define a network, checked against libvirt's schema."""
        with _errors(f"define a network on {self.where}"):
            self.connection.networkDefineXMLFlags(xml, libvirt.VIR_NETWORK_DEFINE_VALIDATE)

    def start_network(self, name: str) -> None:
        """Start a network that is defined; libvirt makes its bridge."""
        with _errors(f"start the network '{name}' on {self.where}"):
            self.connection.networkLookupByName(name).create()

    def remove_network(self, name: str) -> None:
        """Stop a network at once and forget it."""
        with _errors(f"remove the network '{name}' from {self.where}"):
            network = self.connection.networkLookupByName(name)
            if network.isActive():
                network.destroy()
            network.undefine()

    def list_filters(self) -> tuple[Filter, ...]:
        """List the network filters; none where the driver has none at all."""
        try:
            filters = self.connection.listAllNWFilters()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                return ()
            raise explain(error, f"list the filters of {self.where}") from error
        with _errors(f"list the filters of {self.where}"):
            return tuple(it for found in filters if (it := _observe_filter(found)))

    def define_filter(self, xml: str) -> None:
        """Define a network filter, or change it: for guests that run, too."""
        with _errors(f"define a filter on {self.where}"):
            self.connection.nwfilterDefineXML(xml)

    def remove_filter(self, name: str) -> None:
        """Forget a network filter; libvirt refuses while a guest uses it."""
        with _errors(f"remove the filter '{name}' from {self.where}"):
            self.connection.nwfilterLookupByName(name).undefine()

    def read_domain_capabilities(self, emulator: str, domain_type: str) -> str:
        """Read what the emulator can do, as XML. The first call on a machine makes libvirt probe it, for seconds."""
        with _errors(f"read the capabilities of {self.where}"):
            return str(self.connection.getDomainCapabilities(emulator, "x86_64", "q35", domain_type))


@contextmanager
def open_hypervisor(uri: str, *, deadline: Deadline) -> Iterator[Hypervisor]:
    """Open this machine's libvirt. Raises as `check_uri`."""
    check_uri(uri)
    if uri.startswith(EMBEDDED_URI):
        yield from _open_embedded(uri, deadline)
    else:
        with _open(uri, "this machine") as hypervisor:
            yield hypervisor


# The connections to embedded drivers, by directory. libvirt has room for twenty drivers in a process and takes one more
# for each connection that is opened, also to the same directory (virRegisterConnectDriver): a second is never opened.
_embedded: dict[Path, Any] = {}
_users: Counter[Path] = Counter()
_opening_embedded = threading.Lock()


def _open_embedded(uri: str, deadline: Deadline) -> Iterator[Hypervisor]:
    root = parse_embedded_root(uri)
    with _opening_embedded:
        _users[root] += 1
    try:
        yield Hypervisor(where="this machine", uri=uri, connection=_connect_embedded(uri, root, deadline))
    finally:
        with _opening_embedded:
            _users[root] -= 1
            if not _users[root] and is_unused_root(root):
                _close_embedded(root)
                remove_root(root)


def _connect_embedded(uri: str, root: Path, deadline: Deadline) -> Any:
    with _opening_embedded:
        if root not in _embedded:
            own_embedded_root(root, deadline)
            _start_event_loop()
            with _errors(f"connect to '{uri}' on this machine"):
                _embedded[root] = _connect(uri, deadline)
            atexit.register(_close_embedded, root)
        return _embedded[root]


def _close_embedded(root: Path) -> None:
    if connection := _embedded.pop(root, None):
        connection.close()


@contextmanager
def open_guest_hypervisor(shell: SshShell) -> Iterator[Hypervisor]:
    """Open the libvirt inside a guest, through the SSH connection that is there: one channel, no process of ours."""
    with (
        shell.open_socket_to(("virt-ssh-helper", SYSTEM_URI)) as path,
        _open(f"qemu+unix:///system?socket={path}", f"'{shell.name}'") as hypervisor,
    ):
        yield hypervisor


@contextmanager
def _open(uri: str, where: str) -> Iterator[Hypervisor]:
    _start_event_loop()
    with _errors(f"connect to '{uri}' on {where}"):
        connection = libvirt.open(uri)
    try:
        yield Hypervisor(where=where, uri=uri, connection=connection)
    finally:
        connection.close()


def _connect(uri: str, deadline: Deadline) -> Any:
    """Connect, and wait for a process that has the embedded driver open and is about to end."""
    while True:
        try:
            return libvirt.open(uri)
        except libvirt.libvirtError as error:
            if "acquire pid file" not in str(error):
                raise
            deadline.check()
            time.sleep(_RETRY_S)


_event_loop = threading.Lock()
_is_event_loop_running = False


def _start_event_loop() -> None:
    """Start libvirt's event loop, once a process: the embedded driver and keep-alives need it."""
    global _is_event_loop_running
    with _event_loop:
        if _is_event_loop_running:
            return
        libvirt.registerErrorHandler(lambda _context, error: log.debug("libvirt: %s", error[2]), None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True).start()
        _is_event_loop_running = True


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _observe(domain: Any) -> Domain | None:
    """Read a domain; None when it is not there any more."""
    with _gone(libvirt.VIR_ERR_NO_DOMAIN):
        is_running = bool(domain.isActive())
        return Domain(
            name=domain.name(),
            is_running=is_running,
            xml=domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE),
            live_xml=domain.XMLDesc() if is_running else "",
        )
    return None


def _observe_network(network: Any) -> Network | None:
    """Read a network; None when it is not there any more."""
    with _gone(libvirt.VIR_ERR_NO_NETWORK):
        return Network(name=network.name(), is_active=bool(network.isActive()), xml=network.XMLDesc())
    return None


def _observe_filter(it: Any) -> Filter | None:
    """Read a network filter; None when it is not there any more."""
    with _gone(libvirt.VIR_ERR_NO_NWFILTER):
        return Filter(name=it.name(), uuid=it.UUIDString(), xml=it.XMLDesc())
    return None


@contextmanager
def _gone(code: int) -> Iterator[None]:
    """Pass over libvirt's word that something is not there: others remove things, too."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != code:
            raise


def _destroy(domain: Any) -> None:
    """Stop a domain. libvirt fails when the domain ends by itself, or by libvirt's own kill, before it has looked."""
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or domain.isActive():
            raise


@contextmanager
def _errors(doing: str) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise explain(error, doing) from error
