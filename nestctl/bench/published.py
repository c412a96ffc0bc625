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
        """Such as '24×, 22.7×'; empty for a figure of one level alone."""
        return ", ".join(f"{ratio:g}×" for ratio in self.ratios)


_DVH = "Lim and Nieh, Optimizing Nested Virtualization Performance Using Direct Virtual Hardware, ASPLOS 2020, table 3"
_TURTLES = "Ben-Yehuda et al., The Turtles Project, OSDI 2010"
_NEVE = "Lim et al., NEVE: Nested Virtualization Extensions for ARM, SOSP 2017, tables 6 and 7"
_VMEXIT = "kvm-unit-tests' vmexit, in Linux commit b7ffc44d5b2e"
_KONTAIN = "Kontain's table of KKM against KVM"
_NESTED_EPT = "Har'El et al., cover letter of the nested EPT patches for KVM, 2012"

PUBLISHED = (
    Published(
        workload="cpuid_exit",
        ratios=(22.0,),
        figures="2,600 cycles in a guest, 58,000 in a nested one (Nehalem)",
        source=f"{_TURTLES}, section 4.3",
    ),
    Published(
        workload="hypercall_exit",
        ratios=(24.0, 22.7),
        figures="1,575, 37,733 and 857,578 cycles at one, two and three levels (Skylake)",
        source=_DVH,
    ),
    Published(
        workload="hypercall_exit",
        ratios=(),
        figures="an exit of a nested guest costs 16 to 31 times that of a guest on x86, 27 to 37 on ARM with NEVE",
        source=_NEVE,
    ),
    Published(
        workload="halt_wake",
        ratios=(12.1, 20.0),
        figures="3,273, 39,456 and 787,971 cycles for an interrupt to a vCPU that is idle (Skylake)",
        source=_DVH,
    ),
    Published(
        workload="gcc_compile",
        ratios=(1.145,),
        figures="a kernel is compiled in 14.5 % more time in a nested guest than in a guest (kernbench): l2 against l1",
        source=_TURTLES,
    ),
    Published(
        workload="gcc_compile",
        ratios=(1.16,),
        figures="make takes 29 s in a nested guest with nested EPT, 87 s without, 25 s in a guest: l2 against l1",
        source=_NESTED_EPT,
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


def find_published(workload: str) -> tuple[Published, ...]:
    """Return all that was published about a workload."""
    return tuple(it for it in PUBLISHED if it.workload == workload)
