"""What a level is made of, as far as it changes what is measured there."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def read_fingerprint() -> dict[str, str]:
    """Name what the figures of this machine depend on; a value that cannot be read is left out."""
    cpuinfo = _text("/proc/cpuinfo")
    found = {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu_model": _field(cpuinfo, "model name"),
        "cpus": str(os.cpu_count() or ""),
        "microcode": _field(cpuinfo, "microcode"),
        "is_virtual_machine": "yes" if "hypervisor" in _field(cpuinfo, "flags").split() else "no",
        "memory_mib": _memory_mib(_text("/proc/meminfo")),
        "clocksource": _text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "transparent_hugepages": _chosen(_text("/sys/kernel/mm/transparent_hugepage/enabled")),
        "largest_cache": _largest_cache(),
        "kvm_backend": read_kvm_backend(),
        "nested_parameter": _text("/sys/module/kvm_intel/parameters/nested")
        or _text("/sys/module/kvm_amd/parameters/nested"),
        "python": platform.python_version(),
    }
    return {name: value for name, value in found.items() if value}


def read_kvm_backend() -> str:
    """Name the module that serves /dev/kvm: kvm_intel and kvm_amd use hardware, any other is software."""
    return " ".join(sorted(path.name for path in Path("/sys/module").glob("kvm_*")))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _field(cpuinfo: str, name: str) -> str:
    found = re.search(r"^" + re.escape(name) + r"\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _memory_mib(meminfo: str) -> str:
    found = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return str(int(found.group(1)) // 1024) if found else ""


def _chosen(choices: str) -> str:
    """Of 'always [madvise] never' the word in brackets."""
    found = re.search(r"\[(\w+)\]", choices)
    return found.group(1) if found else ""


def _largest_cache() -> str:
    directories = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")
    caches = {_text(str(directory / "level")): _text(str(directory / "size")) for directory in directories}
    return caches[max(caches)] if caches else ""
