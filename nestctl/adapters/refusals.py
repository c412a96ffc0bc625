"""What libvirt says when it will not do something, in our words: what is missing, and what to do about it."""

from __future__ import annotations

import libvirt

from nestctl.errors import FailedError, HypervisorError, NestctlError, PrerequisiteError

_HINTS = {
    libvirt.VIR_ERR_NO_CONNECT: "Is libvirt installed, and does its daemon run? Try 'virsh -c URI uri'.",
    libvirt.VIR_ERR_AUTH_FAILED: "Add the account to the group 'libvirt', or use '--connect qemu:///session'.",
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: "This is a bug in nestctl's template; please report it with 'nestctl render'.",
}

_CGROUPS = (
    "A quota's cpu_shares, cpu_cap_percent and memory_limit_mib need cgroups, which this libvirt does not have: use "
    "'--connect qemu:///system', or leave them out."
)

_NO_HOME = "libvirt keeps what is this account's there: set HOME or XDG_RUNTIME_DIR to a directory that it owns."

# By parts of what it says: libvirt has one code for all of them.
_PREREQUISITES = {
    "Cannot create user runtime directory": _NO_HOME,
    "parse user": "Install the package 'libvirt-daemon-system'.",
    "parse group": "Install the package 'libvirt-daemon-system'.",
    "cgroup": _CGROUPS,
    "CPU tuning is not available": _CGROUPS,
    "Child process (tc ": (
        "A quota's network_in_mbit_s and network_out_mbit_s need the kernel's modules sch_htb, sch_sfq, cls_u32 and "
        "act_police: load them, or leave these limits out."
    ),
    "Setting different DAC user or group": (
        "Another libvirt uses it, as another account: use the same '--connect' for all labs that are up."
    ),
    "cannot limit locked memory": (
        "A quota's memory_limit_mib needs CAP_SYS_RESOURCE, which libvirt does not have here: leave it out."
    ),
    "swtpm": "Install 'swtpm' and 'swtpm-tools'. Their account (tss or swtpm) has to be able to reach NESTCTL_STATE.",
}


class PortTakenError(FailedError):
    """QEMU could not listen on a forwarded port: another program has taken it since it was chosen."""


def explain(error: libvirt.libvirtError, doing: str) -> NestctlError:
    """Make an error of libvirt's one of ours; `doing` is what was to be done, as the end of 'could not ...'."""
    said = str(error).removeprefix("internal error: ").strip().rstrip(".")
    hint = _HINTS.get(error.get_error_code(), "")
    if error.get_error_code() == libvirt.VIR_ERR_NO_CONNECT or said.startswith("Failed to connect socket"):
        return PrerequisiteError(f"Could not {doing}: {said}.", hint=hint or _HINTS[libvirt.VIR_ERR_NO_CONNECT])
    for part, cure in _PREREQUISITES.items():
        if part in said:
            return PrerequisiteError(f"Could not {doing}: {said}.", hint=cure)
    if "host forwarding rule" in said:
        return PortTakenError(f"Could not {doing}: a forwarded port is taken. QEMU says: {said}.")
    return HypervisorError(f"Could not {doing}: {said}.", hint=hint)
