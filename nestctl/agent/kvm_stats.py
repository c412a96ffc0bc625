"""KVM's own counters: how many exits of a micro-guest really happened (KVM_GET_STATS_FD, Linux 5.14).

The layout is that of Documentation/virt/kvm/api.rst, 4.133: a header, one descriptor per counter, and the counters.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from .fact import NotFoundOut

KVM_GET_STATS_FD = 0xAECE
HEADER = struct.Struct("=6I")  # struct kvm_stats_header: flags name_size num_desc id_offset desc_offset data_offset
DESCRIPTOR = struct.Struct("=IhHII")  # struct kvm_stats_desc: flags exponent size offset bucket_size; then the name
VALUE = struct.Struct("=Q")
MOST_BYTES = 1 << 20  # a vCPU of Linux 6.1 has 5 KiB

# The counters of a vCPU that say what an exit was for (arch/x86/include/asm/kvm_host.h: struct kvm_vcpu_stat).
EXITS = "exits"


class Stats:
    """The counters of one vCPU, each read anew from an open descriptor. Raises OSError when the kernel has none."""

    def __init__(self, vcpu: int) -> None:
        try:
            self._descriptor = fcntl.ioctl(vcpu, KVM_GET_STATS_FD, 0)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                raise NotFoundOut("this kernel does not count exits per vCPU (KVM_GET_STATS_FD, Linux 5.14)") from error
            raise
        try:
            self._offsets = self._read_offsets()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptor; the vCPU's own goes on."""
        os.close(self._descriptor)

    def read(self) -> dict[str, int]:
        """Return every counter that is a single number, by its name; all of them are of one moment."""
        first, last = min(self._offsets.values()), max(self._offsets.values())
        counters = os.pread(self._descriptor, last + VALUE.size - first, first)
        return {name: VALUE.unpack_from(counters, at - first)[0] for name, at in self._offsets.items()}

    def _read_offsets(self) -> dict[str, int]:
        header = os.pread(self._descriptor, HEADER.size, 0)
        _, name_size, count, _, descriptors_at, data_at = HEADER.unpack(header)
        size = DESCRIPTOR.size + name_size
        if count * size > MOST_BYTES:
            raise NotFoundOut(f"the kernel speaks of {count} counters with names of {name_size} bytes")
        table = os.pread(self._descriptor, count * size, descriptors_at)
        places = parse_descriptors(table, name_size, data_at)
        if not places:
            raise NotFoundOut("the kernel counts nothing of a vCPU")
        return places


def parse_descriptors(table: bytes, name_size: int, data_at: int) -> dict[str, int]:
    """Return the place of every counter that is a single number, in bytes from the start of the descriptor's file."""
    places = {}
    size = DESCRIPTOR.size + name_size
    for at in range(0, len(table) - size + 1, size):
        _, _, values, offset, _ = DESCRIPTOR.unpack_from(table, at)
        name = table[at + DESCRIPTOR.size : at + size].split(b"\0")[0].decode("ascii", "replace")
        if values == 1:
            places[name] = data_at + offset
    return places
