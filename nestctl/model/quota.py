"""What a guest may take of the machine that runs it, in libvirt's own terms, each with its unit."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# What a guest's QEMU may need beside the guest's memory before the kernel ends it.
QEMU_RESERVE_MIB = 256

# The kernel's default period of a CPU cap (Documentation/scheduler/sched-bwc.rst).
CPU_PERIOD_US = 100_000

# A guest's disks share one limit of QEMU's: it is the guest that is limited.
DISK_GROUP = "nestctl"


class Quota(BaseModel):
    """Limits of one guest; what is not given is not limited. They can be changed while the guest runs."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    cpu_shares: Annotated[
        int | None,
        Field(
            ge=2,
            le=10_000,
            description="Its weight where guests compete for CPUs (libvirt's <shares>): twice as much of it is twice "
            "as much time. Without it libvirt leaves the kernel's default: 1024 with cgroup v1, 100 with v2.",
        ),
    ] = None
    cpu_cap_percent: Annotated[
        int | None,
        Field(
            ge=5,
            le=25_500,
            description="The CPU time it may have at most, in percent of one CPU, all its vCPUs and QEMU together: 150 "
            "is one and a half CPUs (<global_quota>).",
        ),
    ] = None
    memory_limit_mib: Annotated[
        int | None,
        Field(
            ge=512,
            le=33_554_432,
            description="The memory of its QEMU in MiB, above which the kernel ends it (<hard_limit>). At least "
            f"{QEMU_RESERVE_MIB} more than its memory_mib.",
        ),
    ] = None
    disk_read_mib_s: Annotated[
        int | None,
        Field(ge=1, le=1_000_000, description="What it may read from its disks, in MiB a second (<iotune>)."),
    ] = None
    disk_write_mib_s: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="What it may write to its disks, in MiB a second.")
    ] = None
    disk_read_iops: Annotated[
        int | None, Field(ge=1, le=100_000_000, description="How often it may read from its disks in a second.")
    ] = None
    disk_write_iops: Annotated[
        int | None, Field(ge=1, le=100_000_000, description="How often it may write to its disks in a second.")
    ] = None
    network_in_mbit_s: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="What it may receive, in Mbit (10^6 bits) a second (<bandwidth>). For guests on a network.",
        ),
    ] = None
    network_out_mbit_s: Annotated[
        int | None,
        Field(ge=1, le=1_000_000, description="What it may send, in Mbit a second. For guests on a network."),
    ] = None

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is limited."""
        return all(getattr(self, key) is None for key in type(self).model_fields)

    @property
    def has_cpu(self) -> bool:
        """Tell whether the CPU is limited, for which libvirt needs cgroups."""
        return self.cpu_shares is not None or self.cpu_cap_percent is not None

    @property
    def has_disk(self) -> bool:
        """Tell whether the disks are limited, which QEMU does itself."""
        return any(getattr(self, key) is not None for key in type(self).model_fields if key.startswith("disk_"))

    @property
    def has_network(self) -> bool:
        """Tell whether the network is limited, which needs an interface of libvirt's."""
        return self.network_in_mbit_s is not None or self.network_out_mbit_s is not None

    def given(self) -> dict[str, int]:
        """Return the limits that are given, by their names."""
        return self.model_dump(exclude_none=True)
