"""A lab: a tree of guests. Depth is data: a guest that has guests is a hypervisor, and nothing else is special."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from nestctl.model.adopt import Adopt
from nestctl.model.duration import DURATION
from nestctl.model.network import Forward, Network
from nestctl.model.profile import DEFAULT_PROFILE
from nestctl.model.quota import QEMU_RESERVE_MIB, Quota
from nestctl.model.seed import Seed
from nestctl.model.tuning import Tuning

# A DNS label (RFC 1123), short enough that '<lab>-<guest>' fits a host name and a UNIX socket path of libvirt's.
NAME_PATTERN = r"^[a-z]([a-z0-9-]{0,22}[a-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]

# What a guest that is a hypervisor needs beside its guests' memory: its own system (230 MiB, measured) and QEMU's.
HYPERVISOR_RESERVE_MIB = 512

# As many as get an address in a /24 beside the gateway's; the guests of this machine have a network each.
MOST_GUESTS = 200
MOST_OUTERMOST = 5000

# A word of the kernel's command line: printable, without spaces, which separate them.
KernelArgument = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]


def _is_no_matter_of_nesting(feature: str) -> str:
    if feature in {"vmx", "svm"}:
        raise ValueError(f"'{feature}' is what 'nesting' gives and takes away")
    return feature


CpuFeature = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,40}$"), AfterValidator(_is_no_matter_of_nesting)
]
LabelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")]


# What the image that is made from this machine's package sources is called, for a guest inside one that has another.
BUILT = "built"

# An empty disk, for a system that is installed from a CD.
BLANK = "blank"

# NAME, or NAME@ALGORITHM:HEX as container images are pinned.
IMAGE_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127}(@(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?)?$"
ImageReference = Annotated[str, Field(pattern=IMAGE_PATTERN)]

# What the guest of a lab file has in common with the guest that it is written out to.
GuestNetwork = Annotated[
    str,
    Field(
        description="One of the lab's networks, for a guest of this machine. When empty, QEMU's user-mode network: "
        "a forwarded port of this machine's leads to the guest."
    ),
]
Adoptable = Annotated[
    Adopt | None,
    Field(description="A domain that is there already, in place of one that is made; it has no other settings."),
]
GuestForward = Annotated[
    Forward | None,
    Field(
        description="What QEMU's user-mode network lets a guest of this machine reach, with all inside it. 'nat': the "
        "world, and what listens on this machine's loopback, other guests' SSH ports among it. 'none': nothing; its "
        "own SSH port works. By default 'nat', and 'none' in a lab of untrusted guests."
    ),
]


class Settings(BaseModel):
    """What one guest is like, apart from the guests inside it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    cpus: Annotated[int, Field(ge=1, le=255, description="Virtual CPUs.")] = 1
    memory_mib: Annotated[
        int,
        Field(
            ge=256,
            le=16_777_216,
            description="Memory in MiB. A guest that has guests needs what they need together, and "
            f"{HYPERVISOR_RESERVE_MIB} MiB more.",
        ),
    ] = 1024
    disk_gib: Annotated[
        int,
        Field(
            ge=2, le=65_536, description="Size of the disk in GiB. It is an overlay: space is taken as it is written."
        ),
    ] = 8
    image: Annotated[
        ImageReference,
        Field(
            description="The image that it boots, and so do the guests inside it. When empty, that of the guest it is "
            "in, or the lab's.",
        ),
    ] = ""
    profile: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9-]{0,30}$",
            description="What its hardware has to be like for the system in it: kvm (Linux), windows, hyper-v, vmware. "
            "Guests of the last three are only started: nestctl does not log in to them.",
        ),
    ] = DEFAULT_PROFILE
    cdrom: Annotated[
        str,
        Field(
            pattern=r"^(/[^\x00-\x1f]{1,1000})?$",
            description="Path of an ISO image on the machine that runs the guest. It boots from it while nothing on "
            "its disk boots: 'image: blank' is an empty disk to install on.",
        ),
    ] = ""
    nesting: Annotated[
        bool | None,
        Field(
            description="Whether the guest can run guests itself. By default it can if it has guests here; 'true' "
            "makes it a hypervisor for guests that are made by hand, 'false' takes VMX or SVM away from it."
        ),
    ] = None
    cpu_model: Annotated[
        str,
        StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,40})?$"),
        Field(
            description="A CPU model of libvirt's, such as EPYC-Rome ('virsh cpu-models x86_64'). When empty, the CPU "
            "of the machine that runs it, or all that QEMU can emulate."
        ),
    ] = ""
    cpu_features_off: Annotated[
        tuple[CpuFeature, ...],
        Field(
            strict=False,
            max_length=50,
            description="Features to take away from its CPU, as libvirt calls them: avx2, npt. 'nesting' is for VMX "
            "and SVM.",
        ),
    ] = ()
    kernel_args: Annotated[
        tuple[KernelArgument, ...],
        Field(strict=False, max_length=50, description="Words to add to the command line of the guest's kernel."),
    ] = ()
    labels: Annotated[
        Mapping[LabelName, LabelValue],
        Field(max_length=50, description="Names and values of your own, kept with the domain: a course, an owner."),
    ] = {}
    quota: Annotated[Quota, Field(description="What it may take of the machine that runs it.")] = Quota()
    tuning: Annotated[
        Tuning, Field(description="How its QEMU is set up; 'nestctl bench tune' finds out what helps here.")
    ] = Tuning()
    seed: Annotated[
        Seed, Field(description="What is put into the guest, and run there once, before it says that it is ready.")
    ] = Seed()


