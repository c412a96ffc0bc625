"""A profile: what a guest's domain has to be like for the system in it. Each is a file of templates/profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_PROFILE = "kvm"


class Profile(BaseModel):
    """Settings of a domain by the name of what they are for.

    `answers` says whether the guest takes nestctl's seed and answers by SSH; else it is only started. `firmware`
    overrides the image's; `nesting` is what the guest is given when its lab file says nothing. `cpu_flags` and
    `parameters` are what the host should have for it: flags of /proc/cpuinfo by the virtualization extension, and
    values of module parameters. `cpu`, `features`, `timers` and `devices` are XML that is put into those elements of
    the domain, as Jinja2 templates of the guest's plan.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    answers: bool = True
    firmware: Literal["", "bios", "efi", "efi-secure"] = ""
    disk: Literal["virtio", "sata"] = "virtio"
    nic: Literal["virtio", "e1000e", "vmxnet3"] = "virtio"
    nesting: bool | None = None
    cpu_flags: Mapping[str, tuple[str, ...]] = {}
    parameters: Mapping[Annotated[str, Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$")], str] = {}
    clock: Literal["utc", "localtime"] = "utc"
    cpu: str = ""
    features: str = ""
    timers: str = ""
    devices: str = ""
