"""Read what the kernel tells about this machine's processor and memory.

Every function takes the `Tree` to read from, so that a recorded machine is read by the same code.
"""

from __future__ import annotations

import platform
from functools import lru_cache
from typing import Any

from .fact import Fact, NotFoundOut, find_out
from .tree import Tree

CPUINFO = "proc/cpuinfo"
LARGEST_CPUINFO = 16 << 20  # bytes; 8,192 processors (the most of CONFIG_NR_CPUS) have about 2 KiB each
MEMINFO = "proc/meminfo"
KERNEL_RELEASE = "proc/sys/kernel/osrelease"

# What is kept of /proc/cpuinfo, and of the first processor only: s390 also prints each one's serial number.
CPUINFO_KEYS = frozenset(
    (
        *("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags", "vmx flags", "bugs"),
        *("Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part"),  # arm64
        *("features", "cpu", "platform", "machine", "firmware", "MMU"),  # s390, ppc64
    )
)

# The line with the processor's features, by architecture (arch/*/kernel/cpu*).
FLAGS_KEYS = {"aarch64": "Features", "s390x": "features"}
MODEL_KEYS = {"ppc64le": "cpu", "ppc64": "cpu", "s390x": "vendor_id"}


def read_facts(tree: Tree, architecture: str = "") -> dict[str, Fact]:
    """Read every fact; `architecture` is that of a recorded machine, else this one's."""
    machine = architecture or platform.machine()
    # Once each: with hundreds of processors /proc/cpuinfo takes longer than all other files together.
    cpuinfo = lru_cache(maxsize=None)(lambda: tree.text(CPUINFO, limit=LARGEST_CPUINFO, keep=keep_cpuinfo))
    meminfo = lru_cache(maxsize=None)(lambda: tree.text(MEMINFO))
    return {
        "architecture": find_out(lambda: machine),
        "kernel": find_out(lambda: tree.word(KERNEL_RELEASE)),
        "cpu_model": find_out(lambda: parse_cpuinfo(cpuinfo(), MODEL_KEYS.get(machine, "model name"))),
        "cpu_flags": find_out(lambda: parse_cpuinfo(cpuinfo(), FLAGS_KEYS.get(machine, "flags")).split()),
        "cpu_platform": find_out(lambda: parse_cpuinfo(cpuinfo(), "platform")),
        "cpu_count": find_out(lambda: count_cpus(cpuinfo())),
        "memory_mib": find_out(lambda: parse_meminfo(meminfo(), "MemTotal")),
        "memory_available_mib": find_out(lambda: parse_meminfo(meminfo(), "MemAvailable")),
        "swap_mib": find_out(lambda: parse_meminfo(meminfo(), "SwapTotal")),
        "huge_pages": find_out(lambda: parse_huge_pages(meminfo())),
    }


def keep_cpuinfo(text: str) -> str:
    """Keep one line for each processor, and of the first what `CPUINFO_KEYS` names."""
    kept: list[str] = []
    seen: set[str] = set()
    for line in text.splitlines():
        name = line.partition(":")[0].strip()
        if name == "processor" or name.startswith("processor "):
            # s390: "processor 0: version = 00,  identification = 0A1B2C,  machine = 3906"
            kept.append(f"{name}\t: " if "identification" in line else line)
        elif name in CPUINFO_KEYS and name not in seen:
            seen.add(name)
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def parse_cpuinfo(text: str, key: str) -> str:
    """Return what /proc/cpuinfo says of the first CPU."""
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator and name.strip() == key:
            return value.strip()
    raise NotFoundOut(f"/proc/cpuinfo has no line '{key}'.")


def count_cpus(text: str) -> int:
    """Count the CPUs that are online: each has a line `processor : n` (s390: `processor n: ...`)."""
    names = [line.partition(":")[0].strip() for line in text.splitlines()]
    count = sum(name == "processor" or name.startswith("processor ") for name in names)
    if not count:
        raise NotFoundOut("/proc/cpuinfo has no line 'processor'.")
    return count


def parse_meminfo(text: str, key: str) -> int:
    """Return a figure of /proc/meminfo in MiB (the file counts in KiB and calls them kB)."""
    return _figure(text, key, unit="kB") // 1024


def parse_huge_pages(text: str) -> dict[str, Any]:
    """Return how many huge pages of the default size are there, how many of them are free, and their size."""
    return {
        "total": _figure(text, "HugePages_Total"),
        "free": _figure(text, "HugePages_Free"),
        "size_kib": _figure(text, "Hugepagesize", unit="kB"),
    }


def _figure(text: str, key: str, unit: str = "") -> int:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if name == key and words:
            number = words[0]
            # 16 digits of kB are more than a processor can address, and int() refuses numbers of thousands of digits.
            if words[1:] == ([unit] if unit else []) and number.isascii() and number.isdigit() and len(number) <= 16:
                return int(number)
            raise NotFoundOut(f"/proc/meminfo says '{value.strip()}' where '{key}' should be a number of {unit}.")
    raise NotFoundOut(f"/proc/meminfo has no line '{key}'.")
