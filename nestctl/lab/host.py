"""What this machine is as the host of labs: which connection, which accelerator, what is in the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nestctl.adapters.libvirt import Domain, Hypervisor, Network, open_hypervisor
from nestctl.adapters.uri import choose_uri
from nestctl.check import choose_accelerator
from nestctl.deadline import Deadline
from nestctl.lab.addresses import (
    Subnet,
    allocate_networks,
    allocate_subnets,
    choose_port,
    parse_subnets,
    read_local_addresses,
    read_outer_subnets,
    read_routes,
    select_pool,
)
from nestctl.lab.adoption import find_adopted, read_adoptions
from nestctl.lab.host_facts import HostFacts
from nestctl.lab.images import locate_images
from nestctl.lab.place import host_place
from nestctl.lab.plan import GuestPlan, depth_of, plan_lab
from nestctl.lab.render import parse_forwarded_port, parse_mark, parse_network_mark, parse_network_subnets
from nestctl.lab.store import lab_directory
from nestctl.model.facts import Accelerator
from nestctl.model.lab import Lab

# Others may be at work on the same embedded driver: `up` has it open for as long as guests boot.
_CONNECT_TIMEOUT_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Host:
    """What was decided about this machine. `cpu_feature` is what a guest needs to run guests: 'vmx' or 'svm'."""

    uri: str
    accelerator: Accelerator
    cpu_feature: str
    is_machine_emulated: bool = False

    @property
    def is_emulated(self) -> bool:
        """Tell whether QEMU's TCG runs the guests of this machine."""
        return self.accelerator is Accelerator.TCG

    @property
    def is_slow(self) -> bool:
        """Tell whether guests boot as slowly as emulated ones: they are, or the machine whose KVM runs them is."""
        return self.is_emulated or self.is_machine_emulated


def read_host(connect: str | None) -> Host:
    """Decide how guests are run here; the accelerator is chosen by running code (see nestctl.check).

    Raises `UsageError` when the connection that was asked for cannot be one.
    """
    uri = choose_uri(connect)
    choice = choose_accelerator()
    return Host(
        uri=uri,
        accelerator=choice.accelerator,
        cpu_feature=choice.cpu_feature,
        is_machine_emulated=choice.is_machine_emulated,
    )


@contextmanager
def open_connection(uri: str) -> Iterator[Hypervisor]:
    """Open this machine's libvirt, waiting for other nestctls that have its embedded driver open."""
    deadline = Deadline.after(_CONNECT_TIMEOUT_S, "Getting hold of this machine's libvirt")
    with open_hypervisor(uri, deadline=deadline) as hypervisor:
        yield hypervisor


def has_domains(uri: str) -> bool:
    """Tell whether a libvirt can have domains; the embedded driver without a directory has none, and gets none made."""
    return "/embed?root=" not in uri or Path(uri.partition("root=")[2]).is_dir()


def plan_on(host: Host, lab: Lab, domains: Iterable[Domain], networks: Iterable[Network] = ()) -> tuple[GuestPlan, ...]:
    """Plan a lab's guests on this machine, given the domains and networks that are there.

    A guest keeps the port it has and a lab its subnets, whatever has come to this machine since.
    """
    return plan_lab(lab, read_host_facts(host, lab, domains, tuple(networks)))


def read_host_facts(host: Host, lab: Lab, domains: Iterable[Domain], networks: tuple[Network, ...]) -> HostFacts:
    """Find out what planning has to know of this machine. Raises as `find_adopted`."""
    domains = tuple(domains)
    own = [it for it in domains if (mark := parse_mark(it.xml)) and mark.lab == lab.name]
    others = (subnet for network in networks for subnet in parse_network_subnets(network.xml))
    occupied = (*read_routes(), *others, *read_outer_subnets())
    images = locate_images(lab)
    image = images[lab.image]
    subnets = allocate_subnets(depth_of(lab.guests), occupied, _kept_subnets(lab.name, own))
    return HostFacts(
        place=host_place(
            lab_directory(lab.name),
            Path(image.directory),
            is_emulated=host.is_emulated,
            is_slow=host.is_slow,
            firmware=image.firmware,
        ),
        cpu_feature=host.cpu_feature,
        image_digest=image.identity,
        images=images,
        subnets=subnets,
        ports=_assign_ports(lab, own),
        occupied=select_pool(occupied),
        networks=allocate_networks(lab.networks, (*occupied, *subnets), _kept_networks(lab.name, networks)),
        own_addresses=read_local_addresses() if lab.networks else (),
        adopted=find_adopted(lab, domains),
    )


def _kept_networks(lab: str, networks: Iterable[Network]) -> dict[str, Subnet]:
    """Find the subnets of a lab's networks that are there, by their names in the lab."""
    kept = {}
    for network in networks:
        mark, subnet = parse_network_mark(network.xml), next(parse_network_subnets(network.xml), None)
        if mark and mark.lab == lab and mark.label and subnet:
            kept[mark.label] = subnet
    return kept


def _kept_subnets(lab: str, own: Iterable[Domain]) -> tuple[Subnet, ...]:
    """Find the subnets of the lab's levels in its domains: the longest list is the one of the deepest lab there was."""
    marks = (mark.subnets for domain in own if (mark := parse_mark(domain.xml)))
    longest = max((*marks, *(it.subnets for it in read_adoptions(lab))), key=len, default=())
    return tuple(parse_subnets("\n".join(longest)))


def _assign_ports(lab: Lab, own: Iterable[Domain]) -> Mapping[str, int]:
    ports: dict[str, int] = {}
    for domain in own:
        if (mark := parse_mark(domain.xml)) and (port := parse_forwarded_port(domain.xml)):
            ports[mark.name] = port
    taken = set(ports.values())
    for name, guest in lab.guests.items():
        if name not in ports and not guest.network and not guest.adopt:
            ports[name] = choose_port(lab.name, name, avoid=taken)
            taken.add(ports[name])
    return ports
