"""What is known about a machine as a host of guests: values, or unknown with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")


class Accelerator(StrEnum):
    """How a lab's outermost guests run."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True)
class Known(Generic[T]):
    value: T


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """Why something is not known; `error` is the name of the system's error, such as 'EACCES', if it was one."""

    reason: str
    error: str = ""


Fact: TypeAlias = Known[T] | Unknown


@dataclass(frozen=True, kw_only=True)
class Device:
    """The node /dev/kvm, as `ls -l` shows it."""

    mode: str
    owner: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module of the kernel; `parameters` as the kernel prints them, those that could be read."""

    name: str
    is_built_in: bool
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Cpuid:
    """What the instruction CPUID itself shows; `signatures` name the hypervisors above, nearest leaf first."""

    vendor: str
    has_vmx: bool
    has_svm: bool
    is_guest: bool
    signatures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Offers:
    """What KVM would give to a guest (KVM_GET_SUPPORTED_CPUID)."""

    vmx: bool
    svm: bool


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A loop of a micro-guest, timed from outside."""

    turns: int
    elapsed_ns: int

    @property
    def ns_per_turn(self) -> float:
        return self.elapsed_ns / self.turns


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything the check judges about one machine."""

    architecture: Fact[str]
    kernel: Fact[str]
    cpu_model: Fact[str]
    cpu_flags: Fact[frozenset[str]]
    cpu_count: Fact[int]
    memory_mib: Fact[int]
    memory_available_mib: Fact[int]
    modules: Fact[Mapping[str, Module]]
    cpuid: Fact[Cpuid]
    device: Fact[Device]
    api_version: Fact[int]
    offers: Fact[Offers]
    loop: Fact[Timing]
    cpuid_exit: Fact[Timing]
