"""Read what the kernel tells about this machine in /proc and /sys.

`root` is where the tree begins, so that a recorded machine is read by the same code.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from .fact import Fact, NotFoundOut, find_out

CPUINFO = "proc/cpuinfo"
MEMINFO = "proc/meminfo"
KERNEL_RELEASE = "proc/sys/kernel/osrelease"
MODULES = "sys/module"


def read_facts(root: Path = Path("/"), architecture: str = "") -> dict[str, Fact]:
    """Read every fact; `architecture` is that of a recorded machine, else this one's."""
    return {
        "architecture": find_out(lambda: architecture or platform.machine()),
        "kernel": find_out(lambda: _read(root / KERNEL_RELEASE).strip()),
        "cpu_model": find_out(lambda: parse_cpuinfo(_read(root / CPUINFO), "model name")),
        "cpu_flags": find_out(lambda: parse_cpuinfo(_read(root / CPUINFO), "flags").split()),
        "cpu_count": find_out(lambda: count_cpus(_read(root / CPUINFO))),
        "memory_mib": find_out(lambda: parse_meminfo(_read(root / MEMINFO), "MemTotal")),
        "memory_available_mib": find_out(lambda: parse_meminfo(_read(root / MEMINFO), "MemAvailable")),
        "modules": find_out(lambda: read_modules(root / MODULES)),
    }


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def parse_cpuinfo(text: str, key: str) -> str:
    """Return what /proc/cpuinfo says of the first CPU."""
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator and name.strip() == key:
            return value.strip()
    raise NotFoundOut(f"/proc/cpuinfo has no line '{key}'.")


def count_cpus(text: str) -> int:
    """Count the CPUs that are online: each has a line `processor : n`."""
    count = sum(line.partition(":")[0].strip() == "processor" for line in text.splitlines())
    if not count:
        raise NotFoundOut("/proc/cpuinfo has no line 'processor'.")
    return count


def parse_meminfo(text: str, key: str) -> int:
    """Return a figure of /proc/meminfo in MiB (the file counts in KiB and calls them kB)."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if name == key and words:
            if len(words) == 2 and words[1] == "kB" and words[0].isascii() and words[0].isdigit():
                return int(words[0]) // 1024
            raise NotFoundOut(f"/proc/meminfo says '{value.strip()}' where '{key}' should be a number of kB.")
    raise NotFoundOut(f"/proc/meminfo has no line '{key}'.")


def read_modules(directory: Path) -> dict[str, Any]:
    """Return the KVM modules that are there, each with its state and its parameters as the kernel prints them.

    A module that was loaded has `initstate`; one that is built into the kernel has only `parameters`. Built in without
    any parameter it does not show at all.
    """
    found: list[Path] = [path for path in directory.iterdir() if path.name == "kvm" or path.name.startswith("kvm_")]
    return {path.name: _describe_module(path) for path in sorted(found)}


def _describe_module(path: Path) -> dict[str, Any]:
    parameters = path / "parameters"
    files = sorted(parameters.iterdir()) if parameters.is_dir() else []
    return {
        "state": "loaded" if (path / "initstate").exists() else "built in",
        "parameters": {file.name: find_out(lambda file=file: _read(file).strip()) for file in files},  # type: ignore[misc]
    }
