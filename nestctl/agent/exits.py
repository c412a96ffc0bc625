"""What leaving a guest costs, by what made it leave: micro-guests of this machine, priced for those one level below.

KVM's own counters say whether the exits happened. Where they contradict what was done, the sample is void: a software
backend, for instance, may run the instruction itself and never leave.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from contextlib import ExitStack
from typing import Any, Callable, NamedTuple

from .fact import NotFoundOut
from .fingerprint import read_kvm_backend
from .flat_guest import KVM_EXIT_MMIO, FlatGuest, open_flat_guest
from .kvm import END_PORT, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_EXIT_IO, open_device, open_machine
from .kvm_stats import EXITS
from .sampling import Outcome, SampleRecord, Time, take_samples, take_timed, timed

HARDWARE_BACKENDS = ("kvm_intel", "kvm_amd")
TIMEOUT_S = 60.0
MOST_VCPUS = 32  # in one machine; every KVM allows more

KVM_IOEVENTFD = 0x4040AE79
KVM_GET_LAPIC = 0x8400AE8E
KVM_SET_LAPIC = 0x4400AE8F
LAPIC_SIZE = 0x400
LAPIC_SPURIOUS, LAPIC_ENABLED = 0xF0, 0x1FF  # Intel SDM volume 3, 11.9: bit 8 switches the controller on
LAPIC_TIMER, LAPIC_DEADLINE_MASKED = 0x320, 2 << 17 | 1 << 16 | 0xEF  # 11.5.4.1: TSC-deadline mode, masked
IOEVENTFD = struct.Struct("=QQIiI36x")  # struct kvm_ioeventfd: datamatch addr len fd flags
DEVICE_ADDRESS = 0x80000000  # no memory there: what is written goes to a device

# 32-bit code (Intel SDM volume 2); each loop runs esi times, and the last instruction ends the run.
_TURN = "4e 75"  # dec esi; jnz ...
_END = f"e6 {END_PORT:02x}"  # out END_PORT, al
LOOP = bytes.fromhex(f"{_TURN} fd {_END}")
CPUID = bytes.fromhex(f"31c0 0fa2 {_TURN} f9 {_END}")  # xor eax, eax; cpuid
VMCALL = bytes.fromhex(f"0f01c1 {_TURN} fa {_END}")
VMMCALL = bytes.fromhex(f"0f01d9 {_TURN} fa {_END}")
WRMSR = bytes.fromhex(f"0f30 {_TURN} fb {_END}")
IN = bytes.fromhex(f"ec {_TURN} fc {_END}")  # in al, dx
STORE = bytes.fromhex(f"8907 {_TURN} fb {_END}")  # mov [edi], eax
OUT_FOREVER = bytes.fromhex("ee ebfd")  # out dx, al; jmp
STORE_FOREVER = bytes.fromhex("8907 ebfc")  # mov [edi], eax; jmp

# KVM ignores what a guest writes there (kvm_set_msr_common in arch/x86/kvm/x86.c): the exit is all that is timed.
MSR_UCODE_REVISION = 0x8B
MSR_TSC_DEADLINE = 0x6E0
FAR_DEADLINE = 0x100  # the upper half of the deadline: minutes away at any clock rate
ELCR_PORT = 0x4D0  # of the interrupt controller in the kernel; kvm-unit-tests' inl_from_kernel reads it too
FREE_PORT = 0x1234  # handled by nobody in the kernel; kvm-unit-tests' inl_from_qemu
PROOF_EXITS = 100
# Of a sample: its end is another exit, and one to user space. Three levels down under emulation one takes milliseconds,
# and a sample of one would be two of them.
FEWEST_EXITS = 16
MOST_EXTRA = 2  # beyond those counted: the end of the run


class Exit(NamedTuple):
    """A cause of exits. `counter` is KVM's name for those; `is_exact` when it counts nothing else but the end."""

    how: str
    code: bytes
    registers: dict[str, int]
    counter: str = EXITS
    is_exact: bool = False
    has_pic: bool = False
    reason: int = 0  # of the return to user space, where every exit goes there


def measure_cpuid_exit(samples: int, target_ns: int) -> Outcome:
    """Time CPUID, the cheapest exit there is; operations are exits."""
    return _measure(Exit("cpuid; dec esi; jnz", CPUID, {}), samples, target_ns)


def measure_hypercall_exit(samples: int, target_ns: int) -> Outcome:
    """Time a hypercall that KVM does not know; operations are hypercalls."""
    is_amd = "AuthenticAMD" in _cpu_vendor() or "HygonGenuine" in _cpu_vendor()
    how = f"{'vmmcall' if is_amd else 'vmcall'} with a number that KVM does not know"
    code = VMMCALL if is_amd else VMCALL
    return _measure(Exit(how, code, {}, counter="hypercalls", is_exact=True), samples, target_ns)


