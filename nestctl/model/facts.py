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
    """Something that was found out; the opposite is `Unknown`."""

    value: T


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """Why something is not known; `error` is the name of the system's error, such as 'EACCES', if it was one."""

    reason: str
    error: str = ""


Fact: TypeAlias = Known[T] | Unknown


@dataclass(frozen=True, kw_only=True)
class Device:
    """The node /dev/kvm, as `ls -l` shows it; whether this process is in its group, and whether the user should be."""

    mode: str
    owner: str
    group: str
    is_in_group: bool = False
    is_member: bool = False


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module of the kernel; `parameters` as the kernel prints them, those that could be read.

    `users` counts who keeps it loaded; None where the kernel does not say.
    """

    name: str
    is_built_in: bool
    parameters: Mapping[str, str]
    users: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModuleSetting:
    """A line of modprobe.d: `kind` is 'options', 'blacklist' or 'install'."""

    file: str
    kind: str
    module: str
    text: str


@dataclass(frozen=True, kw_only=True)
class KvmUsers:
    """Processes that hold KVM's files open, as 'name (pid)'; not all of them where some could not be looked at."""

    processes: tuple[str, ...]
    is_complete: bool


@dataclass(frozen=True, kw_only=True)
class HugePages:
    """The pages of one size that the kernel has reserved: all, and those that are free."""

    total: int
    free: int
    size_kib: int


@dataclass(frozen=True, kw_only=True)
class Container:
    """The container this runs in; the name is '' where nothing shows one."""

    name: str
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """QEMU or libvirt: where it is, and its version and package where the packages' files say them; '' is 'not'."""

    version: str
    package: str
    program: str


@dataclass(frozen=True, kw_only=True)
class EmulatorCapabilities:
    """What libvirt has written down of an emulator: `features` are 'vmx', 'svm' that a guest with KVM would get.

    `architecture` is that of its guests, '' where it was not recorded. `supports_nesting` is what KVM's module had as
    `nested` when libvirt looked.
    """

    emulator: str
    architecture: str
    has_kvm: bool
    supports_nesting: bool
    features: frozenset[str]


Registers: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Cpuid:
    """What the instruction CPUID itself shows; `signatures` name the hypervisors above, nearest leaf first.

    `leaves` are the raw registers (eax, ebx, ecx, edx) of those leaves that were kept.
    """

    vendor: str
    has_vmx: bool
    has_svm: bool
    is_guest: bool
    signatures: tuple[str, ...]
    leaves: Mapping[int, Registers]


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
        """Nanoseconds for one turn of the loop."""
        return self.elapsed_ns / self.turns


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """ID and VERSION_ID of os-release(5); '' where it does not have one."""

    id: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Changelog:
    """The CVEs that the changelogs of the running kernel's package name; `is_complete` where they were read whole."""

    files: tuple[str, ...]
    is_complete: bool
    cves: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class SafetyFacts:
    """What bears on whether guests of strangers are safe here.

    `kernel_banner` is /proc/version without who built it; `kernel_signature` only Ubuntu's kernels have.
    `cpu_vulnerabilities` is what the kernel says of each flaw of the CPU it knows. `ksm_run` is 1 where pages of
    different guests are merged.
    """

    kernel_banner: Fact[str]
    kernel_signature: Fact[str]
    distribution: Fact[Distribution]
    live_patches: Fact[tuple[str, ...]]
    fixed_cves: Fact[Changelog]
    cpu_vulnerabilities: Fact[Mapping[str, str]]
    smt_active: Fact[bool]
    smt_control: Fact[str]
    ksm_run: Fact[int]


@dataclass(frozen=True, kw_only=True)
class NestedRun:
    """A guest of a guest that ran, or why it did not: `failure` is empty where every exit was as it has to be.

    `exits` and `elapsed_ns` are those of the quickest run; `feature` is 'vmx' or 'svm'.
    """

    feature: str
    is_paging_nested: bool
    exits: int
    elapsed_ns: int
    exits_of_all_runs: int
    failure: str

    @property
    def ns_per_exit(self) -> float:
        """Nanoseconds from one exit of the inner guest to the next."""
        return self.elapsed_ns / self.exits


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything the check judges about one machine.

    Of the registers, `vmx_msrs` are what a guest would read, `msr_...` what this machine's own CPU 0 shows.
    """

    architecture: Fact[str]
    kernel: Fact[str]
    cpu_model: Fact[str]
    cpu_flags: Fact[frozenset[str]]
    cpu_count: Fact[int]
    memory_mib: Fact[int]
    memory_available_mib: Fact[int]
    swap_mib: Fact[int]
    huge_pages: Fact[HugePages]
    cpu_platform: Fact[str]
    modules: Fact[Mapping[str, Module]]
    module_files: Fact[Mapping[str, str]]
    module_settings: Fact[tuple[ModuleSetting, ...]]
    boot_line: Fact[tuple[str, ...]]
    kvm_users: Fact[KvmUsers]
    other_hypervisors: Fact[Mapping[str, tuple[str, ...]]]
    dmi: Fact[Mapping[str, str]]
    smbios_is_guest: Fact[bool]
    device_tree_hypervisor: Fact[str]
    s390_hypervisor: Fact[str]
    is_xen_dom0: Fact[bool]
    container: Fact[Container]
    lockdown: Fact[str]
    secure_boot: Fact[bool]
    qemu: Fact[Program]
    libvirt: Fact[Program]
    libvirt_capabilities: Fact[tuple[EmulatorCapabilities, ...]]
    disk_available_mib: Fact[int]
    shared_memory_mib: Fact[int]
    kernel_log: Fact[tuple[str, ...]]
    msr_feature_control: Fact[int]
    msr_vmx_basic: Fact[int]
    msr_vm_cr: Fact[int]
    qemu_version: Fact[str]
    libvirt_version: Fact[str]
    cpuid: Fact[Cpuid]
    device: Fact[Device]
    api_version: Fact[int]
    offers: Fact[Offers]
    loop: Fact[Timing]
    cpuid_exit: Fact[Timing]
    nested_run: Fact[NestedRun]
    capabilities: Fact[Mapping[str, int]]
    supported_cpuid: Fact[Mapping[str, Registers]]
    vmx_msrs: Fact[Mapping[int, Fact[int]]]
    safety: SafetyFacts
