"""The limits of a quota as parameters of libvirt's, for a domain that runs. For `nestctl.adapters.libvirt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import libvirt

from nestctl.model.quota import CPU_PERIOD_US, DISK_GROUP

# The libvirt parameter of each limit, the factor to its unit, and what stands for no limit
# (https://libvirt.org/formatdomain.html, "Block I/O tuning", "Quality of service").
_DISK_LIMITS = {
    "disk_read_mib_s": (libvirt.VIR_DOMAIN_BLOCK_IOTUNE_READ_BYTES_SEC, 2**20),
    "disk_write_mib_s": (libvirt.VIR_DOMAIN_BLOCK_IOTUNE_WRITE_BYTES_SEC, 2**20),
    "disk_read_iops": (libvirt.VIR_DOMAIN_BLOCK_IOTUNE_READ_IOPS_SEC, 1),
    "disk_write_iops": (libvirt.VIR_DOMAIN_BLOCK_IOTUNE_WRITE_IOPS_SEC, 1),
}
_NETWORK_LIMITS = {
    "network_in_mbit_s": libvirt.VIR_DOMAIN_BANDWIDTH_IN_AVERAGE,
    "network_out_mbit_s": libvirt.VIR_DOMAIN_BANDWIDTH_OUT_AVERAGE,
}


def limit_domain(domain: Any, limits: Mapping[str, int | None]) -> None:
    """Set limits of a domain that runs, by the names of `Quota`; None lifts one. Raises libvirt's own error."""
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    if "cpu_shares" in limits or "cpu_cap_percent" in limits:
        domain.setSchedulerParametersFlags(_scheduler_parameters(limits), live)
    if "memory_limit_mib" in limits:
        mib = limits["memory_limit_mib"]
        limit_kib = libvirt.VIR_DOMAIN_MEMORY_PARAM_UNLIMITED if mib is None else mib * 1024
        domain.setMemoryParameters({libvirt.VIR_DOMAIN_MEMORY_HARD_LIMIT: limit_kib}, live)
    root = ElementTree.fromstring(domain.XMLDesc())  # noqa: S314 - libvirt's own output
    given: dict[str, int | str]
    if given := {key: (limits[name] or 0) * unit for name, (key, unit) in _DISK_LIMITS.items() if name in limits}:
        given |= {libvirt.VIR_DOMAIN_BLOCK_IOTUNE_GROUP_NAME: DISK_GROUP}
        for target in root.iterfind("devices/disk/target"):
            domain.setBlockIoTune(target.get("dev"), given, live)
    if rates := {key: (limits[name] or 0) * 125 for name, key in _NETWORK_LIMITS.items() if name in limits}:
        for mac in root.iterfind("devices/interface/mac"):
            domain.setInterfaceParameters(mac.get("address"), rates, live)


def _scheduler_parameters(limits: Mapping[str, int | None]) -> dict[str, int]:
    parameters: dict[str, int] = {}
    if (shares := limits.get("cpu_shares")) is not None:
        parameters[libvirt.VIR_DOMAIN_SCHEDULER_CPU_SHARES] = shares
    if "cpu_cap_percent" in limits:
        cap = limits["cpu_cap_percent"]
        parameters[libvirt.VIR_DOMAIN_SCHEDULER_GLOBAL_PERIOD] = CPU_PERIOD_US
        parameters[libvirt.VIR_DOMAIN_SCHEDULER_GLOBAL_QUOTA] = -1 if cap is None else cap * CPU_PERIOD_US // 100
    return parameters
