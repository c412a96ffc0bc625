"""One finding each: what was looked at, what was seen, and what to do. Pure.

A rule answers None where it has nothing to say about a machine.
"""

from __future__ import annotations

from collections.abc import Callable

from nestctl.check.findings import Finding, Status
from nestctl.check.questions import (
    LONGEST_HARDWARE_TURN_NS,
    NOTHING_THERE,
    find_backend,
    is_emulated,
    is_nested_enabled,
    offered_feature,
)
from nestctl.model.facts import Fact, Facts, Known, Module, T, Unknown

HARDWARE_MODULES = {"GenuineIntel": "kvm_intel", "AuthenticAMD": "kvm_amd", "HygonGenuine": "kvm_amd"}


def find_machine(facts: Facts) -> Finding:
    """Name the machine the other findings are about."""
    return Finding(
        name="machine",
        status=Status.INFO,
        summary=f"{_show(facts.cpu_model)}, CPUs: {_show(facts.cpu_count)}, memory: {_show(facts.memory_mib)} MiB",
        evidence=f"Linux {_show(facts.kernel)} on {_show(facts.architecture)}",
    )


def find_level(facts: Facts) -> Finding:
    """Say whether this machine is a guest, and whose. Source of the leaves: nestctl.agent.cpuid."""
    if isinstance(facts.cpuid, Unknown):
        return Finding(
            name="level",
            status=Status.UNKNOWN,
            summary="whether this is a guest is unknown",
            evidence=facts.cpuid.reason,
        )
    cpuid = facts.cpuid.value
    if not cpuid.is_guest:
        return Finding(
            name="level", status=Status.INFO, summary="no hypervisor shows above", evidence="CPUID.1:ECX[31] = 0"
        )
    names = ", ".join(f"'{name}'" for name in cpuid.signatures) or "none"
    if is_emulated(facts):
        return Finding(
            name="level",
            status=Status.WARN,
            summary="this machine is itself emulated: no figure taken here is the cost of hardware",
            evidence=f"CPUID.1:ECX[31] = 1, signatures: {names}",
        )
    return Finding(
        name="level",
        status=Status.INFO,
        summary="this machine is itself a guest",
        evidence=f"CPUID.1:ECX[31] = 1, signatures: {names}",
    )


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
        return _unknown("kvm.module", "the module behind /dev/kvm", facts.modules)
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
        wanted = _wanted_module(facts)
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
        wanted = _wanted_module(facts)
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
    return _unknown("kvm.device", "whether /dev/kvm opens", facts.api_version)


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
                f"guests run at the CPU's own speed{_caveat(facts)}"
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
    return _unknown("kvm.speed", "how fast guests run", facts.loop)


def find_exit_cost(facts: Facts) -> Finding | None:
    """Give the price of leaving a guest for its hypervisor and coming back."""
    if isinstance(facts.cpuid_exit, Unknown):
        return None
    timing = facts.cpuid_exit.value
    return Finding(
        name="kvm.exit",
        status=Status.INFO,
        summary=f"an exit from a guest and back costs {timing.ns_per_turn:,.0f} ns{_caveat(facts)}",
        evidence=f"micro-guest: {timing.turns:,} CPUID instructions, best of 3 runs",
    )


def find_nested_parameter(facts: Facts) -> Finding | None:
    """Judge the parameter that lets guests be hypervisors. It cannot be changed while the module is loaded."""
    module = find_backend(facts)
    if module is None or "nested" not in module.parameters:
        return None
    evidence = f"/sys/module/{module.name}/parameters/nested is '{module.parameters['nested']}'"
    enabled = is_nested_enabled(module)
    if enabled is None:
        return Finding(
            name="nested.parameter",
            status=Status.UNKNOWN,
            summary="whether nesting is on is unknown",
            evidence=evidence,
        )
    if enabled:
        return Finding(
            name="nested.parameter", status=Status.PASS, summary=f"nesting is on in {module.name}", evidence=evidence
        )
    return Finding(
        name="nested.parameter",
        status=Status.FAIL,
        summary=f"nesting is switched off in {module.name}",
        evidence=evidence,
        fix=_nested_fix(module),
    )


def find_nested_paging(facts: Facts) -> Finding | None:
    """Warn where the CPU's second level of page tables is not used: every level inside then pays for it."""
    module = find_backend(facts)
    name = {"kvm_intel": "ept", "kvm_amd": "npt"}.get(module.name if module else "", "")
    if module is None or module.parameters.get(name, "").upper() not in ("N", "0"):
        return None
    return Finding(
        name="nested.paging",
        status=Status.WARN,
        summary=f"{name.upper()} is off: guests, and theirs much more, run on slow shadow page tables",
        evidence=f"/sys/module/{module.name}/parameters/{name} is '{module.parameters[name]}'",
    )


def find_nested_offered(facts: Facts) -> Finding | None:
    """Judge what KVM itself would give a guest: hardware, firmware, backend and parameter in one answer."""
    if facts.offers == facts.api_version:
        return None  # the device did not open, and its own finding says why
    if isinstance(facts.offers, Unknown):
        return _unknown("nested.offered", "what a guest would be given", facts.offers)
    feature = offered_feature(facts)
    evidence = f"KVM_GET_SUPPORTED_CPUID: VMX {facts.offers.value.vmx:d}, SVM {facts.offers.value.svm:d}"
    return Finding(
        name="nested.offered",
        status=Status.PASS if feature else Status.FAIL,
        summary=f"guests are given {feature.upper()}" if feature else "guests are given neither VMX nor SVM",
        evidence=evidence,
    )


RULES: tuple[Callable[[Facts], Finding | None], ...] = (
    find_machine,
    find_level,
    find_cpu,
    find_module,
    find_device,
    find_speed,
    find_exit_cost,
    find_nested_parameter,
    find_nested_paging,
    find_nested_offered,
)


def _unknown(name: str, what: str, fact: Unknown) -> Finding:
    return Finding(name=name, status=Status.UNKNOWN, summary=f"{what} is unknown", evidence=fact.reason)


def _caveat(facts: Facts) -> str:
    """Label a figure that is no figure of hardware."""
    if is_emulated(facts):
        return " (on an emulated machine: not a figure of hardware)"
    if isinstance(facts.loop, Known) and facts.loop.value.ns_per_turn > LONGEST_HARDWARE_TURN_NS:
        return " (in software: not a figure of hardware)"
    return ""


def _show(fact: Fact[T]) -> str:
    return str(fact.value) if isinstance(fact, Known) else "unknown"


def _wanted_module(facts: Facts) -> str:
    """Return the module that would serve this CPU, or '' where the kernel may not use hardware virtualization."""
    if isinstance(facts.cpuid, Unknown) or isinstance(facts.cpu_flags, Unknown):
        return ""
    return HARDWARE_MODULES.get(facts.cpuid.value.vendor, "") if facts.cpu_flags.value & {"vmx", "svm"} else ""


def _permission_fix(facts: Facts) -> str:
    if isinstance(facts.device, Known):
        device = facts.device.value
        if device.mode[4:6] == "rw" and device.group != "root":
            return f"sudo usermod -aG {device.group} $USER, then log in again"
    return "sudo setfacl -m u:$USER:rw /dev/kvm"


def _nested_fix(module: Module) -> str:
    if module.is_built_in:
        return f"Add {module.name}.nested=1 to the kernel's boot line and boot again."
    # With every guest stopped: a module that is in use cannot be removed.
    return (
        f"echo 'options {module.name} nested=1' | sudo tee /etc/modprobe.d/nestctl.conf && "
        f"sudo modprobe -r {module.name} && sudo modprobe {module.name}"
    )
