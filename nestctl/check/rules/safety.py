"""Is it safe for tenants: the kernel's flaws, the CPU's, and what guests share. Pure.

What is found here matters when guests belong to strangers, and says nothing against guests of one's own.
"""

from __future__ import annotations

import re

from nestctl.check.findings import Finding, Status
from nestctl.check.rules.common import Rule, unknown_finding
from nestctl.check.rules.cpu_flaws import find_cpu_flaws, say_flaws
from nestctl.check.rules.kernel_flaws import find_kernel_flaws
from nestctl.check.settings import read_bool
from nestctl.model.facts import Facts, Known, Unknown

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
            + f"; {say_flaws(flaws)}",
            fix="echo off | sudo tee /sys/devices/system/cpu/smt/control, and 'nosmt' on the boot line; "
            "or run guests with core scheduling.",
        )
    if unknown := {flaw: text for flaw, text in said.items() if SMT_NOT_SHOWN.search(text)}:
        return Finding(
            name="safety.smt",
            status=Status.UNKNOWN,
            summary="whether threads of other guests share this machine's cores, only its host knows",
            evidence=say_flaws(unknown),
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
    if not _has_flaw(facts, "itlb_multihit") or read_bool(value) is not False:
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
    kinds = [kind for kind in ("sev", "sev_es", "sev_snp") if read_bool(_parameter(facts, "kvm_amd", kind))]
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


def _show_smt(facts: Facts) -> str:
    active = facts.safety.smt_active
    return "unknown" if isinstance(active, Unknown) else "on" if active.value else "off"


def _has_flaw(facts: Facts, flaw: str) -> bool:
    said = facts.safety.cpu_vulnerabilities
    return isinstance(said, Known) and said.value.get(flaw, "Not affected") != "Not affected"


def _parameter(facts: Facts, module: str, name: str) -> str:
    """Return a parameter as the kernel prints it, '' where it does not show."""
    if isinstance(facts.modules, Unknown) or module not in facts.modules.value:
        return ""
    return facts.modules.value[module].parameters.get(name, "")
