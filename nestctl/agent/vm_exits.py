"""How often a guest of this machine has left to its hypervisor: KVM's counter of the whole virtual machine, in debugfs.

KVM counts for every virtual machine in kvm/PID-FD/exits, all vCPUs together (Documentation/virt/kvm/api.rst has the
same counters per vCPU, for the process that runs them alone). debugfs is opened without being mounted anywhere
(fsmount(2), Linux 5.2): what this process sees, no other does, and it is gone with it.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
from typing import Any

from .fact import NotFoundOut

# The numbers are those of x86-64; of fsopen(2) on they are the same everywhere (include/uapi/asm-generic/unistd.h).
SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT = 430, 431, 432
CLOSE_ON_EXEC = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
FSCONFIG_CMD_CREATE = 6
MOST_BYTES = 1 << 20  # of a command line

_directories: dict[str, list[int]] = {}  # by guest, open, for this process asks again and again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the subcommand `vm_exits`."""
    parser.add_argument("--guest", required=True, help="the name of the domain, as libvirt has it")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the count since the guest was started, or the reason why there is none."""
    document: dict[str, Any] = {"schema": "nestctl.vm_exits/1", "exits": None, "reason": ""}
    try:
        document["exits"] = read_exits(arguments.guest)
    except (NotFoundOut, OSError, ValueError) as error:
        document["reason"] = str(error)
    return document


def read_exits(guest: str) -> int:
    """Return how often the vCPUs of a guest have left. Raises `NotFoundOut`, and OSError with what the system says."""
    if guest not in _directories:
        _directories[guest] = _open_directories(find_qemu(guest))
    try:
        return sum(_read_number(directory) for directory in _directories[guest])
    except (OSError, ValueError):  # the guest was started anew: its next count is another's
        for directory in _directories.pop(guest):
            os.close(directory)
        raise


def _read_number(directory: int) -> int:
    # Opened anew each time: such a file cannot be read twice, and an open one would keep the virtual machine.
    descriptor = os.open("exits", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return parse_number(os.read(descriptor, 32))
    finally:
        os.close(descriptor)


def parse_number(text: bytes) -> int:
    """Read what is in a file of kvm/PID-FD. Raises ValueError."""
    return int(text)


def find_qemu(guest: str, proc: str = "/proc") -> int:
    """Return the process that runs a guest, by what libvirt gives it: '-name guest=NAME,debug-threads=on'."""
    for number in sorted(filter(str.isdigit, os.listdir(proc)), key=int):  # noqa: PTH208
        if is_of_guest(_read(f"{proc}/{number}/cmdline"), guest):
            return int(number)
    raise NotFoundOut(f"no process runs the guest '{guest}'")


def is_of_guest(command_line: bytes, guest: str) -> bool:
    """Tell whether a command line (proc_pid_cmdline(5)) is that of a guest's QEMU."""
    words = command_line.split(b"\0")
    names = [value for option, value in zip(words, words[1:]) if option == b"-name"]
    return any(f"guest={guest}".encode() in name.split(b",") for name in names)


def _open_directories(pid: int) -> list[int]:
    debugfs = _open_debugfs()
    try:
        directory = os.open("kvm", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=debugfs)
    except FileNotFoundError:
        raise NotFoundOut("KVM is not loaded there") from None
    finally:
        os.close(debugfs)
    try:
        names = [name for name in os.listdir(directory) if name.startswith(f"{pid}-")]  # noqa: PTH208
        if not names:
            raise NotFoundOut("KVM runs no guest of that process, so nothing is counted")
        return [os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory) for name in names]
    finally:
        os.close(directory)


def _open_debugfs() -> int:
    """Open debugfs. Raises `NotFoundOut` where this process may not, or the kernel cannot."""
    context = _call(SYS_FSOPEN, b"debugfs", CLOSE_ON_EXEC)
    try:
        _call(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _call(SYS_FSMOUNT, context, CLOSE_ON_EXEC, 0)
    finally:
        os.close(context)


def _call(number: int, *arguments: Any) -> int:
    result = int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))
    if result < 0:
        failed = ctypes.get_errno()
        if failed == errno.EPERM:
            raise NotFoundOut("KVM's counters in debugfs are only for root")
        raise NotFoundOut(f"debugfs cannot be opened: {os.strerror(failed)}")
    return result


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(MOST_BYTES)
    except OSError:  # it has ended meanwhile
        return b""
