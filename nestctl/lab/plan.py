"""From a lab and the facts of its host to the guests that are to exist: every name, path, address and digest.

Pure: the same lab and facts give the same plan. A plan is a tree like the lab, and a value that can be printed.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from nestctl.lab.host_facts import Adopted, HostFacts
from nestctl.lab.network_plan import UUID_NAMESPACE, NetworkPlan, network_inside, plan_lab_network
from nestctl.lab.place import (
    Base,
    ImageFacts,
    Origin,
    Place,
    list_bases,
    list_images_inside,
    place_inside,
    place_inside_adopted,
    place_of,
)
from nestctl.lab.profiles import find_profile
from nestctl.lab.uplink import Uplink, plan_outermost_uplinks, plan_uplink_inside
from nestctl.model.lab import Guest, Lab
from nestctl.model.profile import DEFAULT_PROFILE
from nestctl.model.quota import Quota
from nestctl.model.seed import Seed
from nestctl.model.tuning import Tuning

# Raised when a guest made by an older nestctl is no longer what this one would make.
PLAN_VERSION = 4


@dataclass(frozen=True, kw_only=True)
class Contact:
    """How to reach a guest: by a `port` of `host`, or by `address` from the machine that runs it.

    `host_key` is that of a machine that nestctl did not make; of the others it has the keys. `user` is root, but for
    such a machine.
    """

    lab: str
    name: str
    level: int
    domain: str
    address: str
    port: int
    console: PurePosixPath
    host: str = "127.0.0.1"
    host_key: str = ""
    user: str = "root"


@dataclass(frozen=True, kw_only=True)
class GuestPlan:
    """A guest that is to exist. `level` counts from 1 for a guest of this machine.

    `settings` is what it is compared by with the guest that is there, `digest` their name. `subnets` are those of all
    levels of the lab, `occupied` those of others further out. An `adopted` one is only gone into, and gets the `images`
    of the guests inside it.
    """

    lab: str
    name: str
    level: int
    domain: str
    uuid: str
    cpus: int
    memory_mib: int
    disk_gib: int
    image: str
    bases: tuple[Base, ...]
    profile: str
    answers: bool
    cdrom: str
    place: Place
    uplink: Uplink
    cpu_feature: str
    network: NetworkPlan | None
    is_hypervisor: bool
    is_nesting_denied: bool
    cpu_model: str
    cpu_features_off: tuple[str, ...]
    kernel_args: tuple[str, ...]
    contents: Seed
    quota: Quota
    tuning: Tuning
    subnets: tuple[str, ...]
    occupied: tuple[str, ...]
    guests: tuple[GuestPlan, ...]
    settings: Mapping[str, Any]
    adopted: Adopted | None = None
    images: tuple[ImageFacts, ...] = ()

    def with_address(self, address: str) -> GuestPlan:
        """Plan the same guest at another address."""
        if address == self.uplink.address:
            return self
        uplink = replace(self.uplink, address=address)
        return replace(self, uplink=uplink, settings={**self.settings, "address": address})

    @property
    def digest(self) -> str:
        """Sixteen digits that name its settings, for its domain's metadata."""
        return digest_of(self.settings)[:16]

    @property
    def disk(self) -> PurePosixPath:
        """Its disk, an overlay, on the machine that runs it."""
        return self.place.directory / f"{self.name}.qcow2"

    @property
    def seed(self) -> PurePosixPath:
        """Its seed there: a tar for images that nestctl builds, a NoCloud ISO image for imported ones."""
        return self.place.directory / f"{self.name}.seed.{'iso' if self.place.firmware else 'tar'}"

    @property
    def console(self) -> PurePosixPath:
        """The log of its serial console there; QEMU's account writes it."""
        return self.place.directory / f"{self.name}.console.log"

    @property
    def contact(self) -> Contact:
        """How it is reached, without what it is made of."""
        return Contact(
            lab=self.lab,
            name=self.name,
            level=self.level,
            domain=self.domain,
            address=self.uplink.address,
            port=self.uplink.port,
            console=self.console,
            host=self.uplink.host,
            host_key=self.adopted.host_key if self.adopted else "",
            user=self.adopted.user if self.adopted else "root",
        )


def plan_lab(lab: Lab, host: HostFacts) -> tuple[GuestPlan, ...]:
    """Plan every guest of a lab. `host.subnets` has one subnet for each level, outermost first."""
    uplinks = plan_outermost_uplinks(lab, host)
    return tuple(
        _plan_guest(lab.name, name, guest, 1, Origin(image=host.image, place=host.place), uplinks[name], host)
        for name, guest in lab.guests.items()
    )


def plan_networks(lab: Lab, host: HostFacts) -> tuple[NetworkPlan, ...]:
    """Plan the networks of this machine that a lab has, each with its filter."""
    return tuple(
        plan_lab_network(lab.name, label, network, host.networks[label], host.own_addresses)
        for label, network in lab.networks.items()
    )


def depth_of(guests: Mapping[str, Guest]) -> int:
    """How many levels a tree of guests has."""
    return max((1 + depth_of(guest.guests) for guest in guests.values()), default=0)