def measure_msr_write_exit(samples: int, target_ns: int) -> Outcome:
    """Time the write of a register that KVM ignores; operations are writes."""
    registers = {"ecx": MSR_UCODE_REVISION}
    return _measure(Exit("wrmsr to IA32_BIOS_SIGN_ID, which KVM ignores", WRMSR, registers), samples, target_ns)


def measure_port_kernel_exit(samples: int, target_ns: int) -> Outcome:
    """Time reading a port of the interrupt controller in the kernel; operations are reads."""
    cause = Exit(
        "in al, 0x4d0: the interrupt controller in the kernel",
        IN,
        {"edx": ELCR_PORT},
        counter="io_exits",
        is_exact=True,
        has_pic=True,
    )
    return _measure(cause, samples, target_ns)


def measure_port_user_exit(samples: int, target_ns: int) -> Outcome:
    """Time writing to a port that user space handles; operations are returns to user space and back."""
    cause = Exit(
        "out 0x1234, al; machine code calls KVM_RUN again at once, so no device model is in it",
        OUT_FOREVER,
        {"edx": FREE_PORT},
        counter="io_exits",
        is_exact=True,
        reason=KVM_EXIT_IO,
    )
    return _measure(cause, samples, target_ns)


def measure_mmio_user_exit(samples: int, target_ns: int) -> Outcome:
    """Time a store to where no memory is; operations are returns to user space and back."""
    cause = Exit(
        "mov [edi], eax where no memory is; machine code calls KVM_RUN again at once",
        STORE_FOREVER,
        {"edi": DEVICE_ADDRESS},
        counter="mmio_exits",
        is_exact=True,
        reason=KVM_EXIT_MMIO,
    )
    return _measure(cause, samples, target_ns)


def measure_notify_exit(samples: int, target_ns: int) -> Outcome:
    """Time a store that becomes an event in the kernel, as a virtio device is notified; operations are stores."""
    cause = Exit("mov [edi], eax to an address with an ioeventfd, as virtio notifies", STORE, {"edi": DEVICE_ADDRESS})
    return _measure(cause, samples, target_ns, _add_ioeventfd)


def measure_timer_exit(samples: int, target_ns: int) -> Outcome:
    """Time setting the TSC deadline of the timer in the kernel; operations are writes."""
    registers = {"ecx": MSR_TSC_DEADLINE, "edx": FAR_DEADLINE}
    cause = Exit("wrmsr to IA32_TSC_DEADLINE, minutes ahead", WRMSR, registers)
    return _measure(cause, samples, target_ns, _set_deadline_mode)


def measure_nested_exit(samples: int, target_ns: int) -> Outcome:
    """Time the exit of a guest's guest to its hypervisor, and back into it; operations are exits.

    Each is checked by the micro-hypervisor (nested.py), so KVM's counters are not needed.
    """
    from .nested import open_micro_hypervisor  # it is compiled only where it is measured

    with open_device() as device, open_micro_hypervisor(device) as hypervisor:
        with hypervisor.guest.deadline(TIMEOUT_S):
            taken = take_samples(hypervisor.run, samples, target_ns, 1)
        feature = hypervisor.vendor.feature.upper()
    how = f"a micro-hypervisor with {feature} runs a guest that executes CPUID, and checks every exit"
    return {"samples": taken, "how": how}


def measure_vm_create(samples: int, target_ns: int) -> Outcome:
    """Time making a virtual machine and removing it; operations are machines."""
    with open_device() as device:

        def create(count: int) -> None:
            for _ in range(count):
                os.close(fcntl.ioctl(device, KVM_CREATE_VM, 0))

        taken = take_samples(create, samples, target_ns, 1)
    return {"samples": taken, "how": "KVM_CREATE_VM and close, without memory and vCPU", "remark": render_remark("")}


def measure_vcpu_create(samples: int, target_ns: int) -> Outcome:
    """Time making a vCPU; operations are vCPUs, at most 32 in a machine of their own."""
    with open_device() as device:

        def create(count: int) -> SampleRecord:
            with ExitStack() as stack:
                machine = stack.enter_context(open_machine(device))

                def add(number: int) -> None:
                    for place in range(number):
                        stack.callback(os.close, fcntl.ioctl(machine, KVM_CREATE_VCPU, place))

                return timed(add, count)

        taken = take_timed(create, samples, target_ns, 1, most=MOST_VCPUS)
    return {"samples": taken, "how": "KVM_CREATE_VCPU, up to 32 in one machine", "remark": render_remark("")}


Prepare = Callable[[int, FlatGuest, ExitStack], Any]


