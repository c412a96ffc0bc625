"""Which flaws of the CPU are open to guests, by what the kernel says of each that it knows. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nestctl.check.findings import Finding, Status
from nestctl.check.processors import AMD, HYGON, INTEL, ZHAOXIN
from nestctl.check.rules.common import parse_numbers, unknown_finding
from nestctl.model.facts import Facts, Known, Unknown

# Flaws that no guest can use against its host or another guest, by the kernel's table of attack vectors
# (Documentation/admin-guide/hw-vuln/attack_vector_controls.rst); 'ghostwrite' is of a RISC-V CPU.
NOT_ACROSS_GUESTS = frozenset({"meltdown", "spectre_v1", "spec_store_bypass", "ghostwrite"})

# Whose CPUs may have a flaw that guests can use. A kernel that knows it has a file of its name, whatever the CPU
# (drivers/base/cpu.c); whom it looks for it is in arch/x86/kernel/cpu/common.c, cpu_vuln_whitelist and _blacklist.
# 'old_microcode' is not here: it is no flaw, and a kernel without it says as much of those that there are.
FLAWS = {
    "spectre_v2": INTEL | AMD | HYGON,
    "l1tf": INTEL | ZHAOXIN,
    "mds": INTEL | ZHAOXIN,
    "tsx_async_abort": INTEL,
    "itlb_multihit": INTEL | ZHAOXIN,
    "srbds": INTEL,
    "mmio_stale_data": INTEL,
    "retbleed": INTEL | AMD | HYGON,
    "gather_data_sampling": INTEL,
    "spec_rstack_overflow": AMD | HYGON,
    "reg_file_data_sampling": INTEL,
    "indirect_target_selection": INTEL,
    "tsa": AMD,
    "vmscape": INTEL | AMD | HYGON,
}

# "Vulnerable: Clear CPU buffers attempted, no microcode", "KVM: Vulnerable", "Mitigation: ...; VMX: vulnerable"; and
# of the parts of spectre_v2 the two that guests use ("BHI: Vulnerable, KVM: SW loop" is closed for guests).
OPEN = re.compile(
    r"^(Processor )?vulnerable\b|\b(KVM|VMX|PBRSB-eIBRS): vulnerable\b|\bBHI: vulnerable\b(?!, KVM: SW loop)",
    re.IGNORECASE,
)


def find_cpu_flaws(facts: Facts) -> Finding:
    """Judge the flaws of the CPU that a guest can use against its host or other guests, all in one.

    One that the kernel does not know, and such a CPU may have, is as unknown as one that it cannot tell.
    """
    if isinstance(facts.safety.cpu_vulnerabilities, Unknown):
        return _nothing_said(facts, facts.safety.cpu_vulnerabilities)
    said_of_all = facts.safety.cpu_vulnerabilities.value
    across = {flaw: said for flaw, said in said_of_all.items() if flaw not in NOT_ACROSS_GUESTS}
    missing = [flaw for flaw in _expected(facts) if flaw not in across]
    no_files = f"no file for {', '.join(missing)}" if missing else ""
    seen = " (in a guest these files say what this guest sees)" if _is_guest(facts) else ""
    if flaws := {flaw: said for flaw, said in across.items() if OPEN.search(said)}:
        return Finding(
            name="safety.cpu",
            status=Status.WARN,
            summary=f"the CPU has flaws that guests can use, and that are not mitigated: {', '.join(flaws)}",
            evidence="; ".join(part for part in (say_flaws(flaws), no_files) if part) + seen,
            fix="Update the CPU's microcode and the kernel, and take what switches mitigations off from the boot line.",
        )
    if unknown := {flaw: said for flaw, said in across.items() if said.startswith("Unknown")}:
        return Finding(
            name="safety.cpu",
            status=Status.UNKNOWN,
            summary=f"the kernel cannot say how it stands with {', '.join([*unknown, *missing])}",
            evidence="; ".join(part for part in (say_flaws(unknown), no_files) if part) + seen,
        )
    files = f"/sys/devices/system/cpu/vulnerabilities, {len(across)} {'file' if len(across) == 1 else 'files'}"
    if missing:
        return Finding(
            name="safety.cpu",
            status=Status.UNKNOWN,
            summary=f"this kernel is too old to know flaws that this CPU may have: {', '.join(missing)}",
            evidence=f"{files}{seen}; {no_files}",
            fix="Update the kernel.",
        )
    return Finding(
        name="safety.cpu",
        status=Status.PASS,
        summary="no flaw of the CPU that the kernel knows, and that guests can use, is open",
        evidence=files + seen,
    )


def _nothing_said(facts: Facts, answer: Unknown) -> Finding:
    if answer.error == "ENOENT" and _is_older_than_the_files(facts):
        return Finding(
            name="safety.cpu",
            status=Status.UNKNOWN,
            summary="this kernel is too old to know the flaws of CPUs (it would be 4.15 or later)",
            evidence=answer.reason,
            fix="Update the kernel.",
        )
    return unknown_finding("safety.cpu", "which flaws the CPU has", answer)


def _expected(facts: Facts) -> list[str]:
    """Return the flaws a kernel has to know on this CPU: those of every vendor where its own is not known."""
    if not (isinstance(facts.architecture, Known) and facts.architecture.value in ("x86_64", "i686")):
        return []
    vendor = facts.cpuid.value.vendor if isinstance(facts.cpuid, Known) else ""
    return [flaw for flaw, vendors in FLAWS.items() if vendor in vendors or not vendor]


def say_flaws(flaws: Mapping[str, str]) -> str:
    """Return what the kernel says of each flaw, as evidence."""
    return "; ".join(f"{flaw}: {said}" for flaw, said in flaws.items())


def _is_older_than_the_files(facts: Facts) -> bool:
    """The directory came with Linux 4.15, and with stable versions of older series (commit 87590ce6e373)."""
    version = parse_numbers(facts.kernel.value) if isinstance(facts.kernel, Known) else ()
    return bool(version) and version < (4, 15)


def _is_guest(facts: Facts) -> bool:
    return isinstance(facts.cpuid, Known) and facts.cpuid.value.is_guest
