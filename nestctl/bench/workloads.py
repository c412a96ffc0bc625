"""What is measured, as data. How it is measured inside a level is in `nestctl.agent.measure`."""

from __future__ import annotations

from collections.abc import Sequence

from nestctl.bench.programs import read_programs
from nestctl.errors import UsageError
from nestctl.model.samples import Better, Family, Workload

BOOT_TO_SSH = "boot_to_ssh"
BOOT_IN_GUEST = "boot_in_guest"

US_PER_NS = 1e-3
S_PER_NS = 1e-9
GIB_PER_LINE_TIMES_NS_PER_S = 64 / 2**30 * 1e9  # operations are 64-byte lines

SYSTEM_WORKLOADS = (
    Workload(
        name="cpu",
        title="CPU loop",
        unit="ns",
        better=Better.LOWER,
        scale=1.0,
        about="one turn of a loop in user mode that touches no memory and leaves to no hypervisor",
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


def _system(name: str, title: str, unit: str, about: str) -> Workload:
    scale = {"ns": 1.0, "µs": US_PER_NS}[unit]
    return Workload(name=name, title=title, unit=unit, better=Better.LOWER, scale=scale, about=about)


KERNEL_WORKLOADS = (
    _system("syscall", "System call", "ns", "a system call that does nothing (getppid)"),
    _system("wake_same_cpu", "Switch, one CPU", "µs", "a byte to another process on the same CPU and one back"),
    _system("wake_other_cpu", "Wake, two CPUs", "µs", "a byte to a process that sleeps on another CPU and one back"),
    _system("fork_exec", "Start of a process", "µs", "starting /bin/true and waiting for its end"),
    _system("timer_wake", "Timer lateness", "µs", "by how much a sleep of 1 ms is too long"),
)


def _micro(name: str, title: str, about: str, *, unit: str = "µs") -> Workload:
    scale = {"ns": 1.0, "µs": US_PER_NS}[unit]
    return Workload(
        name=name,
        title=title,
        unit=unit,
        better=Better.LOWER,
        scale=scale,
        about=about,
        family=Family.MICRO_GUEST,
    )


MICRO_WORKLOADS = (
    _micro(
        "cpuid_exit",
        "CPUID exit",
        "one exit of a micro-guest of this level to this level's KVM and back: what every guest one level below pays",
    ),
    _micro("hypercall_exit", "Hypercall", "a hypercall that this level's KVM does not know"),
    _micro("msr_write_exit", "MSR write", "writing a model-specific register that this level's KVM ignores"),
    _micro("port_kernel_exit", "Port read, kernel", "reading a port of the interrupt controller in this kernel"),
    _micro("port_user_exit", "Port write, user", "writing a port that a program of this level handles, as QEMU does"),
    _micro("mmio_user_exit", "MMIO write, user", "a store to a device that a program of this level handles"),
    _micro("notify_exit", "MMIO notification", "a store that wakes a device in this level's kernel, as virtio does"),
    _micro("timer_exit", "Timer deadline", "setting the TSC deadline of the timer in this level's kernel"),
    _micro(
        "nested_exit",
        "Exit of a guest's guest",
        "an exit from two levels below to the hypervisor one level below and back, emulated by this level's KVM",
    ),
    _micro("ipi", "Interrupt to a vCPU", "an interrupt from one vCPU to another that runs, until its handler has run"),
    _micro(
        "halt_wake",
        "Halt and wake",
        "an interrupt to a vCPU that has halted, and its answer to the first, which has halted, too: two wake-ups",
    ),
    _micro(
        "first_touch_4k",
        "First touch, 4 KiB pages",
        "a guest's first store into each 4 KiB of memory that this level gives in 4 KiB pages, per 4 KiB",
    ),
    _micro(
        "first_touch_2m",
        "First touch, 2 MiB pages",
        "the same where this level gives 2 MiB pages, per 4 KiB",
    ),
    _micro("dirty_log", "Dirty logging", "a guest's store into a 4 KiB page whose writing is noted, as for migration"),
    _micro("vm_create", "VM creation", "making a virtual machine without memory and vCPU, and removing it"),
    _micro("vcpu_create", "vCPU creation", "making a vCPU"),
)


def _walk(pages: str, name: str, size: str) -> Workload:
    page = {"4k": "4 KiB", "2m": "2 MiB"}[pages]
    return Workload(
        name=f"walk_{pages}_{name}",
        title=f"Load, {page} pages, {size}",
        unit="ns",
        better=Better.LOWER,
        scale=1.0,
        about=f"one load that waits for the load before it, scattered over {size} in {page} pages; "
        "the difference between page sizes is the walk through the page tables of all levels",
    )


# From what a cache of the first level holds to what no TLB reaches (nestctl/agent/walks.py).
WALK_SIZES = {
    "32k": "32 KiB",
    "256k": "256 KiB",
    "2m": "2 MiB",
    "8m": "8 MiB",
    "64m": "64 MiB",
    "256m": "256 MiB",
    "1g": "1 GiB",
}
WALK_WORKLOADS = tuple(_walk(pages, *size) for size in WALK_SIZES.items() for pages in ("4k", "2m"))
AGENT_WORKLOADS = SYSTEM_WORKLOADS + KERNEL_WORKLOADS + WALK_WORKLOADS + MICRO_WORKLOADS
BOOT_WORKLOADS = (
    Workload(
        name=BOOT_TO_SSH,
        title="Boot to SSH",
        unit="s",
        better=Better.LOWER,
        scale=S_PER_NS,
        about="from the start of the domain to the first answer over SSH, by the clock of L0",
        family=Family.BOOT,
    ),
    Workload(
        name=BOOT_IN_GUEST,
        title="Boot in guest",
        unit="s",
        better=Better.LOWER,
        scale=S_PER_NS,
        about="from the start of the kernel to the end of the boot, by the guest's systemd",
        family=Family.BOOT,
    ),
)
PROGRAM_WORKLOADS = tuple(program.workload for program in read_programs())
WORKLOADS = AGENT_WORKLOADS + PROGRAM_WORKLOADS + BOOT_WORKLOADS

# What `--quick` measures: one of each kind.
QUICK_WORKLOADS = (
    "cpu",
    "memory_latency",
    "memory_bandwidth",
    "disk_read",
    "disk_write",
    "syscall",
    "wake_same_cpu",
    "cpuid_exit",
    "hypercall_exit",
    "first_touch_4k",
    BOOT_TO_SSH,
    BOOT_IN_GUEST,
)

# What is measured only with `--full`: it takes long, or says again what another row says.
FULL_WORKLOADS = (
    *(workload.name for workload in WALK_WORKLOADS),
    "vm_create",
    "vcpu_create",
    "fio_qd1",
    "fio_qd32",
    "fio_fsync",
    "sysbench_threads",
    "gcc_compile",
    "cyclictest_p99",
    "redis_set",
)
DEFAULT_WORKLOADS = tuple(workload.name for workload in WORKLOADS if workload.name not in FULL_WORKLOADS)


def choose_workloads(names: Sequence[str]) -> tuple[Workload, ...]:
    """Pick workloads by name, all when there is none. Raises `UsageError` that lists the names there are."""
    known = {workload.name: workload for workload in WORKLOADS}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"There is no workload '{unknown[0]}'.", hint=f"Choose from {', '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(names)) if names else WORKLOADS
