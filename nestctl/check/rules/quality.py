"""How good would nesting be: what guests' VMX or SVM can do, saving and migrating, and room for a lab. Pure."""

from __future__ import annotations

from nestctl.check.features import AMD_FEATURES, INTEL_FEATURES
from nestctl.check.findings import Finding, Status
from nestctl.check.questions import find_backend, offered_feature
from nestctl.check.rules.common import Rule, parse_numbers, unknown_finding
from nestctl.check.settings import read_bool
from nestctl.model.facts import Fact, Facts, Known, Program, Unknown

# Beside a guest's memory QEMU needs some of its own; under TCG its translated code most of all.
QEMU_OVERHEAD_MIB = 128

# What the smallest lab takes: an L1 with room for an L2 (templates/labs/single.yaml), its image and its disks.
LAB_MEMORY_MIB = 2048 + QEMU_OVERHEAD_MIB
LAB_DISK_MIB = 4096
LAB_CPUS = 2

# Saving and migrating an L1 that runs guests: running-nested-guests.rst, "Migration from L0 to L0".
SAVE_KERNEL, SAVE_QEMU = (5, 3), (4, 2)
# QEMU's TCG emulates SVM with nested paging since 3.1, which labs need where there is no hardware (target/i386).
# libvirt checks what it is given as a network since 7.7 (virNetworkDefineXMLFlags), and knows 'maximum' CPUs since 7.1.
OLDEST_QEMU, OLDEST_LIBVIRT = (5, 0), (7, 7)


def find_features_unknown(facts: Facts) -> Finding | None:
    """Say that the features below could not be looked at."""
    feature = offered_feature(facts)
    answer = facts.vmx_msrs if feature == "vmx" else facts.supported_cpuid
    if not feature or not isinstance(answer, Unknown):
        return None
    return unknown_finding("nested.features", f"what the {feature.upper()} of a guest can do", answer)


def find_nested_paging(facts: Facts) -> Finding | None:
    """Warn where the CPU's second level of page tables is not used: every level inside then pays for it."""
    module = find_backend(facts)
    name = {"kvm_intel": "ept", "kvm_amd": "npt"}.get(module.name if module else "", "")
    if module is None or read_bool(module.parameters.get(name, "")) is not False:
        return None
    return Finding(
        name="nested.paging",
        status=Status.WARN,
        summary=f"{name.upper()} is off: guests, and theirs much more, run on slow shadow page tables",
        evidence=f"/sys/module/{module.name}/parameters/{name} is '{module.parameters[name]}'",
    )


def find_save(facts: Facts) -> Finding | None:
    """Judge whether an L1 whose guests run can be saved, suspended or migrated (it is one and the same)."""
    feature = offered_feature(facts)
    if not feature or isinstance(facts.capabilities, Unknown):
        return None
    state = facts.capabilities.value.get("NESTED_STATE", 0)
    payload = facts.capabilities.value.get("EXCEPTION_PAYLOAD", 0)
    evidence = f"KVM_CAP_NESTED_STATE {state}, KVM_CAP_EXCEPTION_PAYLOAD {payload}"
    if feature == "svm" and state:
        return Finding(
            name="nested.save",
            status=Status.INFO,
            summary="do not save, suspend or migrate an L1 whose guests run: on AMD the kernel calls it undefined",
            evidence=f"{evidence}; Documentation/virt/kvm/x86/running-nested-guests.rst",
        )
    lacking = _lacking_for_save(facts, state, payload)
    if lacking:
        return Finding(
            name="nested.save",
            status=Status.WARN,
            summary=f"an L1 whose guests run cannot be saved, suspended or migrated: {lacking}",
            evidence=evidence,
        )
    return Finding(
        name="nested.save",
        status=Status.PASS,
        summary="an L1 whose guests run can be saved and migrated",
        evidence=evidence,
    )


def _lacking_for_save(facts: Facts, state: int, payload: int) -> str:
    if not state or not payload:
        return "KVM does not hand out its nested state"
    kernel = parse_numbers(facts.kernel.value) if isinstance(facts.kernel, Known) else ()
    if kernel and kernel < SAVE_KERNEL:
        return "it takes Linux 5.3"
    qemu = parse_numbers(qemu_version(facts))
    return "it takes QEMU 4.2" if qemu and qemu < SAVE_QEMU else ""


def find_limits(facts: Facts) -> Finding | None:
    """Tell how large a guest can be."""
    if isinstance(facts.capabilities, Unknown) or not facts.capabilities.value.get("MAX_VCPUS"):
        return None
    sizes = facts.capabilities.value
    return Finding(
        name="kvm.limits",
        status=Status.INFO,
        summary=f"a guest has at most {sizes['MAX_VCPUS']:,} vCPUs and {sizes.get('NR_MEMSLOTS', 0):,} memory slots",
        evidence=f"KVM_CAP_MAX_VCPUS, KVM_CAP_NR_MEMSLOTS; recommended vCPUs: {sizes.get('NR_VCPUS', 0):,}",
    )


def find_ignored_msrs(facts: Facts) -> Finding | None:
    """Say that KVM hides a guest's wrong accesses to MSRs: some L1s need that, and it hides bugs."""
    if isinstance(facts.modules, Unknown) or "kvm" not in facts.modules.value:
        return None
    value = facts.modules.value["kvm"].parameters.get("ignore_msrs", "")
    if not read_bool(value):
        return None
    return Finding(
        name="kvm.ignore_msrs",
        status=Status.INFO,
        summary="guests' accesses to unknown MSRs are ignored: ESXi and macOS want that, and it hides bugs",
        evidence=f"/sys/module/kvm/parameters/ignore_msrs is '{value}'",
    )


