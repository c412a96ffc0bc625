"""Read what bears on whether guests of strangers are safe here: the kernel's fixes, its mitigations, its sharing."""

from __future__ import annotations

import re
import time
import zlib
from typing import Any, Iterator

from .fact import Fact, NotFoundOut, find_out
from .tree import Tree

BANNER = "proc/version"
SIGNATURE = "proc/version_signature"  # Ubuntu's kernels only
OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
VULNERABILITIES = "sys/devices/system/cpu/vulnerabilities"
SMT = "sys/devices/system/cpu/smt"
KSM = "sys/kernel/mm/ksm/run"
LIVE_PATCHES = "sys/kernel/livepatch"

# The packages of Debian and Ubuntu that may hold the changelog of the running kernel. That of Ubuntu's signed image is
# only about signing; the whole one is in the modules' package.
KERNEL_PACKAGES = ("linux-image-{0}", "linux-image-unsigned-{0}", "linux-modules-{0}")
DOCUMENTS = "usr/share/doc"

# Debian 12's linux-image-6.1.0-56-cloud-amd64 has one of 1.3 MB, 3.7 MB unpacked, with 4,400 CVEs; the newest entries
# are first.
LARGEST_PACKED = 8 << 20  # bytes
LARGEST_UNPACKED = 16 << 20  # bytes
LONGEST_READ_S = 0.25
STEP = 1 << 18  # bytes; between two looks at the clock
INCOMPLETE = b"incomplete"  # the line that says, in what is kept, that not all was read

CVE = re.compile(rb"CVE-(20\d\d)-(\d{4,7})")
BEGUN = re.compile(rb"[CVE\d-]{1,32}\Z")


def read_facts(tree: Tree, kernel: str) -> dict[str, Fact]:
    """Read every fact; `kernel` is the release, which names the package."""
    return {
        "kernel_banner": find_out(lambda: tree.text(BANNER, keep=keep_banner).strip()),
        "kernel_signature": find_out(lambda: tree.word(SIGNATURE)),
        "distribution": find_out(lambda: read_distribution(tree)),
        "live_patches": find_out(lambda: tree.names(LIVE_PATCHES)),
        "fixed_cves": find_out(lambda: read_changelogs(tree, kernel)),
        "cpu_vulnerabilities": find_out(lambda: read_vulnerabilities(tree)),
        "smt_active": find_out(lambda: read_switch(tree, f"{SMT}/active")),
        "smt_control": find_out(lambda: tree.word(f"{SMT}/control")),
        "ksm_run": find_out(lambda: read_number(tree, KSM)),
    }


def keep_banner(text: str) -> str:
    """Of /proc/version keep the release and what follows '#': between are who built it, where, and the compiler."""
    words = text.split()
    start = text.find("#")
    return " ".join(words[:3]) + (" " + " ".join(text[start:].split()) if start >= 0 else "") + "\n"


def read_distribution(tree: Tree) -> dict[str, str]:
    """Return ID and VERSION_ID of os-release(5); '' where it does not have one."""
    answers = [find_out(lambda path=path: tree.text(path, keep=keep_os_release)) for path in OS_RELEASE]  # type: ignore[misc]
    text = next((answer["value"] for answer in answers if "value" in answer), None)
    if text is None:
        raise NotFoundOut(f"Neither /{OS_RELEASE[0]} nor /{OS_RELEASE[1]} can be read.")
    found = dict(line.split("=", 1) for line in keep_os_release(text).splitlines())
    return {"id": found.get("ID", ""), "version": found.get("VERSION_ID", "")}


def keep_os_release(text: str) -> str:
    """Keep ID and VERSION_ID, without their quotes."""
    found = re.findall(r"^(ID|VERSION_ID)=[\"']?([\w.:+~-]*)[\"']?\s*$", text, re.MULTILINE | re.ASCII)
    return "".join(f"{key}={value}\n" for key, value in found)


def read_vulnerabilities(tree: Tree) -> dict[str, str]:
    """Return what the kernel says of each flaw of the CPU it knows; raises OSError where it is too old to know any."""
    found: dict[str, str] = {}
    for name in tree.names(VULNERABILITIES):
        said = find_out(lambda: tree.word(f"{VULNERABILITIES}/{name}")).get("value")  # noqa: B023 - called at once
        if said:
            found[name] = said
    if not found:
        raise NotFoundOut(f"/{VULNERABILITIES} has no file that can be read.")
    return found