class Guest(Settings):
    """A guest and the guests inside it."""

    guests: Annotated[
        Mapping[Name, Guest],
        Field(max_length=MOST_GUESTS, description="The guests inside this guest, by name; it is a hypervisor then."),
    ] = {}

    network: GuestNetwork = ""
    forward: GuestForward = None
    adopt: Adoptable = None

    @property
    def is_hypervisor(self) -> bool:
        """Tell whether it is given VMX or SVM: because it has guests, is adopted, or 'nesting' says so."""
        if self.adopt:
            return True
        return bool(self.guests) if self.nesting is None else self.nesting

    @model_validator(mode="after")
    def _nesting_is_on_for_guests(self) -> Self:
        if self.guests and not self.is_hypervisor:
            raise ValueError("it has guests, and 'nesting: false' keeps it from running any")
        return self

    @model_validator(mode="after")
    def _every_vcpu_has_its_pin(self) -> Self:
        if (pins := len(self.tuning.vcpu_pins)) not in {0, self.cpus}:
            raise ValueError(f"its tuning's vcpu_pins are {pins}, and it has {self.cpus} cpus: give one for each")
        return self

    @model_validator(mode="after")
    def _memory_limit_has_room(self) -> Self:
        limit_mib, needed_mib = self.quota.memory_limit_mib, self.memory_mib + QEMU_RESERVE_MIB
        if limit_mib is not None and limit_mib < needed_mib:
            raise ValueError(
                f"its quota's memory_limit_mib of {limit_mib} would end it: it needs its memory_mib of "
                f"{self.memory_mib}, and QEMU up to {QEMU_RESERVE_MIB} MiB more: give {needed_mib} or more"
            )
        return self

    @model_validator(mode="after")
    def _only_the_outermost_are_on_networks(self) -> Self:
        if on := [name for name, guest in self.guests.items() if guest.network]:
            raise ValueError(
                f"'{on[0]}' inside it has a 'network': that is for guests of this machine; what is inside a guest is "
                "on a network of that guest's"
            )
        if closed := [name for name, guest in self.guests.items() if guest.forward]:
            raise ValueError(
                f"'{closed[0]}' inside it has 'forward': that is for guests of this machine, and holds for all inside"
            )
        if adopted := [name for name, guest in self.guests.items() if guest.adopt]:
            raise ValueError(f"'{adopted[0]}' inside it has 'adopt': only a domain of this machine can be adopted")
        return self

    @model_validator(mode="after")
    def _one_network_says_what_is_reached(self) -> Self:
        if self.network and self.forward:
            raise ValueError(f"it is on the network '{self.network}', whose own 'forward' holds: leave one out")
        return self

    @model_validator(mode="after")
    def _guests_fit(self) -> Self:
        needed_mib = sum(guest.memory_mib for guest in self.guests.values())
        if self.guests and not self.adopt and needed_mib + HYPERVISOR_RESERVE_MIB > self.memory_mib:
            raise ValueError(
                f"its guests need {needed_mib} MiB and it needs {HYPERVISOR_RESERVE_MIB} MiB itself, "
                f"which is more than its memory_mib of {self.memory_mib}"
            )
        return self


Ttl = Annotated[
    str,
    Field(
        pattern=rf"^({DURATION})?$",
        description="How long the lab is to be there, from its first 'up' on, in seconds to days: 90m, 1.5h, 14d. "
        "'nestctl expire' sees to it. When empty, for as long as nobody removes it.",
    ),
]
OnExpiry = Annotated[
    Literal["stop", "delete"],
    Field(description="What becomes of it then: stop its guests ('up' starts them again), or delete all of it."),
]


