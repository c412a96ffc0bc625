"""What goes into an image, and the digest that names it.

A recipe is a value: the same host, sources and nestctl give the same recipe, the same recipe the same digest, and the
digest names the image in the cache. Package versions are not part of it (they are recorded in the image's manifest).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nestctl.errors import PrerequisiteError
from nestctl.paths import resource

# The disk's nominal size: room for the content (620 MB) and a little more. A guest's own disk is an overlay of the
# size the lab file says, and the root file system grows to it at boot.
DISK_BYTES = 832 * 1024 * 1024

COMMON_PACKAGES = (
    "systemd-sysv",
    "udev",
    "dbus",
    "openssh-server",
    "qemu-system-x86",
    "qemu-utils",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-system",
    "libvirt-daemon-system-systemd",
    "libvirt-clients",
    "python3",
    "python3-libvirt",
    "busybox-static",
    "dnsmasq-base",
    "e2fsprogs",
    "fio",
    "gcc",
    "iperf3",
    "iproute2",
    "iptables",
    "kmod",
    "libc6-dev",
    "passwd",
    "procps",
    "redis-tools",
    "rt-tests",
    "sysbench",
    "zstd",
)

# The smallest packaged kernel that has kvm, virtio, ext4 and vhost (and no drivers for hardware that is not there).
_KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}

_SUFFIXES = {".list", ".sources"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One entry of apt's sources, as this host has it."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    @property
    def line(self) -> str:
        """The source as a line of sources.list(5)."""
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{self.uri} {self.suite} {' '.join(self.components)}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what an image contains."""

    distribution: str
    release: str
    architecture: str
    sources: tuple[Source, ...]
    packages: tuple[str, ...]
    files_digest: str
    disk_bytes: int = DISK_BYTES

    @property
    def digest(self) -> str:
        """SHA-256 over all of it, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The image's name: what the recipe is for, and its digest."""
        return f"{self.distribution}-{self.release}-{self.digest[:12]}"


def read_recipe(root: Path = Path("/")) -> Recipe:
    """Make the recipe for this host's own distribution, release and package sources.

    Raises `PrerequisiteError` when the host is no Debian or Ubuntu on x86_64, or no usable package source is found.
    """
    try:
        os_release = parse_os_release((root / "etc/os-release").read_text())
    except OSError as error:
        raise PrerequisiteError(f"This machine does not say what it is: {error}.") from error
    distribution, release = os_release.get("ID", "unknown"), os_release.get("VERSION_CODENAME", "")
    if distribution not in _KERNELS or not release:
        raise PrerequisiteError(
            f"Images are built from Debian or Ubuntu packages, and this machine runs '{distribution}'.",
            hint="Build the image on a Debian or Ubuntu machine, copy its directory into the cache, and name it as "
            "'image' in the lab file.",
        )
    if platform.machine() != "x86_64":
        raise PrerequisiteError(f"Images are built for x86_64, and this machine is '{platform.machine()}'.")
    apt = root / "etc/apt"
    paths = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    # apt reads no others: what editors and upgrades leave behind (.save, .distUpgrade) is no source.
    texts = [(path.suffix, path.read_text()) for path in paths if path.is_file() and path.suffix in _SUFFIXES]
    sources = tuple(select_sources((source for kind, text in texts for source in parse_sources(kind, text)), release))
    if not sources:
        raise PrerequisiteError(
            f"No package source for '{release}' with the component 'main' is listed in {apt}.",
            hint=f"Add the distribution's own source for '{release}' to {apt}/sources.list.",
        )
    return Recipe(
        distribution=distribution,
        release=release,
        architecture="amd64",
        sources=sources,
        packages=(_KERNELS[distribution], *COMMON_PACKAGES),
        files_digest=digest_tree(resource("templates", "image")),
    )


def parse_os_release(text: str) -> Mapping[str, str]:
    """Parse os-release(5)."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def parse_sources(suffix: str, text: str) -> Iterable[Source]:
    """Parse a file of sources.list(5): one entry a line (.list), or deb822 paragraphs (.sources)."""
    if suffix == ".sources":
        for paragraph in text.split("\n\n"):
            yield from _parse_paragraph(paragraph)
        return
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words or words[0] != "deb":
            continue
        signed_by = ""
        rest = words[1:]
        if rest and rest[0].startswith("["):
            end = next((index for index, word in enumerate(rest) if word.endswith("]")), len(rest) - 1)
            options = " ".join(rest[: end + 1]).strip("[]").split()
            signed_by = next((option[10:] for option in options if option.startswith("signed-by=")), "")
            rest = rest[end + 1 :]
        if len(rest) >= 3:
            yield Source(uri=rest[0], suite=rest[1], components=tuple(rest[2:]), signed_by=signed_by)


def _parse_paragraph(paragraph: str) -> Iterable[Source]:
    lines = [line for line in paragraph.splitlines() if line.strip() and not line.startswith("#")]
    # A line that begins with a space continues a field (a key given in full): such a key stays out.
    pairs = (line.partition(":") for line in lines if not line[0].isspace())
    fields = {key.strip().lower(): value.strip() for key, _, value in pairs}
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
        return
    for uri in fields.get("uris", "").split():
        for suite in fields.get("suites", "").split():
            yield Source(
                uri=uri,
                suite=suite,
                components=tuple(fields.get("components", "").split()),
                signed_by=fields.get("signed-by", ""),
            )


def select_sources(sources: Iterable[Source], release: str) -> Iterable[Source]:
    """Keep the distribution's own entries for a release: other vendors' repositories have no place in an image."""
    suites = {release, f"{release}-updates", f"{release}-security"}
    for source in sources:
        if source.suite in suites and "main" in source.components:
            yield Source(
                uri=source.uri,
                suite=source.suite,
                components=tuple(name for name in source.components if name in {"main", "universe"}),
                signed_by=source.signed_by,
            )


def digest_tree(directory: Path) -> str:
    """SHA-256 over the names and contents of all files below a directory."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(directory)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
