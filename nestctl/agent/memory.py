"""Anonymous memory whose page size is asked for, and can be checked."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
from pathlib import Path

from .native import NotMeasuredError, address_of

HUGE_BYTES = 2 << 20
PAGE_BYTES = 4096
SMAPS = "/proc/self/smaps"


class Memory:
    """So many bytes, aligned to 2 MiB. Huge pages are asked for or refused (madvise(2)): defaults differ by system."""

    def __init__(self, size: int, *, is_huge: bool) -> None:
        self.size = size
        self.is_huge = is_huge
        # Private: Python's default is shared memory, which is never in huge pages and keeps what is dropped.
        self._mapping = mmap.mmap(-1, size + HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._offset = -address_of(self._mapping) % HUGE_BYTES
        self.start = address_of(self._mapping) + self._offset
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self._mapping.madvise(mmap.MADV_HUGEPAGE if is_huge else mmap.MADV_NOHUGEPAGE, self._offset, size)

    def fill(self) -> None:
        """Make every page exist, so that no first touch is timed."""
        ctypes.memset(self.start, 1, self.size)

    def drop(self) -> None:
        """Give all pages back: the next touch of each is a first one."""
        self._mapping.madvise(mmap.MADV_DONTNEED, self._offset, self.size)

    def close(self) -> None:
        """Give the memory back; its address must not be used any more."""
        self._mapping.close()

    def expect_pages(self, touched: int | None = None) -> None:
        """Raise `NotMeasuredError` unless nine tenths of what was touched are in huge pages, or none where refused."""
        huge = self.huge_bytes
        if self.is_huge and huge < (self.size if touched is None else touched) * 9 // 10:
            raise NotMeasuredError(f"{self.describe_pages()}: too little (/sys/kernel/mm/transparent_hugepage/enabled)")
        if huge and not self.is_huge:
            raise NotMeasuredError(f"{self.describe_pages()}, which were not wanted")

    def describe_pages(self) -> str:
        """Say how much of it is in huge pages now, in MiB."""
        huge = self.huge_bytes
        return f"{huge >> 20} of {self.size >> 20} MiB in 2 MiB pages" if huge else "none of it in 2 MiB pages"

    @property
    def huge_bytes(self) -> int:
        """How much of it is in huge pages now, in bytes, as the kernel counts it (read anew each time)."""
        return read_huge_bytes(self.start, Path(SMAPS).read_text(encoding="ascii", errors="replace"))


def read_huge_bytes(address: int, smaps: str) -> int:
    """Read AnonHugePages of the mapping that begins at, or holds, an address (proc_pid_smaps(5))."""
    is_inside, found = False, 0
    for line in smaps.splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if head:
            is_inside = int(head.group(1), 16) <= address < int(head.group(2), 16)
        elif is_inside and line.startswith("AnonHugePages:"):
            found = int(line.split()[1]) << 10
    return found