def find_memory(facts: Facts) -> Finding:
    """Compare the memory that is free with what the smallest lab takes."""
    if isinstance(facts.memory_available_mib, Unknown):
        return unknown_finding("lab.memory", "how much memory is free", facts.memory_available_mib)
    free = facts.memory_available_mib.value
    evidence = f"MemAvailable: {free:,} MiB"
    if isinstance(facts.swap_mib, Known):
        evidence += f", swap: {facts.swap_mib.value:,} MiB"
    if isinstance(facts.shared_memory_mib, Known):
        evidence += f", free in /dev/shm: {facts.shared_memory_mib.value:,} MiB"
    if isinstance(facts.huge_pages, Known) and facts.huge_pages.value.total:
        pages = facts.huge_pages.value
        reserved = pages.total * pages.size_kib // 1024
        evidence += f", huge pages: {pages.free:,} of {pages.total:,} free, {reserved:,} MiB set aside for them"
    if free < LAB_MEMORY_MIB:
        return Finding(
            name="lab.memory",
            status=Status.WARN,
            summary=f"too little memory is free for a guest with a guest inside ({LAB_MEMORY_MIB:,} MiB)",
            evidence=evidence,
            fix="End what uses it, or use a machine with more.",
        )
    return Finding(name="lab.memory", status=Status.PASS, summary=f"{free:,} MiB of memory are free", evidence=evidence)


def find_cpus(facts: Facts) -> Finding | None:
    """Say that with one CPU two levels of guests wait for each other."""
    if isinstance(facts.cpu_count, Unknown) or facts.cpu_count.value >= LAB_CPUS:
        return None
    return Finding(
        name="lab.cpus",
        status=Status.WARN,
        summary="with one CPU L1 and L2 wait for each other",
        evidence=f"/proc/cpuinfo: {facts.cpu_count.value} processor",
    )


def find_disk(facts: Facts) -> Finding | None:
    """Compare the space where images are kept with what one takes."""
    if isinstance(facts.disk_available_mib, Unknown):
        return None
    free = facts.disk_available_mib.value
    is_enough = free >= LAB_DISK_MIB
    return Finding(
        name="lab.disk",
        status=Status.PASS if is_enough else Status.WARN,
        summary=f"{free:,} MiB are free for images" + ("" if is_enough else f", and a lab takes {LAB_DISK_MIB:,}"),
        evidence="statvfs of /var/cache, or of the user's home",
        fix="" if is_enough else "Free some space, or set NESTCTL_CACHE and NESTCTL_STATE to places that have it.",
    )


def find_qemu(facts: Facts) -> Finding:
    """Say which QEMU is here, and whether it is too old for labs."""
    return _judge_program(
        "qemu", "QEMU", facts.qemu, qemu_version(facts), OLDEST_QEMU, "sudo apt-get install qemu-system-x86"
    )


def find_libvirt(facts: Facts) -> Finding:
    """Say which libvirt is here, and whether it is too old for labs."""
    version = _version(facts.libvirt, facts.libvirt_version)
    return _judge_program(
        "libvirt", "libvirt", facts.libvirt, version, OLDEST_LIBVIRT, "sudo apt-get install libvirt-daemon-system"
    )


def _judge_program(
    name: str, title: str, found: Fact[Program], version: str, oldest: tuple[int, ...], fix: str
) -> Finding:
    if isinstance(found, Unknown):
        return unknown_finding(name, f"whether {title} is here", found)
    if not found.value.program and not found.value.package:
        return Finding(
            name=name,
            status=Status.WARN,
            summary=f"there is no {title}, which labs need",
            evidence="neither a package nor a program of it shows",
            fix=f"{fix} (Debian, Ubuntu; elsewhere its package of that name)",
        )
    evidence = ", ".join(part for part in (found.value.program, found.value.package) if part)
    if (parsed := parse_numbers(version)) and parsed < oldest:
        return Finding(
            name=name,
            status=Status.WARN,
            summary=f"{title} {version} is older than what labs were tried with",
            evidence=evidence,
            fix=f"Use {title} {'.'.join(map(str, oldest))} or newer.",
        )
    if not version:
        return Finding(
            name=name, status=Status.INFO, summary=f"{title} is here, in a version not known", evidence=evidence
        )
    return Finding(name=name, status=Status.PASS, summary=f"{title} {version}", evidence=evidence)


def qemu_version(facts: Facts) -> str:
    """Return QEMU's version as the package has it, else as QEMU says it; '' where neither is known."""
    return _version(facts.qemu, facts.qemu_version)


def _version(found: Fact[Program], said: Fact[str]) -> str:
    """Return the version that the package's files name, else what the program itself said; '' where neither did."""
    if isinstance(found, Known) and found.value.version:
        return found.value.version
    return said.value if isinstance(said, Known) else ""


RULES: tuple[Rule, ...] = (
    find_features_unknown,
    find_nested_paging,
    *INTEL_FEATURES,
    *AMD_FEATURES,
    find_save,
    find_limits,
    find_ignored_msrs,
    find_memory,
    find_cpus,
    find_disk,
    find_qemu,
    find_libvirt,
)
