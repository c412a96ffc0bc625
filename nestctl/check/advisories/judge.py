"""Judge a kernel by the advisories. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from nestctl.check.advisories.advisory import Advisory
from nestctl.check.advisories.release import Basis, Release


class Standing(StrEnum):
    """How an advisory stands with a kernel. UNKNOWN is no answer in either direction."""

    FIXED = "fixed"
    NOT_AFFECTED = "not affected"
    VULNERABLE = "vulnerable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """An advisory, how it stands, and the versions that say so: `reason` follows the title in a sentence."""

    advisory: Advisory
    standing: Standing
    reason: str


def assess_release(
    release: Release, advisories: Iterable[Advisory], *, named_fixed: Collection[str] = ()
) -> tuple[Judgement, ...]:
    """Say of every advisory how it stands with this kernel.

    `named_fixed` are the CVEs that the changelog of the running kernel's package names. A vendor's kernel that is
    older than the upstream fix is unknown without that: vendors put fixes into older versions.
    """
    return tuple(_judge(release, advisory, named_fixed) for advisory in advisories)


def _judge(release: Release, advisory: Advisory, named_fixed: Collection[str]) -> Judgement:
    standing, reason = _judge_version(release, advisory)
    if standing is Standing.UNKNOWN and advisory.id in named_fixed:
        standing, reason = Standing.FIXED, "the changelog of the kernel's package names it"
    return Judgement(advisory=advisory, standing=standing, reason=reason)


def _judge_version(release: Release, advisory: Advisory) -> tuple[Standing, str]:
    version = release.version
    if advisory.mainline is None:
        return Standing.UNKNOWN, "the fixed versions are not known to this table"
    if version is None:
        return Standing.UNKNOWN, f"'{release.text}' is no version"
    if release.basis is Basis.OPAQUE:
        return Standing.UNKNOWN, f"the number says nothing about the fixes in a kernel of {release.vendor}"
    if not advisory.is_affected(version):
        return Standing.NOT_AFFECTED, f"it came with {max(advisory.introduced)}"
    fix = advisory.fix_for(version)
    if advisory.has_fix(version):
        return Standing.FIXED, f"fixed in {fix or advisory.mainline}"
    missing = f"fixed in {fix}" if fix else f"no fix is listed for {'.'.join(map(str, version.series))}"
    if release.basis is Basis.VENDOR:
        return Standing.UNKNOWN, f"{missing}; vendor status unknown"
    return Standing.VULNERABLE, missing
