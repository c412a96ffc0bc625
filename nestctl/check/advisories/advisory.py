"""The form of an advisory: one CVE that matters when guests are given VMX, SVM or EL2."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nestctl.check.advisories.version import KernelVersion


class Vendor(StrEnum):
    """Whose CPUs are concerned; BOTH are the vendors of x86 CPUs."""

    INTEL = "intel"
    AMD = "amd"
    BOTH = "both"
    ARM64 = "arm64"


class Reach(StrEnum):
    """Which guests reach the flaw."""

    NESTED = "nested"  # only those that are given VMX, SVM or EL2
    SHADOW = "shadow"  # those too, and every guest where the host runs guests on shadow page tables
    ANY = "any"


class Harm(StrEnum):
    """Whom the flaw harms: HOST is this machine or guests of others, GUEST stays inside the tenant's own guests."""

    HOST = "host"
    GUEST = "guest"


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """One CVE.

    `introduced` are the versions the flaw came in with: the mainline's, and those of older stable series that got it
    by a backport; none means that it was always there. `fixed` has one version a stable series; `mainline` is the
    first version of the mainline that has the fix, and every later series has it from its start. It is None where no
    record of the CVE could be read: then no version is known, and `source` says why.
    """

    id: str
    name: str
    what: str
    introduced: tuple[KernelVersion, ...]
    fixed: tuple[KernelVersion, ...]
    mainline: KernelVersion | None
    vendor: Vendor
    reach: Reach
    harm: Harm
    has_public_exploit: bool
    source: str

    @property
    def title(self) -> str:
        """The number, and the name where people gave it one."""
        return f"{self.id} ({self.name})" if self.name else self.id

    def is_affected(self, version: KernelVersion) -> bool:
        """Whether the flaw is in this version unless a fix is."""
        if not self.introduced:
            return True
        # Backports go to series older than the mainline that the flaw came in with.
        if version.series > max(self.introduced).series:
            return True
        # The candidates of a new series may have it already.
        return any(
            version.series == since.series and (since.patch == 0 or version >= since) for since in self.introduced
        )

    def has_fix(self, version: KernelVersion) -> bool:
        """Whether a version has the fix, by that of its series, else by the mainline's; vendors' backports aside."""
        fix = self.fix_for(version) or self.mainline
        return fix is not None and version >= fix

    def fix_for(self, version: KernelVersion) -> KernelVersion | None:
        """Return the version of the same stable series that has the fix; None where none is listed."""
        return next((fix for fix in self.fixed if fix.series == version.series), None)