def walk_plans(plans: tuple[GuestPlan, ...]) -> Iterator[GuestPlan]:
    """Yield every plan, each before those inside it."""
    for plan in plans:
        yield plan
        yield from walk_plans(plan.guests)


def _plan_guest(
    lab: str, name: str, guest: Guest, level: int, outer: Origin, uplink: Uplink, host: HostFacts
) -> GuestPlan:
    adopted = host.adopted.get(name) if level == 1 else None
    image = host.images[guest.image] if guest.image else outer.image
    place = place_of(image, outer, level)
    answers = find_profile(guest.profile).answers
    inside = Origin(image=image, place=place_inside(lab, place))
    if adopted:
        place = replace(place, firmware="", is_emulated=adopted.is_emulated)
        inside = Origin(image=image, place=place_inside_adopted(lab, place), is_adopted=True)
    network = network_inside(lab, name, level, host.subnets[level]) if guest.guests else None
    guests = tuple(
        _plan_guest(
            lab,
            inner,
            settings,
            level + 1,
            inside,
            plan_uplink_inside(lab, inner, index, level, network, uplink, host),
            host,
        )
        for index, (inner, settings) in enumerate(guest.guests.items())
        if network
    )
    return GuestPlan(
        lab=lab,
        name=name,
        level=level,
        domain=adopted.domain if adopted else f"{lab}-{name}",
        uuid=adopted.uuid if adopted else str(uuid.uuid5(UUID_NAMESPACE, f"nestctl/{lab}/{name}")),
        cpus=adopted.cpus if adopted else guest.cpus,
        memory_mib=adopted.memory_mib if adopted else guest.memory_mib,
        disk_gib=guest.disk_gib,
        image=image.identity,
        bases=tuple(list_bases(guest, image, outer, level, host.images))
        if guest.is_hypervisor and answers and not adopted
        else (),
        profile=guest.profile,
        answers=answers,
        cdrom=guest.cdrom,
        place=place,
        uplink=uplink,
        cpu_feature=host.cpu_feature,
        network=network,
        is_hypervisor=guest.is_hypervisor,
        is_nesting_denied=guest.nesting is False,
        cpu_model=guest.cpu_model,
        cpu_features_off=guest.cpu_features_off,
        kernel_args=guest.kernel_args,
        contents=guest.seed,
        quota=guest.quota,
        tuning=guest.tuning,
        subnets=tuple(str(subnet) for subnet in host.subnets),
        occupied=tuple(str(subnet) for subnet in dict.fromkeys((*host.occupied, *host.networks.values()))),
        guests=guests,
        settings=settings_of_adopted(adopted) if adopted else _settings(guest, image, place, uplink),
        adopted=adopted,
        images=list_images_inside(guest, image, host.images) if adopted else (),
    )


def settings_of_adopted(adopted: Adopted) -> Mapping[str, Any]:
    """List what makes an adopted guest another one."""
    return {"domain": adopted.domain, "ssh": adopted.ssh}


def _settings(guest: Guest, image: ImageFacts, place: Place, uplink: Uplink) -> Mapping[str, Any]:
    """List what makes a guest another one when it changes, by names that people know; the forwarded port does not.

    A seed may hold secrets: it is named by its digest.
    """
    nesting = "denied" if guest.nesting is False else "on" if guest.is_hypervisor else "off"
    return {
        "version": PLAN_VERSION,
        "image": image.identity[:16],
        "accelerator": "tcg" if place.is_emulated else "kvm",
        "cpus": guest.cpus,
        "memory_mib": guest.memory_mib,
        "disk_gib": guest.disk_gib,
        "nesting": nesting,
        "kernel_args": " ".join(guest.kernel_args),
        # Left out where they are nothing special: guests that are there already were made without.
        **({"profile": guest.profile} if guest.profile != DEFAULT_PROFILE else {}),
        **({"cdrom": guest.cdrom} if guest.cdrom else {}),
        "labels": dict(guest.labels),
        "seed": "" if guest.seed.is_empty else digest_of(guest.seed.model_dump(mode="json"))[:16],
        "mac": uplink.mac,
        "address": uplink.address,
        "gateway": uplink.gateway,
        "subnet": uplink.subnet,
        "dns": uplink.dns,
        "network": uplink.network,
        # Guests that have none of these are what they were before there were any.
        **({"cpu_model": guest.cpu_model} if guest.cpu_model else {}),
        **({"cpu_features_off": " ".join(guest.cpu_features_off)} if guest.cpu_features_off else {}),
        **({"quota": guest.quota.given()} if not guest.quota.is_empty else {}),
        **({"tuning": guest.tuning.given()} if not guest.tuning.is_empty else {}),
        **({"filter": uplink.filter} if uplink.filter else {}),
        **({"isolated": True} if uplink.is_isolated else {}),
        **({"closed": True} if uplink.is_closed else {}),
    }


def digest_of(value: Any) -> str:
    """SHA-256 of a value of JSON's, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
