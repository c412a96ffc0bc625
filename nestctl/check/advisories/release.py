"""Which kernel this is: an upstream one, or a vendor's, and what its number says about the fixes in it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from nestctl.check.advisories.version import KernelVersion, parse_version, split_release


class Basis(StrEnum):
    """What the number says.

    UPSTREAM: the kernel is exactly that version. VENDOR: it has at least what that stable version has, and may have
    more. OPAQUE: the vendor keeps one number and puts fixes, and whole subsystems, behind it.
    """

    UPSTREAM = "upstream"
    VENDOR = "vendor"
    OPAQUE = "opaque"


@dataclass(frozen=True, kw_only=True)
class Release:
    """A running kernel; `vendor` is '' for an upstream kernel, and 'its vendor' where the name does not show."""

    text: str
    version: KernelVersion | None
    basis: Basis
    vendor: str = ""

    @property
    def title(self) -> str:
        """Name the kernel with what it is based on, where its own name does not say that."""
        if self.basis is Basis.VENDOR and self.version and not self.text.startswith(str(self.version)):
            return f"{self.text} (on {self.version})"
        return self.text


# /proc/version_signature, "Ubuntu 5.15.0-91.101-generic 5.15.131": the last word is the stable version it is on.
_UBUNTU = re.compile(r"Ubuntu \S+ (\S+)\s*", re.ASCII)

# "Linux version 6.1.0-18-amd64 (...) #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)"; '~rc3' is a candidate.
_DEBIAN = re.compile(r" Debian (\d[\d.]*(?:~rc\d+)?)-\S+", re.ASCII)

# What a vendor appends to `uname -r`. These keep one number for years and put new code behind it.
_OPAQUE = (
    (re.compile(r"\.el\d+uek"), "Oracle (UEK)"),
    (re.compile(r"\.el\d+"), "Red Hat or a rebuild of it"),
    (re.compile(r"^-\d{5,}\..*-default$"), "SUSE"),
)

# These name the stable version they are on, and add to it.
_VENDORS = (
    (re.compile(r"\.amzn\d"), "Amazon Linux"),
    (re.compile(r"\.fc\d+"), "Fedora"),
    (re.compile(r"-default$"), "openSUSE"),
    (re.compile(r"-pve$"), "Proxmox"),
    (re.compile(r"-arch\d"), "Arch Linux"),
    (re.compile(r"-(lts|virt)$"), "Alpine Linux"),
    (re.compile(r"-(flatcar|talos)$"), "its distribution"),
    (re.compile(r"[+-]deb\d+|-(amd64|cloud-amd64|arm64|cloud-arm64)$"), "Debian"),
    (re.compile(r"-(generic|lowlatency|aws|azure|gcp|gke|oracle|kvm)(-\S+)?$"), "Ubuntu"),
)


def identify_release(release: str, *, banner: str = "", signature: str = "") -> Release:
    """Identify a kernel from `uname -r`; `banner` is /proc/version, `signature` Ubuntu's /proc/version_signature."""
    if (match := _UBUNTU.fullmatch(signature)) and (version := _version_or_none(match[1])):
        return Release(text=release, version=version, basis=Basis.VENDOR, vendor="Ubuntu")
    if (match := _DEBIAN.search(banner)) and (version := _version_or_none(match[1].replace("~", "-"))):
        return Release(text=release, version=version, basis=Basis.VENDOR, vendor="Debian")
    if not (parts := split_release(release)):
        return Release(text=release, version=None, basis=Basis.OPAQUE, vendor="its vendor")
    version, rest = parts
    if not rest:
        return Release(text=release, version=version, basis=Basis.UPSTREAM)
    if vendor := _name_vendor(rest, _OPAQUE):
        return Release(text=release, version=version, basis=Basis.OPAQUE, vendor=vendor)
    vendor = _name_vendor(rest, _VENDORS) or "its vendor"
    # '5.15.0-91-generic', '6.1.0-18-amd64': the zero stays whatever stable version is inside.
    basis = Basis.VENDOR if version.patch or version.candidate is not None else Basis.OPAQUE
    return Release(text=release, version=version, basis=basis, vendor=vendor)


def _name_vendor(rest: str, table: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    return next((vendor for pattern, vendor in table if pattern.search(rest)), "")


def _version_or_none(text: str) -> KernelVersion | None:
    try:
        return parse_version(text)
    except ValueError:
        return None
