"""What the libvirt of a guest has asked of its QEMU, kept for guests of the same kind that are made after it.

libvirt starts every QEMU binary it has not seen yet, twice, and asks what it can do: five seconds in an emulated guest.
The answers stay in its cache. It believes what it finds there only as long as the binary, libvirt itself, the kernel,
the CPU and what KVM offers are what they were (virQEMUCapsIsValid in src/qemu/qemu_capabilities.c of libvirt), so
answers that do not fit are asked for again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

from nestctl.adapters.files import write_atomically
from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.image.store import answers_directory
from nestctl.lab.plan import GuestPlan
from nestctl.lab.render import EMULATOR
from nestctl.model.seed import Seed

# libvirt names the file by the SHA-256 of the binary's path (virFileCacheGetFileName).
GUEST_FILE = f"var/cache/libvirt/qemu/capabilities/{hashlib.sha256(EMULATOR.encode()).hexdigest()}.xml"

# What makes two machines give their guests different CPUs; frequencies, which change, are not among it.
_CPU_LINES = ("model name", "stepping", "microcode", "flags")

# Raised when the template of a domain gives guests another CPU.
_CPU_VERSION = 2


def find_answers(plan: GuestPlan) -> bytes:
    """Find what the libvirt of an earlier guest of this kind was told; nothing when there was none."""
    path = _path(plan)
    return path.read_bytes() if plan.is_hypervisor and path.exists() else b""


def keep_answers(plan: GuestPlan, shell: Shell, deadline: Deadline) -> None:
    """Keep what the libvirt of a guest was told, if that is not there yet.

    Only for a guest that was made just now, and not of one whose seed lets others in or runs commands: nobody but
    nestctl may have been in it, for others will believe it.
    """
    path = _path(plan)
    if path.exists() or plan.contents != Seed():
        return
    completed = shell.run(("cat", f"/{GUEST_FILE}"), deadline=deadline)
    if completed.exit_code == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, completed.stdout, mode=0o600)


def _path(plan: GuestPlan) -> Path:
    kind = [
        _CPU_VERSION,
        plan.level,
        plan.place.is_emulated,
        plan.cpu_model,
        plan.cpu_features_off,
        plan.kernel_args,
        platform.release(),
        _read_cpu(),
    ]
    return answers_directory(plan.image) / f"{hashlib.sha256(json.dumps(kind).encode()).hexdigest()[:16]}.xml"


def _read_cpu() -> list[str]:
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    return [line for line in first.splitlines() if line.startswith(_CPU_LINES)]
