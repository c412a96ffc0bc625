"""What is measured, as data. How it is measured inside a level is in `nestctl.agent.measure`."""

from __future__ import annotations

from collections.abc import Sequence

from nestctl.errors import UsageError
from nestctl.model.samples import Better, Workload

BOOT_TO_SSH = "boot_to_ssh"
BOOT_IN_GUEST = "boot_in_guest"

US_PER_NS = 1e-3
S_PER_NS = 1e-9
GIB_PER_LINE_TIMES_NS_PER_S = 64 / 2**30 * 1e9  # operations are 64-byte lines

AGENT_WORKLOADS = (
    Workload(
        name="cpu",
        title="CPU loop",
        unit="ns",
        better=Better.LOWER,
        scale=1.0,
        about="one turn of a loop in user mode that touches no memory and leaves to no hypervisor",
    ),
    Workload(
        name="cpuid_exit",
        title="CPUID exit",
        unit="µs",
        better=Better.LOWER,
        scale=US_PER_NS,
        about="one exit of a micro-guest of this level to this level's KVM and back: "
        "what every guest one level below pays",
    ),
    Workload(
        name="memory_latency",
        title="Memory latency",
        unit="ns",
        better=Better.LOWER,
        scale=1.0,
        about="one load that has to wait for the load before it, scattered over 64 MiB",
    ),
    Workload(
        name="memory_bandwidth",
        title="Memory copy",
        unit="GiB/s",
        better=Better.HIGHER,
        scale=GIB_PER_LINE_TIMES_NS_PER_S,
        about="bytes copied from one 32 MiB buffer to another",
    ),
    Workload(
        name="disk_read",
        title="Disk read",
        unit="µs",
        better=Better.LOWER,
        scale=US_PER_NS,
        about="one random 4 KiB read past the page cache of this level, one at a time; "
        "the levels above may have it in theirs",
    ),
    Workload(
        name="disk_write",
        title="Disk write",
        unit="µs",
        better=Better.LOWER,
        scale=US_PER_NS,
        about="one random 4 KiB write and fdatasync; how much reaches the real disk is up to the cache mode above",
    ),
)
BOOT_WORKLOADS = (
    Workload(
        name=BOOT_TO_SSH,
        title="Boot to SSH",
        unit="s",
        better=Better.LOWER,
        scale=S_PER_NS,
        about="from the start of the domain to the first answer over SSH, by the clock of L0",
    ),
    Workload(
        name=BOOT_IN_GUEST,
        title="Boot in guest",
        unit="s",
        better=Better.LOWER,
        scale=S_PER_NS,
        about="from the start of the kernel to the end of the boot, by the guest's systemd",
    ),
)
WORKLOADS = AGENT_WORKLOADS + BOOT_WORKLOADS


def choose_workloads(names: Sequence[str]) -> tuple[Workload, ...]:
    """Pick workloads by name, all when there is none. Raises `UsageError` that lists the names there are."""
    known = {workload.name: workload for workload in WORKLOADS}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"There is no workload '{unknown[0]}'.", hint=f"Choose from {', '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(names)) if names else WORKLOADS
