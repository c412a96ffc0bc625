"""Is it safe for tenants: the kernel's flaws, the CPU's, and what guests share. Pure.

What is found here matters when guests belong to strangers, and says nothing against guests of one's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nestctl.check.findings import Finding, Status
from nestctl.check.rules.common import Rule, parse_version, unknown_finding
from nestctl.check.rules.kernel_flaws import find_kernel_flaws
from nestctl.model.facts import Facts, Known, Unknown

# Flaws that no guest can use against its host or another guest, by the kernel's table of attack vectors
# (Documentation/admin-guide/hw-vuln/attack_vector_controls.rst); 'ghostwrite' is of a RISC-V CPU.
NOT_ACROSS_GUESTS = frozenset({"meltdown", "spectre_v1", "spec_store_bypass", "ghostwrite"})

# "Vulnerable: Clear CPU buffers attempted, no microcode", "KVM: Vulnerable", "Mitigation: ...; VMX: vulnerable"; and
# of the parts of spectre_v2 the two that guests use ("BHI: Vulnerable, KVM: SW loop" is closed for guests).
OPEN = re.compile(
    r"^(Processor )?vulnerable\b|\b(KVM|VMX|PBRSB-eIBRS): vulnerable\b|\bBHI: vulnerable\b(?!, KVM: SW loop)",
    re.IGNORECASE,
)

# "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable"
OPEN_BY_SMT = re.compile(r"SMT vulnerable")
SMT_NOT_SHOWN = re.compile(r"SMT Host state unknown")

# Words of the boot line that take mitigations away: all, those of an attack vector of guests, or those of one flaw.
NO_MITIGATION = re.compile(
    r"mitigations=(.*,)?(off|no_guest_host|no_guest_guest|no_cross_thread)(,.*)?|"
    r"(l1tf|mds|tsx_async_abort|mmio_stale_data|srbds|retbleed|gather_data_sampling|reg_file_data_sampling|"
    r"indirect_target_selection|tsa|vmscape|spectre_v2|spectre_v2_user|spec_rstack_overflow|kvm\.nx_huge_pages)=off|"
    r"kvm-intel\.vmentry_l1d_flush=never|kvm_intel\.vmentry_l1d_flush=never|nospectre_v2"
)


def find_cpu_flaws(facts: Facts) -> Finding:
    """Judge the flaws of the CPU that a guest can use against its host or other guests, all in one."""
    name = "safety.cpu"
    if isinstance(facts.safety.cpu_vulnerabilities, Unknown):
        if facts.safety.cpu_vulnerabilities.error == "ENOENT" and _is_older_than_the_files(facts):
            return Finding(
                name=name,
                status=Status.UNKNOWN,
                summary="this kernel is too old to know the flaws of CPUs (it would be 4.15 or later)",
                evidence=facts.safety.cpu_vulnerabilities.reason,
                fix="Update the kernel.",
            )
        return unknown_finding(name, "which flaws the CPU has", facts.safety.cpu_vulnerabilities)
    across = {
        flaw: said for flaw, said in facts.safety.cpu_vulnerabilities.value.items() if flaw not in NOT_ACROSS_GUESTS
    }
    seen = " (in a guest these files say what this guest sees)" if _is_guest(facts) else ""
    if flaws := {flaw: said for flaw, said in across.items() if OPEN.search(said)}:
        return Finding(
            name=name,
            status=Status.WARN,
            summary=f"the CPU has flaws that guests can use, and that are not mitigated: {', '.join(flaws)}",
            evidence=_list(flaws) + seen,
            fix="Update the CPU's microcode and the kernel, and take what switches mitigations off from the boot line.",
        )
    if unknown := {flaw: said for flaw, said in across.items() if said.startswith("Unknown")}:
        return Finding(
            name=name,
            status=Status.UNKNOWN,
            summary=f"the kernel cannot say how it stands with {', '.join(unknown)}",
            evidence=_list(unknown) + seen,
        )
    return Finding(
        name=name,
        status=Status.PASS,
        summary="no flaw of the CPU that the kernel knows, and that guests can use, is open",
        evidence=f"/sys/devices/system/cpu/vulnerabilities, {len(across)} files{seen}",
    )


def find_smt(facts: Facts) -> Finding | None:
    """Warn where two guests on the threads of one core can read from each other (L1TF, MDS and their like)."""
    if isinstance(facts.safety.cpu_vulnerabilities, Unknown):
        return None  # their own finding says so
    said = facts.safety.cpu_vulnerabilities.value
    flaws = {flaw: text for flaw, text in said.items() if OPEN_BY_SMT.search(text)}
    active = facts.safety.smt_active
    if flaws and not (isinstance(active, Known) and not active.value):
        control = facts.safety.smt_control
        return Finding(
            name="safety.smt",
            status=Status.WARN,
            summary=f"guests on two threads of a core can read from each other: {', '.join(flaws)}",
            evidence=f"SMT is {_show_smt(facts)}"
            + (f", control '{control.value}'" if isinstance(control, Known) else "")
            + f"; {_list(flaws)}",
            fix="echo off | sudo tee /sys/devices/system/cpu/smt/control, and 'nosmt' on the boot line; "
            "or run guests with core scheduling.",
        )
    if unknown := {flaw: text for flaw, text in said.items() if SMT_NOT_SHOWN.search(text)}:
        return Finding(
            name="safety.smt",
            status=Status.UNKNOWN,
            summary="whether threads of other guests share this machine's cores, only its host knows",
            evidence=_list(unknown),
        )
    return None


def find_ksm(facts: Facts) -> Finding | None:
    """Warn where pages of different guests are merged: by the time of a write one guest learns what another holds."""
    run = facts.safety.ksm_run
    if isinstance(run, Unknown):
        # Built without CONFIG_KSM, the kernel has no such file.
        return None if run.error == "ENOENT" else unknown_finding("safety.ksm", "whether pages are merged", run)
    if run.value != 1:
        return None
    return Finding(
        name="safety.ksm",
        status=Status.WARN,
        summary="KSM merges pages of different guests: one can find out what another's memory holds",
        evidence="/sys/kernel/mm/ksm/run is 1",
        fix="echo 2 | sudo tee /sys/kernel/mm/ksm/run (2 also parts what is merged), and stop ksmtuned.",
    )


def find_l1d_flush(facts: Facts) -> Finding | None:
    """Judge whether the L1 data cache is flushed before a guest runs, on CPUs that have L1TF."""
    flush = _parameter(facts, "kvm_intel", "vmentry_l1d_flush")
    if not _has_flaw(facts, "l1tf") or not flush:
        return None
    evidence = f"/sys/module/kvm_intel/parameters/vmentry_l1d_flush is '{flush}', and the CPU has L1TF"
    if flush == "never":
        return Finding(
            name="safety.l1d_flush",
            status=Status.WARN,
            summary="the L1 data cache is never flushed before a guest runs: it can read from it (L1TF)",
            evidence=evidence,
            fix="echo always | sudo tee /sys/module/kvm_intel/parameters/vmentry_l1d_flush",
        )
    if flush != "cond":
        return None
    return Finding(
        name="safety.l1d_flush",
        status=Status.INFO,
        summary="the L1 data cache is flushed before a guest runs only where KVM thinks that it matters (L1TF)",
        evidence=evidence,
        fix="echo always | sudo tee /sys/module/kvm_intel/parameters/vmentry_l1d_flush",
    )


def find_huge_pages(facts: Facts) -> Finding | None:
    """Warn where a guest can stop this machine by executing from huge pages (iTLB multihit)."""
    value = _parameter(facts, "kvm", "nx_huge_pages")
    if not _has_flaw(facts, "itlb_multihit") or value.lower() not in ("n", "0", "off", "never"):
        return None
    return Finding(
        name="safety.nx_huge_pages",
        status=Status.WARN,
        summary="guests may execute from huge pages, and one can stop this machine so (iTLB multihit)",
        evidence=f"/sys/module/kvm/parameters/nx_huge_pages is '{value}', and the CPU has the flaw",
        fix="echo auto | sudo tee /sys/module/kvm/parameters/nx_huge_pages",
    )


def find_boot_line(facts: Facts) -> Finding | None:
    """Warn where the boot line takes away mitigations that keep guests from their host and from each other."""
    if isinstance(facts.boot_line, Unknown):
        return None
    words = [word for word in facts.boot_line.value if NO_MITIGATION.fullmatch(word)]
    if not words:
        return None
    return Finding(
        name="safety.boot_line",
        status=Status.WARN,
        summary="the boot line switches off what keeps guests apart",
        evidence=f"/proc/cmdline: {' '.join(words)}",
        fix="Take these words from the kernel's boot line and boot again.",
    )


def find_encryption(facts: Facts) -> Finding | None:
    """Mention SEV: guests whose memory is encrypted cannot be hypervisors themselves."""
    kinds = [kind for kind in ("sev", "sev_es", "sev_snp") if _is_on(_parameter(facts, "kvm_amd", kind))]
    if not kinds:
        return None
    return Finding(
        name="safety.encryption",
        status=Status.INFO,
        summary="guests can have their memory encrypted; one that has cannot be a hypervisor itself",
        evidence=f"/sys/module/kvm_amd/parameters: {', '.join(kinds)}",
    )


RULES: tuple[Rule, ...] = (
    find_kernel_flaws,
    find_cpu_flaws,
    find_smt,
    find_boot_line,
    find_l1d_flush,
    find_huge_pages,
    find_ksm,
    find_encryption,
)


def _list(flaws: Mapping[str, str]) -> str:
    return "; ".join(f"{flaw}: {said}" for flaw, said in flaws.items())


def _show_smt(facts: Facts) -> str:
    active = facts.safety.smt_active
    return "unknown" if isinstance(active, Unknown) else "on" if active.value else "off"


def _is_older_than_the_files(facts: Facts) -> bool:
    """The directory came with Linux 4.15, and with stable versions of older series (commit 87590ce6e373)."""
    version = parse_version(facts.kernel.value) if isinstance(facts.kernel, Known) else ()
    return bool(version) and version < (4, 15)


def _is_guest(facts: Facts) -> bool:
    return isinstance(facts.cpuid, Known) and facts.cpuid.value.is_guest


def _has_flaw(facts: Facts, flaw: str) -> bool:
    said = facts.safety.cpu_vulnerabilities
    return isinstance(said, Known) and said.value.get(flaw, "Not affected") != "Not affected"


def _parameter(facts: Facts, module: str, name: str) -> str:
    """Return a parameter as the kernel prints it, '' where it does not show."""
    if isinstance(facts.modules, Unknown) or module not in facts.modules.value:
        return ""
    return facts.modules.value[module].parameters.get(name, "")


def _is_on(value: str) -> bool:
    return value.upper() in ("Y", "1")
