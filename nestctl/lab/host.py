"""What this machine is as the host of labs: which connection, which accelerator, what is in the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nestctl.adapters.libvirt import Domain, Hypervisor, choose_uri, open_hypervisor
from nestctl.check import choose_accelerator
from nestctl.deadline import Deadline
from nestctl.errors import PrerequisiteError
from nestctl.image.build import ensure_image
from nestctl.image.recipe import read_recipe
from nestctl.image.store import find_image, images_directory, verify_image
from nestctl.lab.addresses import allocate_subnets, choose_port, read_routes
from nestctl.lab.level import Step
from nestctl.lab.plan import GuestPlan, HostFacts, depth_of, host_place, plan_lab
from nestctl.lab.render import parse_forwarded_port, parse_mark
from nestctl.lab.store import lab_directory
from nestctl.model.facts import Accelerator
from nestctl.model.lab import Lab

_BUILD_TIMEOUT_S = 1800.0

# Others may be at work on the same embedded driver: `up` has it open for as long as guests boot.
_CONNECT_TIMEOUT_S = 1800.0

# Beside a guest's memory QEMU needs some of its own; under TCG its translated code most of all.
_QEMU_OVERHEAD_MIB = 128


@dataclass(frozen=True, kw_only=True)
class Host:
    """What was decided about this machine. `cpu_feature` is what a guest needs to run guests: 'vmx' or 'svm'."""

    uri: str
    accelerator: Accelerator
    cpu_feature: str
    is_machine_emulated: bool = False

    @property
    def is_emulated(self) -> bool:
        return self.accelerator is Accelerator.TCG

    @property
    def is_slow(self) -> bool:
        """Tell whether guests boot as slowly as emulated ones: they are, or the machine whose KVM runs them is."""
        return self.is_emulated or self.is_machine_emulated


def read_host(connect: str | None) -> Host:
    """Decide how guests are run here; the accelerator is chosen by running code (see nestctl.check)."""
    choice = choose_accelerator()
    return Host(
        uri=choose_uri(connect),
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


def locate_image(lab: Lab) -> tuple[Path, str]:
    """Say where a lab's image is, or will be once it is built, and the digest of its recipe. Touches nothing."""
    if lab.image:
        image = find_image(lab.image)
        return image.directory, image.manifest.recipe_digest
    recipe = read_recipe()
    return images_directory() / recipe.name, recipe.digest


def ensure_lab_image(lab: Lab, step: Step) -> None:
    """Have a lab's image there and whole: build the default one if it is missing, verify it in any case."""
    if not lab.image and not locate_image(lab)[0].exists():
        with step("Building the guest image (once; about a minute)"):
            ensure_image(read_recipe(), deadline=Deadline.after(_BUILD_TIMEOUT_S, "Building the image"))
    verify_image(find_image(lab.image or read_recipe().name))


def plan_on(host: Host, lab: Lab, domains: Iterable[Domain]) -> tuple[GuestPlan, ...]:
    """Plan a lab on this machine, given the domains that are there: a guest keeps the port it has."""
    image_directory, image_digest = locate_image(lab)
    facts = HostFacts(
        place=host_place(lab_directory(lab.name), image_directory, is_emulated=host.is_emulated),
        cpu_feature=host.cpu_feature,
        image_digest=image_digest,
        subnets=allocate_subnets(depth_of(lab.guests), read_routes()),
        ports=_assign_ports(lab, domains),
    )
    return plan_lab(lab, facts)


def check_memory(plans: Iterable[GuestPlan], path: Path = Path("/proc/meminfo")) -> None:
    """Raise `PrerequisiteError` when this machine has not the memory for guests that are to start."""
    needed = {plan.name: plan.memory_mib + _QEMU_OVERHEAD_MIB for plan in plans}
    available_mib = parse_available_mib(path.read_text())
    if available_mib is not None and sum(needed.values()) > available_mib:
        sums = " + ".join(f"{name} {mib}" for name, mib in needed.items())
        raise PrerequisiteError(
            f"The guests need {sum(needed.values())} MiB ({sums}), and this machine has {available_mib} MiB available.",
            hint="Lower memory_mib in the lab file, or stop other guests.",
        )


def parse_available_mib(meminfo: str) -> int | None:
    """Find MemAvailable in /proc/meminfo (kB there), in MiB."""
    for line in meminfo.splitlines():
        if found := re.match(r"MemAvailable:\s*(\d{1,18}) kB", line):
            return int(found[1]) // 1024
    return None


def _assign_ports(lab: Lab, domains: Iterable[Domain]) -> Mapping[str, int]:
    ports: dict[str, int] = {}
    for domain in domains:
        mark = parse_mark(domain.xml)
        port = parse_forwarded_port(domain.xml)
        if mark and mark.lab == lab.name and port:
            ports[mark.name] = port
    for name in lab.guests:
        if name not in ports:
            ports[name] = choose_port(lab.name, name, avoid=ports.values())
    return ports
