"""Can I run accelerated guests: the CPU, the module, the device, and a guest that ran. Pure."""

from __future__ import annotations

from nestctl.check.findings import Finding, Status
from nestctl.check.questions import LONGEST_HARDWARE_TURN_NS, NOTHING_THERE, find_backend
from nestctl.check.rules.common import HARDWARE_MODULES, Rule, caveat, unknown_finding, wanted_module
from nestctl.model.facts import Facts, Known, Unknown


def find_cpu(facts: Facts) -> Finding:
    """Compare what the CPU shows with what the kernel uses: it clears the flag when the firmware forbids it."""
    if isinstance(facts.cpuid, Unknown):
        return Finding(
            name="cpu", status=Status.UNKNOWN, summary="what the CPU offers is unknown", evidence=facts.cpuid.reason
        )
    cpuid = facts.cpuid.value
    shown = "vmx" if cpuid.has_vmx else "svm" if cpuid.has_svm else ""
    if not shown:
        return Finding(
            name="cpu",
            status=Status.WARN,
            summary="the CPU shows neither VMX nor SVM",
            evidence=f"CPUID of '{cpuid.vendor}': VMX 0, SVM 0",
            fix="On the host above: switch nesting on and give this guest 'host-passthrough'."
            if cpuid.is_guest
            else "Use a CPU that has Intel VT-x or AMD-V.",
        )
    if isinstance(facts.cpu_flags, Known) and shown not in facts.cpu_flags.value:
        return Finding(
            name="cpu",
            status=Status.FAIL,
            summary=f"the CPU has {shown.upper()}, but the firmware (or the boot line) has switched it off",
            evidence=f"CPUID shows {shown.upper()}, the flags of /proc/cpuinfo lack '{shown}'",
            fix="Switch on 'SVM Mode' (AMD) or 'Intel Virtualization Technology' in the firmware's setup.",
        )
    return Finding(
        name="cpu",
        status=Status.PASS,
        summary=f"the CPU has {shown.upper()}",
        evidence=f"CPUID of '{cpuid.vendor}': VMX {cpuid.has_vmx:d}, SVM {cpuid.has_svm:d}",
    )


def find_module(facts: Facts) -> Finding:
    """Name the module that serves /dev/kvm."""
    if isinstance(facts.modules, Unknown):
        return unknown_finding("kvm.module", "the module behind /dev/kvm", facts.modules)
    module = find_backend(facts)
    if module is None and isinstance(facts.api_version, Known):
        # Built into the kernel, a module without parameters does not show.
        return Finding(
            name="kvm.module",
            status=Status.INFO,
            summary="which module serves KVM does not show",
            evidence="/dev/kvm answers, /sys/module has no 'kvm_*'",
        )
    if module is None:
        wanted = wanted_module(facts)
        return Finding(
            name="kvm.module",
            status=Status.WARN,
            summary="no module of KVM for this CPU shows",
            evidence="/sys/module has no 'kvm_*'",
            fix=f"sudo modprobe {wanted}" if wanted else "",
        )
    evidence = f"/sys/module/{module.name}, {'built in' if module.is_built_in else 'loaded'}"
    if module.name in HARDWARE_MODULES.values():
        return Finding(name="kvm.module", status=Status.PASS, summary=f"{module.name} serves KVM", evidence=evidence)
    summary = f"{module.name} serves KVM"
    if module.name == "kvm_pvm":
        summary += ", in software and with no nesting; kernels made for it are needed"
    return Finding(name="kvm.module", status=Status.WARN, summary=summary, evidence=evidence)


def find_device(facts: Facts) -> Finding:
    """Say whether /dev/kvm opens, and whose permission is missing."""
    node = "/dev/kvm"
    if isinstance(facts.device, Known):
        device = facts.device.value
        node = f"{device.mode} {device.owner} {device.group} /dev/kvm"
    if isinstance(facts.api_version, Known):
        # api.rst, 4.1: "applications should refuse to run if KVM_GET_API_VERSION returns a value other than 12".
        version = facts.api_version.value
        return Finding(
            name="kvm.device",
            status=Status.PASS if version == 12 else Status.FAIL,
            summary=f"/dev/kvm opens and answers with API version {version}",
            evidence=node,
        )
    if facts.api_version.error in NOTHING_THERE:
        wanted = wanted_module(facts)
        return Finding(
            name="kvm.device",
            status=Status.FAIL,
            summary="there is no /dev/kvm" if facts.api_version.error == "ENOENT" else "nothing serves /dev/kvm",
            evidence=facts.api_version.reason,
            fix=f"sudo modprobe {wanted}" if wanted else "",
        )
    if facts.api_version.error in ("EACCES", "EPERM"):
        return Finding(
            name="kvm.device",
            status=Status.UNKNOWN,
            summary="this user may not open /dev/kvm; what it can do is unknown",
            evidence=f"{facts.api_version.reason}; {node}",
            fix=_permission_fix(facts),
        )
    return unknown_finding("kvm.device", "whether /dev/kvm opens", facts.api_version)


def find_speed(facts: Facts) -> Finding | None:
    """Judge the loop that the micro-guest ran: the only proof that guests get the CPU's speed."""
    if facts.loop == facts.api_version:
        return None  # the device did not open, and its own finding says why
    if isinstance(facts.loop, Known):
        turn_ns = facts.loop.value.ns_per_turn
        is_fast = turn_ns <= LONGEST_HARDWARE_TURN_NS
        return Finding(
            name="kvm.speed",
            status=Status.PASS if is_fast else Status.FAIL,
            summary=(
                f"guests run at the CPU's own speed{caveat(facts)}"
                if is_fast
                else "guests run in software, far too slow for an operating system"
            ),
            evidence=f"micro-guest: {facts.loop.value.turns:,} turns of a loop, {turn_ns:,.1f} ns each, best of 3 runs",
        )
    if facts.loop.error == "EBUSY":
        return Finding(
            name="kvm.speed",
            status=Status.FAIL,
            summary="another hypervisor holds VMX or SVM, so KVM can run no guest",
            evidence=facts.loop.reason,
            fix="Stop the other hypervisor's guests (VirtualBox, VMware) and remove its module.",
        )
    if facts.loop.error == "ETIMEDOUT":
        return Finding(
            name="kvm.speed",
            status=Status.FAIL,
            summary="a guest starts and does not get on",
            evidence=facts.loop.reason,
        )
    return unknown_finding("kvm.speed", "how fast guests run", facts.loop)


def find_exit_cost(facts: Facts) -> Finding | None:
    """Give the price of leaving a guest for its hypervisor and coming back."""
    if isinstance(facts.cpuid_exit, Unknown):
        return None
    timing = facts.cpuid_exit.value
    return Finding(
        name="kvm.exit",
        status=Status.INFO,
        summary=f"an exit from a guest and back costs {timing.ns_per_turn:,.0f} ns{caveat(facts)}",
        evidence=f"micro-guest: {timing.turns:,} CPUID instructions, best of 3 runs",
    )


RULES: tuple[Rule, ...] = (find_cpu, find_module, find_device, find_speed, find_exit_cost)


def _permission_fix(facts: Facts) -> str:
    if isinstance(facts.device, Known):
        device = facts.device.value
        if device.mode[4:6] == "rw" and device.group != "root":
            return f"sudo usermod -aG {device.group} $USER, then log in again"
    return "sudo setfacl -m u:$USER:rw /dev/kvm"