def _measure(cause: Exit, samples: int, target_ns: int, prepare: Prepare = lambda *_: None) -> Outcome:
    with ExitStack() as stack:
        device = stack.enter_context(open_device())
        machine, guest = stack.enter_context(open_flat_guest(device, has_pic=cause.has_pic))
        stack.enter_context(guest.deadline(TIMEOUT_S))
        prove_exits(guest)
        prepare(machine, guest, stack)
        taken = take_timed(time_exits(guest, cause), samples, target_ns, FEWEST_EXITS, warm_ups=1)
        no_stats = guest.no_stats
    remark = render_remark(f"the exits are not proved: {no_stats}" if no_stats else "")
    return {"samples": taken, "how": f"a guest without operating system in /dev/kvm: {cause.how}", "remark": remark}


def prove_exits(guest: FlatGuest) -> None:
    """Leave a few times by CPUID, which no hardware lets a guest run, and look whether KVM saw it.

    Raises `NotFoundOut` when it did not: then nothing here is an exit. A kernel without counters is believed.
    """
    before = guest.read_counters()
    guest.load(CPUID, esi=PROOF_EXITS)
    guest.run()
    counted = guest.read_counters().get(EXITS, PROOF_EXITS) - before.get(EXITS, 0)
    if counted < PROOF_EXITS:
        raise NotFoundOut(
            f"{read_kvm_backend() or 'the backend of /dev/kvm'} runs a guest's instructions itself: KVM counted "
            f"{counted} of {PROOF_EXITS} CPUID exits"
        )


def time_exits(guest: FlatGuest, cause: Exit, operations_per_exit: int = 1) -> Time:
    """Return what times a number of operations, with the exits that KVM counted meanwhile."""

    def time_operations(count: int) -> SampleRecord:
        guest.load(cause.code, **cause.registers, **({} if cause.reason else {"esi": count}))
        before = guest.read_counters()
        if cause.reason:
            record = timed(lambda number: guest.run_again(number, cause.reason), count)
        else:
            record = timed(lambda _: guest.run(), count)
        return with_exits(record, before, guest.read_counters(), cause, operations_per_exit)

    return time_operations


def with_exits(
    record: SampleRecord, before: dict[str, int], after: dict[str, int], cause: Exit, operations_per_exit: int = 1
) -> SampleRecord:
    """Add the exits that KVM counted to a sample; where they cannot be those that were caused, it is void."""
    if cause.counter not in after:
        return record
    counted, operations = after[cause.counter] - before[cause.counter], record["operations"]
    record["exits"] = after[EXITS] - before[EXITS]
    if counted < operations // operations_per_exit or (cause.is_exact and counted > operations + MOST_EXTRA):
        record["void"] = f"KVM counted {counted} '{cause.counter}' for {operations} operations" + _software()
    return record


def _software() -> str:
    backend = read_kvm_backend()
    return "" if backend in HARDWARE_BACKENDS else f"; {backend or 'an unknown backend'} is software"


def render_remark(text: str) -> str:
    """Say beside a figure what takes from it: that what serves KVM is software, then `text`; '' for neither."""
    software = _software().lstrip("; ")
    return "; ".join(part for part in (software and f"{software}, not the cost of hardware", text) if part)


def _cpu_vendor() -> str:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123
        return next((line for line in file if line.startswith("vendor_id")), "")


def _add_ioeventfd(machine: int, _guest: FlatGuest, stack: ExitStack) -> None:
    event = ctypes.CDLL(None, use_errno=True).eventfd(0, os.O_NONBLOCK | os.O_CLOEXEC)  # os.eventfd is of Python 3.10
    if event < 0:
        raise NotFoundOut("the system refused an eventfd: " + os.strerror(ctypes.get_errno()))
    stack.callback(os.close, event)
    fcntl.ioctl(machine, KVM_IOEVENTFD, IOEVENTFD.pack(0, DEVICE_ADDRESS, 4, event, 0))


def change_lapic(guest: FlatGuest, registers: dict[int, int]) -> bytearray:
    """Set registers of a vCPU's APIC, by their offsets, and return what all of them are then."""
    state = bytearray(LAPIC_SIZE)
    fcntl.ioctl(guest.vcpu, KVM_GET_LAPIC, state)
    for offset, value in registers.items():
        struct.pack_into("=I", state, offset, value)
    fcntl.ioctl(guest.vcpu, KVM_SET_LAPIC, bytes(state))
    fcntl.ioctl(guest.vcpu, KVM_GET_LAPIC, state)
    return state


def _set_deadline_mode(_machine: int, guest: FlatGuest, _stack: ExitStack) -> None:
    """Switch the interrupt controller on and its timer to TSC-deadline mode, masked: it never interrupts."""
    state = change_lapic(guest, {LAPIC_SPURIOUS: LAPIC_ENABLED, LAPIC_TIMER: LAPIC_DEADLINE_MASKED})
    if struct.unpack_from("=I", state, LAPIC_TIMER)[0] != LAPIC_DEADLINE_MASKED:
        raise NotFoundOut("KVM offers no TSC-deadline timer here")
