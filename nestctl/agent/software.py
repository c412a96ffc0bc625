"""Find the QEMU and libvirt of this machine, from the files of its packages: no program is run."""

from __future__ import annotations

import re
from typing import Any

from .fact import Fact, NotFoundOut, find_out
from .tree import Tree

# Package names by distribution: Debian and Ubuntu; Alpine and Arch.
QEMU_PACKAGES = (
    "qemu-system-x86",
    "qemu-system-arm",
    "qemu-system-s390x",
    "qemu-system-ppc",
    "qemu-system-x86_64",
    "qemu-system-aarch64",
    "qemu-base",
    "qemu-desktop",
    "qemu-full",
    "qemu-kvm",
)
LIBVIRT_PACKAGES = ("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt")

QEMU_PROGRAMS = (
    "usr/bin/qemu-system-x86_64",
    "usr/libexec/qemu-kvm",
    "usr/bin/qemu-kvm",
    "usr/local/bin/qemu-system-x86_64",
    "usr/bin/qemu-system-aarch64",
    "usr/bin/qemu-system-s390x",
    "usr/bin/qemu-system-ppc64",
)
LIBVIRT_PROGRAMS = ("usr/sbin/libvirtd", "usr/sbin/virtqemud", "usr/local/sbin/libvirtd")

DPKG_STATUS = "var/lib/dpkg/status"
APK_INSTALLED = "lib/apk/db/installed"
PACMAN_LOCAL = "var/lib/pacman/local"
LARGEST_PARAGRAPH = 1 << 16  # bytes, of one package in dpkg's status
LARGEST_DATABASE = 32 << 20  # bytes; a Debian desktop's status file is about 5 MiB

# libvirt writes down what it found out of each QEMU (virQEMUCapsSaveCache), kvmSupportsNesting since 5.0.
CAPABILITIES = "var/cache/libvirt/qemu/capabilities"


def read_facts(tree: Tree) -> dict[str, Fact]:
    """Read which QEMU and libvirt are here, from packages' files and programs' paths; nothing is started."""
    packages = read_packages(tree)
    return {
        "qemu": find_out(lambda: _find(tree, packages, QEMU_PACKAGES, QEMU_PROGRAMS)),
        "libvirt": find_out(lambda: _find(tree, packages, LIBVIRT_PACKAGES, LIBVIRT_PROGRAMS)),
        "libvirt_capabilities": find_out(lambda: read_capabilities(tree)),
    }


def _find(tree: Tree, packages: dict[str, str], names: tuple[str, ...], programs: tuple[str, ...]) -> dict[str, str]:
    """Return {version, package, program}; each may be '', and all are where it is not there."""
    program = next((f"/{path}" for path in programs if tree.exists(path)), "")
    package = next((name for name in names if name in packages), "")
    return {"version": upstream_version(packages.get(package, "")), "package": package, "program": program}


def upstream_version(version: str) -> str:
    """Of a package's version ('1:7.2+dfsg-7+deb12u12') return its program's: '7.2'."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return found.group(1) if found else ""


def read_packages(tree: Tree) -> dict[str, str]:
    """Return {package: version} of those named above, from whichever database is there and needs no program."""
    for read in (_read_dpkg, _read_apk, _read_pacman):
        try:
            return read(tree)
        except OSError:
            continue
    return {}


def _read_dpkg(tree: Tree) -> dict[str, str]:
    text = tree.text(DPKG_STATUS, limit=LARGEST_DATABASE, keep=_keep_dpkg)
    return dict(re.findall(r"^Package: (\S+)\n.*\nVersion: (\S+)$", text, re.MULTILINE))


def _keep_dpkg(text: str) -> str:
    kept = []
    for name in QEMU_PACKAGES + LIBVIRT_PACKAGES:
        # One search for each: to split the whole file into its paragraphs takes ten times as long.
        start = text.find(f"Package: {name}\n")
        if start < 0 or (start > 0 and text[start - 1] != "\n"):
            continue
        paragraph = text[start : start + LARGEST_PARAGRAPH].partition("\n\n")[0]
        version = re.search(r"^Version: (\S+)$", paragraph, re.MULTILINE)
        if version and re.search(r"^Status: .* installed$", paragraph, re.MULTILINE):
            kept.append(f"Package: {name}\nStatus: install ok installed\nVersion: {version.group(1)}\n")
    return "\n".join(kept)


def _read_apk(tree: Tree) -> dict[str, str]:
    text = tree.text(APK_INSTALLED, limit=LARGEST_DATABASE, keep=_keep_apk)
    return dict(re.findall(r"^P:(\S+)\nV:(\S+)$", text, re.MULTILINE))


def _keep_apk(text: str) -> str:
    found = re.findall(r"^P:(\S+)\nV:(\S+)$", text, re.MULTILINE)
    return "\n".join(f"P:{name}\nV:{version}\n" for name, version in found if name in QEMU_PACKAGES + LIBVIRT_PACKAGES)


def _read_pacman(tree: Tree) -> dict[str, str]:
    names = tree.names(PACMAN_LOCAL, lambda name: name.startswith(("qemu-", "libvirt-")))
    found = [re.fullmatch(r"(.+)-([^-]+-[^-]+)", name) for name in names if tree.exists(f"{PACMAN_LOCAL}/{name}")]
    return {match.group(1): match.group(2) for match in found if match}


def read_capabilities(tree: Tree) -> list[dict[str, Any]]:
    """Return what libvirt has written down of each emulator: its guests, KVM or not, VMX or SVM."""
    paths = [f"{CAPABILITIES}/{name}" for name in tree.names(CAPABILITIES, lambda name: name.endswith(".xml"))]
    found = [find_out(lambda path=path: tree.text(path, limit=8 << 20, keep=_keep_capabilities)) for path in paths]  # type: ignore[misc]
    return [_parse_capabilities(fact["value"]) for fact in found if "value" in fact]


_EMULATOR = re.compile(r"<emulator>([^<]*)</emulator>")
_ARCHITECTURE = re.compile(r"<arch>(\w+)</arch>")
_HOST_CPU = re.compile(r"<hostCPU type='kvm'.*?</hostCPU>", re.DOTALL)
_FEATURE = re.compile(r"<property name='(vmx|svm)' type='boolean' value='(true|false)'[^>]*/>")


def _keep_capabilities(text: str) -> str:
    host_cpu = _HOST_CPU.search(text)
    lines = [found.group(0) if found else "" for found in (_EMULATOR.search(text), _ARCHITECTURE.search(text))]
    lines += [flag for flag in ("<flag name='kvm'/>", "<kvmSupportsNesting/>") if flag in text]
    if host_cpu:
        features = "".join(match.group(0) for match in _FEATURE.finditer(host_cpu.group(0)))
        lines.append(f"<hostCPU type='kvm'>{features}</hostCPU>")
    return "\n".join(lines) + "\n"


def _parse_capabilities(text: str) -> dict[str, Any]:
    emulator, architecture = _EMULATOR.search(text), _ARCHITECTURE.search(text)
    if not emulator:
        raise NotFoundOut("A file of libvirt's cache names no emulator.")
    return {
        "emulator": emulator.group(1),
        "architecture": architecture.group(1) if architecture else "",
        "kvm": "<flag name='kvm'/>" in text,
        "supports_nesting": "<kvmSupportsNesting/>" in text,
        "features": [name for name, value in _FEATURE.findall(text) if value == "true"],
    }
