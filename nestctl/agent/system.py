"""Find out what no file of /proc and /sys says: space on disk, the kernel's log, a CPU's registers, versions."""

from __future__ import annotations

import ctypes
import os
import re
from typing import Any

from .fact import NotFoundOut, find_out, unknown

NOT_RUN = "It was not started to be asked."

SYSLOG_ACTION_READ_ALL = 3  # syslog(2)
LARGEST_LOG = 1 << 20  # bytes; CONFIG_LOG_BUF_SHIFT is 18 by default
# What the kernel says when the firmware, or the kernel itself, keeps KVM from VMX or SVM
# (arch/x86/kernel/cpu/{feat_ctl,amd}.c, arch/x86/kvm/{vmx/vmx,svm/svm}.c, and older wordings of them).
LOG_LINES = re.compile(
    r"VMX .*disabled by BIOS|VMX not enabled \(by BIOS\)|SVM disabled \(by BIOS\)|kvm.*disabled by bios|"
    r"(VMX|SVM) not supported by CPU|no hardware support|kvm_(intel|amd).*not supported|"
    r"Nested (Virtualization|Paging) enabled|kvm \[\d+\]: .*mode initialized",
    re.IGNORECASE,
)

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - nothing is written there
MSR_DEVICE = "/dev/cpu/0/msr"
IA32_FEATURE_CONTROL = 0x3A  # Intel SDM volume 4, table 2-2
IA32_VMX_BASIC = 0x480  # Intel SDM volume 3, appendix A.1
MSR_VM_CR = 0xC0010114  # AMD APM volume 2, 15.30.1

PROGRAM_TIMEOUT_S = 2.0


def read_facts(*, ask_qemu: bool = False, ask_libvirt: bool = False) -> dict[str, Any]:
    """Find everything out; QEMU and libvirt are started, for their version only, where that is asked for."""
    return {
        "disk_available_mib": find_out(read_disk),
        "shared_memory_mib": find_out(lambda: _free_mib(SHARED_MEMORY)),
        "kernel_log": find_out(read_kernel_log),
        "msr_feature_control": find_out(lambda: read_msr(IA32_FEATURE_CONTROL)),
        "msr_vmx_basic": find_out(lambda: read_msr(IA32_VMX_BASIC)),
        "msr_vm_cr": find_out(lambda: read_msr(MSR_VM_CR)),
        "qemu_version": find_out(lambda: ask_version(QEMU_COMMANDS)) if ask_qemu else unknown(NOT_RUN),
        "libvirt_version": find_out(lambda: ask_version(LIBVIRT_COMMANDS)) if ask_libvirt else unknown(NOT_RUN),
    }


def read_disk() -> int:
    """Return the space, in MiB, where nestctl keeps its images: below /var for root, else the user's own."""
    directory = "/var/cache" if os.geteuid() == 0 else os.path.expanduser("~")  # noqa: PTH111
    return _free_mib(directory)


def _free_mib(directory: str) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize >> 20


def read_kernel_log() -> list[str]:
    """Return the lines of the kernel's log about VMX, SVM and KVM; raises OSError where the log may not be read."""
    buffer = ctypes.create_string_buffer(LARGEST_LOG)
    libc = ctypes.CDLL(None, use_errno=True)
    size = libc.klogctl(SYSLOG_ACTION_READ_ALL, buffer, LARGEST_LOG)
    if size < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the kernel's log may not be read: {os.strerror(number)}")
    lines = buffer.raw[:size].decode("utf-8", "replace").splitlines()
    return [re.sub(r"^<\d+>\[[ .\d]+\]\s*", "", line)[:200] for line in lines if LOG_LINES.search(line)][:20]


def read_msr(number: int) -> str:
    """Return a model-specific register of CPU 0 in hexadecimal; needs root and the module 'msr' (msr(4))."""
    descriptor = os.open(MSR_DEVICE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.pread(descriptor, 8, number)
    finally:
        os.close(descriptor)
    return f"{int.from_bytes(raw, 'little'):#x}"


QEMU_COMMANDS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm", "qemu-kvm")
LIBVIRT_COMMANDS = ("libvirtd", "virtqemud", "/usr/sbin/libvirtd")


def ask_version(programs: tuple[str, ...]) -> str:
    """Return what the first of the programs that is there says with `--version`."""
    # Loaded only here: where the packages name the version, this is not needed, and it takes as long as all the rest.
    import shutil
    import subprocess

    program = next((path for path in map(shutil.which, programs) if path), None)
    if not program:
        raise NotFoundOut(f"There is no {', no '.join(repr(name) for name in programs)}.")
    try:
        said = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROGRAM_TIMEOUT_S,
            check=False,
        ).stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        raise NotFoundOut(f"'{program} --version' said nothing within {PROGRAM_TIMEOUT_S:g} s.") from None
    version = re.search(r"\d+\.\d+(\.\d+)*", said)
    if not version:
        raise NotFoundOut(f"'{program} --version' names no version.")
    return version.group(0)