Trust = Annotated[
    Literal["own", "untrusted"],
    Field(
        description="Whose guests these are: your own, or of people who may attack this machine and each other. "
        "Untrusted guests get no way out but their networks, and what 'nestctl check --untrusted' finds here is shown, "
        "and has to be accepted before they may nest."
    ),
]
AcceptedRisks = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=r"^safety\.[a-z0-9_]{1,40}$")], ...],
    Field(
        strict=False,
        max_length=50,
        description="Findings of 'nestctl check --untrusted', such as safety.smt, that you have looked at and accept.",
    ),
]
LabImage = Annotated[
    ImageReference,
    Field(
        description="The image of the guests that name none: a name of 'nestctl image list' or its beginning, an "
        "imported one's also with its digest, as in debian-12@sha256:HEX. When empty, or 'built', the one that is "
        "built from this machine's package sources; 'blank' is an empty disk.",
    ),
]


class Lab(BaseModel):
    """A lab with every guest written out: what a lab file declares, expanded (see nestctl.lab.expand)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[Name, Field(description="The lab's name. A guest's domain is called LAB-GUEST.")]
    image: LabImage = ""
    ttl: Ttl = ""
    on_expiry: OnExpiry = "stop"
    trust: Trust = "own"
    accepted_risks: AcceptedRisks = ()
    networks: Annotated[
        Mapping[Name, Network],
        Field(max_length=MOST_GUESTS, description="Networks for guests of this machine, by name."),
    ] = {}
    guests: Annotated[
        Mapping[Name, Guest],
        Field(
            min_length=1,
            max_length=MOST_OUTERMOST,
            description="The guests of this machine, by name. A guest's name is unique in the whole lab.",
        ),
    ]

    def is_closed(self, guest: Guest) -> bool:
        """Tell whether a guest of this machine is on QEMU's user-mode network and reaches nothing through it."""
        if guest.network or guest.adopt:
            return False
        return self.trust == "untrusted" or guest.forward == "none"

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        seen: set[str] = set()
        for name, _ in walk_guests(self.guests):
            if name in seen:
                raise ValueError(f"two guests are called '{name}'; a guest's name is unique in the whole lab")
            seen.add(name)
        return self

    @model_validator(mode="after")
    def _adopted_guests_are_somebody_elses(self) -> Self:
        adopted = [guest.adopt.domain for guest in self.guests.values() if guest.adopt]
        if twice := {domain for domain in adopted if adopted.count(domain) > 1}:
            raise ValueError(f"two guests adopt the domain '{min(twice)}'")
        if adopted and self.ttl:
            raise ValueError("it has a 'ttl', and nestctl does not end a domain that it has adopted: leave one out")
        if adopted and self.trust == "untrusted":
            raise ValueError(
                "its guests are 'untrusted', and nestctl cannot keep a domain apart that somebody else made: leave "
                "'adopt' or 'trust' out"
            )
        return self

    @model_validator(mode="after")
    def _untrusted_guests_are_let_out_by_networks(self) -> Self:
        if self.trust == "untrusted" and (out := [it for it, guest in self.guests.items() if guest.forward == "nat"]):
            raise ValueError(
                f"its guests are 'untrusted', and '{out[0]}' has 'forward: nat', with which it reaches this machine's "
                "loopback: give it a 'network'"
            )
        return self

    @model_validator(mode="after")
    def _packages_can_be_fetched(self) -> Self:
        for outer, guest in self.guests.items():
            wanting = [name for name, it in walk_guests({outer: guest}) if it.seed.packages]
            if wanting and self.is_closed(guest):
                raise ValueError(
                    f"the seed of '{wanting[0]}' has 'packages', and '{outer}' has no way out to fetch them: give it "
                    "'forward: nat' or a 'network'"
                )
        return self

    @model_validator(mode="after")
    def _networks_are_there(self) -> Self:
        for name, guest in self.guests.items():
            if guest.network and guest.network not in self.networks:
                known = ", ".join(self.networks) or "none"
                raise ValueError(f"the guest '{name}' is on the network '{guest.network}'; 'networks' has {known}")
            if guest.quota.has_network and not guest.network:
                raise ValueError(
                    f"the guest '{name}' has a quota of network throughput, and QEMU's user-mode network knows none: "
                    "give it a 'network'"
                )
        return self


def walk_guests(guests: Mapping[str, Guest]) -> Iterator[tuple[str, Guest]]:
    """Yield every guest with its name, each before the guests inside it."""
    for name, guest in guests.items():
        yield name, guest
        yield from walk_guests(guest.guests)
