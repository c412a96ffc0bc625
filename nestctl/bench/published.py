"""What others have published about the same operations, on hardware: something to hold a figure against.

Only figures that were read in the source itself or in a text that quotes it with table and section. A workload here
prices a guest one level below: its ratio of l1 to L0 is what is called nested (L2) against single-level (L1) there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """`ratios` are nested against single-level, and, where there is one, three levels against two."""

    workload: str
    ratios: tuple[float, ...]
    figures: str
    source: str

    @property
    def short(self) -> str:
        """Such as 'published 24×, 22.7×'; empty for a figure of one level alone."""
        return f"published {', '.join(f'{ratio:g}×' for ratio in self.ratios)}" if self.ratios else ""


_DVH = "Lim and Nieh, Optimizing Nested Virtualization Performance Using Direct Virtual Hardware, ASPLOS 2020, table 3"
_TURTLES = "Ben-Yehuda et al., The Turtles Project, OSDI 2010, section 4.3"
_VMEXIT = "kvm-unit-tests' vmexit, in Linux commit b7ffc44d5b2e"
_KONTAIN = "Kontain's table of KKM against KVM"
_NESTED_EPT = "Har'El et al., cover letter of the nested EPT patches for KVM, 2012"

PUBLISHED = (
    Published(
        workload="cpuid_exit",
        ratios=(22.0,),
        figures="2,600 cycles in a guest, 58,000 in a nested one (Nehalem)",
        source=_TURTLES,
    ),
    Published(
        workload="hypercall_exit",
        ratios=(24.0, 22.7),
        figures="1,575, 37,733 and 857,578 cycles at one, two and three levels (Skylake)",
        source=_DVH,
    ),
    Published(
        workload="notify_exit",
        ratios=(9.7, 20.9),
        figures="4,984, 48,390 and 1,008,935 cycles for a virtio notification (Skylake)",
        source=_DVH,
    ),
    Published(
        workload="timer_exit",
        ratios=(21.6, 23.8),
        figures="2,005, 43,359 and 1,033,946 cycles (Skylake)",
        source=_DVH,
    ),
    Published(
        workload="port_kernel_exit",
        ratios=(),
        figures="2,339 cycles for a read handled in the kernel, at one level",
        source=_VMEXIT,
    ),
    Published(
        workload="port_user_exit",
        ratios=(),
        figures="6,209 cycles for a read handled by QEMU, at one level",
        source=_VMEXIT,
    ),
    Published(
        workload="first_touch_4k",
        ratios=(22.0,),
        figures="1.82 µs for a write fault in a guest, 39.5 µs in a nested one",
        source=_KONTAIN,
    ),
)


def find_published(workload: str) -> Published | None:
    """Find what others measured of a workload, by its name; None where nobody published a figure that was read."""
    return next((it for it in PUBLISHED if it.workload == workload), None)
