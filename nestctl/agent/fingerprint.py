"""What a level is made of, as far as it changes what is measured there."""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path("/")
KVM_MODULES = ("kvm", "kvm_intel", "kvm_amd")
PROGRAMS = {"qemu": "qemu-system-x86_64", "libvirt": "libvirtd"}
ASK_S = 60  # QEMU takes seconds to start, two levels down


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the subcommand `fingerprint`: there are none."""


def run(_arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the document of the subcommand `fingerprint`: names and values, all of them text."""
    return {"schema": "nestctl.fingerprint/1", "environment": {**read_fingerprint(), **read_versions()}}


def read_fingerprint(root: Path = ROOT) -> dict[str, str]:
    """Name what the figures of this machine depend on; a value that cannot be read is left out."""
    cpuinfo = _text(root / "proc/cpuinfo")
    cpu = root / "sys/devices/system/cpu"
    memory = root / "sys/kernel/mm"
    found = {
        "boot_id": _text(root / "proc/sys/kernel/random/boot_id"),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu_model": _field(cpuinfo, "model name"),
        "cpus": str(os.cpu_count() or ""),
        "microcode": _field(cpuinfo, "microcode"),
        "is_virtual_machine": "yes" if "hypervisor" in _field(cpuinfo, "flags").split() else "no",
        "memory_mib": _memory_mib(_text(root / "proc/meminfo")),
        "clocksource": _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "transparent_hugepages": _chosen(_text(memory / "transparent_hugepage/enabled")),
        "reserved_hugepages": _text(root / "proc/sys/vm/nr_hugepages"),
        "ksm": _text(memory / "ksm/run"),
        "governor": _text(cpu / "cpu0/cpufreq/scaling_governor"),
        "smt": _text(cpu / "smt/active"),
        "largest_cache": _largest_cache(cpu / "cpu0/cache"),
        "kvm_backend": read_kvm_backend(),
        "nested_parameter": _text(root / "sys/module/kvm_intel/parameters/nested")
        or _text(root / "sys/module/kvm_amd/parameters/nested"),
        "python": platform.python_version(),
        **_kvm_parameters(root / "sys/module"),
        **_mitigations(cpu / "vulnerabilities"),
    }
    return {name: value for name, value in found.items() if value}


def _kvm_parameters(modules: Path) -> dict[str, str]:
    """Read every parameter of KVM's modules, as 'kvm_amd.npt'."""
    paths = (path for module in KVM_MODULES for path in sorted((modules / module / "parameters").glob("*")))
    return {f"{path.parts[-3]}.{path.name}": _text(path) for path in paths}


def _mitigations(directory: Path) -> dict[str, str]:
    return {f"mitigation.{path.name}": _text(path) for path in sorted(directory.glob("*"))}


def read_versions() -> dict[str, str]:
    """Start QEMU and libvirt to ask for their versions, which takes seconds where it is slow."""
    return {name: version for name, program in PROGRAMS.items() if (version := _version(program))}


def _version(program: str) -> str:
    """Return the first line that a program answers with; empty where it is not installed."""
    try:
        completed = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return completed.stdout.decode(errors="replace").partition("\n")[0].strip()


def read_kvm_backend() -> str:
    """Name the module that serves /dev/kvm: kvm_intel and kvm_amd use hardware, any other is software."""
    return " ".join(sorted(path.name for path in Path("/sys/module").glob("kvm_*")))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
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


def _largest_cache(directory: Path) -> str:
    caches = {_text(index / "level"): _text(index / "size") for index in directory.glob("index*")}
    return caches[max(caches)] if caches else ""
