"""What planning has to know of the machine that runs a lab; `lab/host.py` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nestctl.lab.addresses import Subnet
from nestctl.lab.place import ImageFacts, Place


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A domain that somebody else made, and how its machine is reached.

    `ssh` is what the lab file says of that; `user`, `host` and `port` are what it stands for. `host_key` is the
    machine's own, an OpenSSH text, as it was known when the lab was let in; empty before.
    """

    domain: str
    uuid: str
    ssh: str
    user: str
    host: str
    port: int
    cpus: int
    memory_mib: int
    is_emulated: bool
    host_key: str = ""


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """What planning has to know of the host: `subnets` has one for each level, `occupied` are those of others.

    `place` and `image_digest` are those of the lab's image, `images` those that guests name themselves. `networks` has
    the subnet of each of the lab's networks by its name, `own_addresses` are the host's. `adopted` has the domains that
    guests adopt, by these guests' names.
    """

    place: Place
    cpu_feature: str
    image_digest: str
    subnets: tuple[Subnet, ...]
    ports: Mapping[str, int]
    occupied: tuple[Subnet, ...] = ()
    networks: Mapping[str, Subnet] = field(default_factory=dict)
    own_addresses: tuple[str, ...] = ()
    images: Mapping[str, ImageFacts] = field(default_factory=dict)
    adopted: Mapping[str, Adopted] = field(default_factory=dict)

    @property
    def image(self) -> ImageFacts:
        """The lab's image."""
        return ImageFacts(identity=self.image_digest, directory=self.place.base.parent, firmware=self.place.firmware)