def read_switch(tree: Tree, path: str) -> bool:
    """Read a file that says 0 or 1."""
    text = tree.word(path)
    if text not in ("0", "1"):
        raise NotFoundOut(f"/{path} says '{text[:40]}' where 0 or 1 should be.")
    return text == "1"


def read_number(tree: Tree, path: str) -> int:
    """Read a file that holds a number. Raises `NotFoundOut` where it says something else, or more than nine digits."""
    text = tree.word(path)
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise NotFoundOut(f"/{path} says '{text[:40]}' where a number should be.")
    return int(text)


def read_changelogs(tree: Tree, kernel: str) -> dict[str, Any]:
    """Return the CVEs that the changelogs of the running kernel's package name.

    {files, is_complete, cves: {year: 'number number ...'}}. Raises `NotFoundOut` where there is no changelog: packages
    of RPM keep theirs in a database that only their own programs read.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+~-]*", kernel):
        raise NotFoundOut("The kernel's release is not known, so its package is not found.")
    deadline_s = time.monotonic() + LONGEST_READ_S
    found: dict[str, bytes] = {}
    for package in KERNEL_PACKAGES:
        found.update(_read_package(tree, f"{DOCUMENTS}/{package.format(kernel)}", deadline_s))
    if not found:
        raise NotFoundOut(f"There is no changelog of the kernel's package in /{DOCUMENTS}.")
    return {
        "files": sorted(found),
        "is_complete": not any(INCOMPLETE in lines.splitlines() for lines in found.values()),
        "cves": _by_year(b"\n".join(found.values())),
    }


def _read_package(tree: Tree, directory: str, deadline_s: float) -> dict[str, bytes]:
    """Return what is kept of the changelogs in a directory, {path: lines}; nothing where it is not there."""

    def read(path: str) -> bytes:
        return tree.read(path, limit=LARGEST_PACKED, keep=lambda raw: keep_cves(raw, deadline_s))

    names = find_out(lambda: tree.names(directory, lambda name: name.startswith("changelog")))
    answers = {name: find_out(lambda name=name: read(f"{directory}/{name}")) for name in names.get("value", [])}  # type: ignore[misc]
    return {f"/{directory}/{name}": answer["value"] for name, answer in answers.items() if "value" in answer}


def _by_year(text: bytes) -> dict[str, str]:
    years: dict[str, set[int]] = {}
    for year, number in CVE.findall(text):
        years.setdefault(year.decode("ascii"), set()).add(int(number))
    return {year: " ".join(f"{number:04d}" for number in sorted(years[year])) for year in sorted(years)}


def keep_cves(raw: bytes, deadline_s: float) -> bytes:
    """Keep the CVEs that a changelog names, packed by gzip or not, one a line.

    The line 'incomplete' is added when size or time ended the reading, or the file is damaged.
    """
    found: set[bytes] = set()
    is_complete = True
    # The end of a step may cut a name in two: what may be the begin of one is left to the next step.
    rest = b""
    for part in _unpack(raw, deadline_s):
        if part == INCOMPLETE:
            is_complete = False
            break
        text = rest + part
        end = BEGUN.search(text, max(0, len(text) - 32))
        rest = end.group(0) if end else b""
        found.update(match.group(0) for match in CVE.finditer(text, 0, len(text) - len(rest)))
    else:
        found.update(match.group(0) for match in CVE.finditer(rest))
    is_complete = is_complete and INCOMPLETE not in raw[-64:].splitlines()
    return b"".join(name + b"\n" for name in sorted(found)) + (b"" if is_complete else INCOMPLETE + b"\n")


def _unpack(raw: bytes, deadline_s: float) -> Iterator[bytes]:
    """Yield the text in steps, and the word 'incomplete' where it ends too early."""
    if raw[:2] != b"\x1f\x8b":
        yield raw
        return
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16: with a header of gzip
    size = 0
    while raw and not unpacker.eof:
        try:
            part = unpacker.decompress(raw, STEP)
        except zlib.error:
            yield INCOMPLETE
            return
        raw = unpacker.unconsumed_tail
        size += len(part)
        yield part
        if size > LARGEST_UNPACKED or time.monotonic() > deadline_s:
            yield INCOMPLETE
            return
    if not unpacker.eof:
        yield INCOMPLETE
