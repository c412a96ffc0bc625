"""Which of the kernel's known flaws do guests of this machine reach. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nestctl.check.advisories import (
    Advisory,
    AdvisoryTable,
    Harm,
    Judgement,
    Reach,
    Release,
    Standing,
    Vendor,
    assess_release,
    identify_release,
    load_advisories,
)
from nestctl.check.advisories.version import KernelVersion
from nestctl.check.findings import Finding, Status
from nestctl.check.processors import HARDWARE_MODULES
from nestctl.check.questions import find_backend, is_nested_enabled, offered_feature
from nestctl.check.settings import read_bool
from nestctl.model.facts import Facts, Known, Unknown

VENDORS = {"kvm_intel": Vendor.INTEL, "kvm_amd": Vendor.AMD}

# Flaws of which a file under /sys/devices/system/cpu/vulnerabilities tells how this machine stands: a kernel that has
# the file has the fix, and what it says is judged with the flaws of the CPU.
TOLD_BY_A_FILE = {"CVE-2025-40300": "vmscape"}

# Where a vendor says in which of its kernels a CVE is fixed: by the kernel's own name, else by os-release's ID.
TRACKERS = {
    "Debian": "https://security-tracker.debian.org/tracker/{}",
    "Ubuntu": "https://ubuntu.com/security/{}",
    "Red Hat or a rebuild of it": "https://access.redhat.com/security/cve/{}",
    "Amazon Linux": "https://explore.alas.aws.amazon.com/{}.html",
    "SUSE": "https://www.suse.com/security/cve/{}.html",
    "openSUSE": "https://www.suse.com/security/cve/{}.html",
}
DISTRIBUTIONS = {"debian": "Debian", "ubuntu": "Ubuntu", "rhel": "Red Hat or a rebuild of it", "amzn": "Amazon Linux"}


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """How far guests reach into KVM here; None is not known."""

    gives_nesting: bool | None
    on_shadow_pages: bool

    def is_reached(self, advisory: Advisory) -> bool:
        """Whether guests reach the flaw; what is not known counts as yes."""
        if advisory.reach is Reach.ANY or (advisory.reach is Reach.SHADOW and self.on_shadow_pages):
            return True
        return self.gives_nesting is not False


def assess_exposure(facts: Facts) -> Exposure:
    """Say how far guests get: by what KVM offers, else by its parameter. Without EPT or NPT all are on shadow pages."""
    module = find_backend(facts)
    name = module.name if module else ""
    paging = module.parameters.get({"kvm_intel": "ept", "kvm_amd": "npt"}.get(name, ""), "") if module else ""
    return Exposure(
        gives_nesting=_gives_nesting(facts),
        on_shadow_pages=name == "kvm_pvm" or read_bool(paging) is False,
    )


def _gives_nesting(facts: Facts) -> bool | None:
    if isinstance(facts.architecture, Known) and facts.architecture.value == "aarch64":
        # Documentation/admin-guide/kernel-parameters.txt: only this mode gives guests EL2.
        return "kvm-arm.mode=nested" in facts.boot_line.value if isinstance(facts.boot_line, Known) else None
    if isinstance(facts.offers, Known):
        return bool(offered_feature(facts))
    module = find_backend(facts)
    return is_nested_enabled(module) if module else None


def find_kernel_flaws(facts: Facts) -> Finding:
    """Judge the running kernel by the table of advisories; the worst is named, all open ones are the evidence."""
    name = "safety.kernel"
    vendors = _vendors(facts)
    if isinstance(facts.kernel, Unknown):
        return Finding(
            name=name, status=Status.UNKNOWN, summary="which kernel runs is unknown", evidence=facts.kernel.reason
        )
    if not vendors:
        return Finding(
            name=name,
            status=Status.UNKNOWN,
            summary="the table of advisories has none for this architecture",
            evidence=f"Linux {facts.kernel.value} on {_architecture(facts)}",
        )
    table, release, exposure = load_advisories(), _release(facts, facts.kernel.value), assess_exposure(facts)
    told = _told_by_files(facts)
    harmful = [it for it in table.advisories if it.vendor in vendors and it.harm is Harm.HOST and it.id not in told]
    judgements = assess_release(release, harmful, named_fixed=_named(facts))
    reached = [it for it in judgements if exposure.is_reached(it.advisory)]
    if vulnerable := [it for it in reached if it.standing is Standing.VULNERABLE]:
        return _open(facts, release, vulnerable, table)
    if unknown := [it for it in reached if it.standing is Standing.UNKNOWN]:
        if all(it.advisory.mainline is None for it in unknown):
            return _versions_unknown(release, unknown, table)
        return _vendor_unknown(facts, release, unknown)
    return _closed(release, judgements, table)


def _open(facts: Facts, release: Release, judgements: Sequence[Judgement], table: AdvisoryTable) -> Finding:
    worst = _worst(judgements)
    exploit = "; an exploit is public" if worst.has_public_exploit else ""
    count = f"{len(judgements)} known flaws that guests reach, the worst" if len(judgements) > 1 else "a known flaw"
    return Finding(
        name="safety.kernel",
        status=Status.WARN,
        summary=f"this kernel has {count}: {worst.title}, {worst.what}{exploit}",
        evidence=f"Linux {release.title}, table of {table.as_of}: {_list(judgements)}{_live_patches(facts)}",
        fix=_fix(facts, release, [it.advisory for it in judgements], table),
    )


def _vendor_unknown(facts: Facts, release: Release, judgements: Sequence[Judgement]) -> Finding:
    worst = _worst(judgements)
    distribution = facts.safety.distribution.value.id if isinstance(facts.safety.distribution, Known) else ""
    tracker = TRACKERS.get(release.vendor) or TRACKERS.get(DISTRIBUTIONS.get(distribution, ""))
    where = f": {tracker.format(worst.id)}" if tracker else f" for {worst.id}"
    fixes = f"{len(judgements)} {'fix' if len(judgements) == 1 else 'fixes'}"
    return Finding(
        name="safety.kernel",
        status=Status.UNKNOWN,
        summary=f"vendor status unknown: {release.vendor} may or may not have put {fixes} into this kernel",
        evidence=f"Linux {release.title}, {_say_changelog(facts)}: {_list(judgements)}{_live_patches(facts)}",
        fix=f"Bring the kernel's package up to date, boot it, and look into the vendor's tracker{where}",
    )


def _versions_unknown(release: Release, judgements: Sequence[Judgement], table: AdvisoryTable) -> Finding:
    """Say that only advisories are left of which the table knows no versions."""
    names = ", ".join(it.advisory.title for it in judgements)
    record = f"https://www.cve.org/CVERecord?id={_worst(judgements).id}"
    return Finding(
        name="safety.kernel",
        status=Status.UNKNOWN,
        summary=f"which kernels have the fix of {names} is not known to nestctl; nothing else is open in this one",
        evidence=f"Linux {release.title}, table of {table.as_of}: "
        + "; ".join(f"{it.advisory.title}, {it.advisory.what}: {it.advisory.source}" for it in judgements),
        fix=f"Compare this kernel with the versions in the record, {record}, or with the vendor's tracker.",
    )


def _closed(release: Release, judgements: Sequence[Judgement], table: AdvisoryTable) -> Finding:
    summary = "no known flaw that guests reach is open in this kernel"
    evidence = f"Linux {release.title}, {len(judgements)} advisories of {table.as_of}"
    hidden = [it for it in judgements if it.standing in (Standing.VULNERABLE, Standing.UNKNOWN)]
    if hidden:
        summary += f"; {len(hidden)} would be, or might, if guests were given nesting"
        evidence += f"; not reached without nesting: {_list(hidden)}"
    return Finding(name="safety.kernel", status=Status.PASS, summary=summary, evidence=evidence)


def _worst(judgements: Iterable[Judgement]) -> Advisory:
    """Return the one that is named: with a public exploit before without, then the newest (the table's order)."""
    return min((it.advisory for it in judgements), key=lambda advisory: not advisory.has_public_exploit)


def _list(judgements: Iterable[Judgement]) -> str:
    return "; ".join(f"{it.advisory.title} {it.reason}" for it in judgements)


def _live_patches(facts: Facts) -> str:
    patches = facts.safety.live_patches
    if isinstance(patches, Known) and patches.value:
        return f". Live patches that may close some: {', '.join(patches.value)}"
    return ""


def _say_changelog(facts: Facts) -> str:
    changelog = facts.safety.fixed_cves
    if isinstance(changelog, Unknown):
        return "no changelog of its package says more"
    part = "" if changelog.value.is_complete else " (of which only a part was read)"
    return f"{', '.join(changelog.value.files)}{part} does not name these"


def _fix(facts: Facts, release: Release, advisories: Sequence[Advisory], table: AdvisoryTable) -> str:
    versions = fixing_versions(release, advisories, table)
    update = f"Update the kernel to {' or '.join(map(str, versions))}, or later." if versions else "Update the kernel."
    if any(advisory.reach is Reach.ANY for advisory in advisories) or Vendor.ARM64 in _vendors(facts):
        return update
    if assess_exposure(facts).on_shadow_pages:
        return f"{update} nested=0 does not help here: every guest runs on shadow page tables."
    module = find_backend(facts)
    name = module.name if module else "kvm_intel or kvm_amd"
    return f"{update} Until then load {name} with nested=0; that only helps as long as EPT or NPT is on."


def fixing_versions(
    release: Release, advisories: Sequence[Advisory], table: AdvisoryTable
) -> tuple[KernelVersion, ...]:
    """Return the stable versions that have every one of the fixes: of this kernel's series, else of the two next."""
    series = {fix.series for advisory in table.advisories for fix in advisory.fixed}
    own = release.version.series if release.version else (0,)
    complete = [version for it in sorted(series) if it >= own and (version := _complete(it, advisories))]
    return tuple(complete[:1] if complete and complete[0].series == own else complete[:2])


def _complete(series: tuple[int, ...], advisories: Sequence[Advisory]) -> KernelVersion | None:
    """Return the first version of a series that has all the fixes, None where the series lacks one."""
    fixes = []
    for advisory in advisories:
        start = KernelVersion(series=series)
        fix = advisory.fix_for(start) or (start if advisory.has_fix(start) else None)
        if fix is None and advisory.is_affected(start):
            return None
        fixes.append(fix or start)
    return max(fixes)


def _release(facts: Facts, kernel: str) -> Release:
    banner, signature = facts.safety.kernel_banner, facts.safety.kernel_signature
    return identify_release(
        kernel,
        banner=banner.value if isinstance(banner, Known) else "",
        signature=signature.value if isinstance(signature, Known) else "",
    )


def _named(facts: Facts) -> frozenset[str]:
    changelog = facts.safety.fixed_cves
    return changelog.value.cves if isinstance(changelog, Known) else frozenset()


def _told_by_files(facts: Facts) -> frozenset[str]:
    said = facts.safety.cpu_vulnerabilities
    return frozenset(cve for cve, flaw in TOLD_BY_A_FILE.items() if isinstance(said, Known) and flaw in said.value)


def _architecture(facts: Facts) -> str:
    return facts.architecture.value if isinstance(facts.architecture, Known) else "an unknown architecture"


def _vendors(facts: Facts) -> frozenset[Vendor]:
    """Return whose advisories count here; those of both x86 vendors where the CPU's is not known."""
    architecture = _architecture(facts)
    if architecture == "aarch64":
        return frozenset({Vendor.ARM64})
    if architecture not in ("x86_64", "i686"):
        return frozenset()
    vendor = VENDORS.get(HARDWARE_MODULES.get(facts.cpuid.value.vendor, "")) if isinstance(facts.cpuid, Known) else None
    return frozenset({Vendor.BOTH, vendor} if vendor else {Vendor.BOTH, Vendor.INTEL, Vendor.AMD})
