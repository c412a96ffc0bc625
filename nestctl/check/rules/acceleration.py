"""Can I run accelerated guests: the CPU, the module, the device, and a guest that ran. Pure."""

from __future__ import annotations

from nestctl.check.findings import Finding, Status
from nestctl.check.places import find_place
from nestctl.check.processors import HARDWARE_MODULES
from nestctl.check.questions import (
    LONGEST_HARDWARE_TURN_NS,
    NOTHING_THERE,
    find_backend,
)
from nestctl.check.rules.common import Rule, caveat, parse_numbers, show, unknown_finding, wanted_module
from nestctl.check.settings import forbidding_lines, read_bool
from nestctl.model.facts import Device, Facts, Known, Unknown

# IA32_FEATURE_CONTROL: locked, VMX outside of SMX allowed (Intel SDM volume 4, table 2-2).
FEATURE_CONTROL_LOCKED, FEATURE_CONTROL_VMX = 1 << 0, 1 << 2
VM_CR_SVMDIS = 1 << 4  # AMD APM volume 2, 15.30.1

# What to remove of other hypervisors, in the order in which modprobe can.
OTHERS_MODULES = {
    "VirtualBox": "vboxnetadp vboxnetflt vboxdrv",
    "VMware": "vmnet vmmon",
    "Parallels": "prl_hypervisor",
}

# VirtualBox's issues 141 and 188; the later releases want KVM to begin early.
AT_LOAD_FIX = (
    "Where VirtualBox before 7.2.10 says VERR_VMX_IN_VMX_ROOT_MODE: "
    "echo 'options kvm enable_virt_at_load=0' | sudo tee /etc/modprobe.d/kvm-late.conf, and load kvm again."
)

# What the firmware's setup calls it; the lock on it is only lifted by a cold start.
FIRMWARE_FIXES = {
    "vmx": "Switch on 'Intel Virtualization Technology' (VT-x, VMX) in the firmware's setup, and switch the machine "
    "off and on.",
    "svm": "Switch on 'SVM Mode' (AMD-V) in the firmware's setup, and switch the machine off and on.",
}


def find_cpu(facts: Facts) -> Finding | None:
    """Compare what the CPU shows with what the kernel uses: it clears the flag when the firmware forbids it."""
    if isinstance(facts.architecture, Known) and facts.architecture.value not in ("x86_64", ""):
        return None
    if isinstance(facts.cpuid, Unknown):
        return unknown_finding("cpu", "what the CPU offers", facts.cpuid)
    cpuid = facts.cpuid.value
    evidence = f"CPUID of '{cpuid.vendor}': VMX {cpuid.has_vmx:d}, SVM {cpuid.has_svm:d}"
    shown = "vmx" if cpuid.has_vmx else "svm" if cpuid.has_svm else ""
    if not shown:
        elsewhere = "" if find_place(facts) else "Ask whoever runs the hypervisor above to give this guest VMX or SVM."
        return Finding(
            name="cpu",
            status=Status.WARN,
            summary="the CPU shows neither VMX nor SVM",
            evidence=evidence,
            # Where the place is known, its own finding says what to do there.
            fix=elsewhere if cpuid.is_guest else "Use a CPU that has Intel VT-x or AMD-V.",
        )
    if isinstance(facts.cpu_flags, Known) and shown not in facts.cpu_flags.value:
        return _switched_off(facts, shown)
    return Finding(name="cpu", status=Status.PASS, summary=f"the CPU has {shown.upper()}", evidence=evidence)


def _switched_off(facts: Facts, shown: str) -> Finding:
    evidence = [f"CPUID shows {shown.upper()}, the flags of /proc/cpuinfo lack '{shown}'"]
    who, fix = "the firmware (or the boot line) has switched it off", FIRMWARE_FIXES[shown]
    words = facts.boot_line.value if isinstance(facts.boot_line, Known) else ()
    if cleared := [word for word in words if word.startswith("clearcpuid=")]:
        who, fix = (
            "the boot line has switched it off",
            f"Take '{cleared[0]}' out of the kernel's boot line and boot again.",
        )
        evidence += cleared
    elif lock := _firmware_lock(facts):
        who = "the firmware has switched it off"
        evidence.append(lock)
    if isinstance(facts.kernel_log, Known):
        evidence += [f"kernel: '{line}'" for line in facts.kernel_log.value if "BIOS" in line.upper()][:1]
    return Finding(
        name="cpu",
        status=Status.FAIL,
        summary=f"the CPU has {shown.upper()}, but {who}",
        evidence="; ".join(evidence),
        fix=fix,
    )


def _firmware_lock(facts: Facts) -> str:
    if isinstance(facts.msr_feature_control, Known):
        value = facts.msr_feature_control.value
        if value & FEATURE_CONTROL_LOCKED and not value & FEATURE_CONTROL_VMX:
            return f"MSR 0x3a = {value:#x}: locked, and VMX not allowed"
    if isinstance(facts.msr_vm_cr, Known) and facts.msr_vm_cr.value & VM_CR_SVMDIS:
        return f"MSR 0xc0010114 = {facts.msr_vm_cr.value:#x}: SVMDIS is set"
    return ""


def find_module(facts: Facts) -> Finding:
    """Name the module that serves /dev/kvm."""
    if isinstance(facts.modules, Unknown):
        return unknown_finding("kvm.module", "the module behind /dev/kvm", facts.modules)
    module = find_backend(facts)
    if _is_served_by_kvm_itself(facts):
        return Finding(name="kvm.module", status=Status.PASS, summary="kvm serves KVM", evidence="/sys/module/kvm")
    if module is None and isinstance(facts.api_version, Known):
        # Built into the kernel, a module without parameters does not show.
        return Finding(
            name="kvm.module",
            status=Status.INFO,
            summary="which module serves KVM does not show",
            evidence="/dev/kvm answers, /sys/module has no 'kvm_*'",
        )
    if module is None:
        return _missing_module(facts)
    evidence = f"/sys/module/{module.name}, {'built in' if module.is_built_in else 'loaded'}"
    if module.name in HARDWARE_MODULES.values() or module.name == "kvm_hv":
        return Finding(name="kvm.module", status=Status.PASS, summary=f"{module.name} serves KVM", evidence=evidence)
    summary = f"{module.name} serves KVM"
    if module.name == "kvm_pvm":
        summary += ", in software and with no nesting; kernels made for it are needed"
    return Finding(name="kvm.module", status=Status.WARN, summary=summary, evidence=evidence)


def _is_served_by_kvm_itself(facts: Facts) -> bool:
    """On s390x and arm64 there is one module for all (arch/s390/kvm, arch/arm64/kvm)."""
    if isinstance(facts.architecture, Unknown) or isinstance(facts.modules, Unknown):
        return False
    return facts.architecture.value in ("s390x", "aarch64") and "kvm" in facts.modules.value


def _missing_module(facts: Facts) -> Finding:
    """Say why there is no module: forbidden, not part of this kernel, or only not loaded."""
    wanted = wanted_module(facts)
    evidence, fix = "/sys/module has no 'kvm_*'", f"sudo modprobe {wanted}" if wanted else ""
    summary = "no module of KVM for this CPU shows"
    if wanted and (lines := forbidding_lines(facts, wanted)):
        summary = f"{wanted} is kept from being loaded"
        evidence = f"{evidence}; {'; '.join(lines)}"
        fix = f"Take that out, then: sudo modprobe {wanted}"
    elif wanted and isinstance(facts.module_files, Known) and wanted not in facts.module_files.value:
        summary = f"this kernel comes without {wanted}"
        evidence = f"{evidence}; /lib/modules has no {wanted.replace('_', '-')}.ko"
        fix = "Install the rest of the kernel's modules (Ubuntu: linux-modules-extra-$(uname -r)), or another kernel."
    elif wanted == "kvm_amd" and _has_five_level_paging(facts):
        summary = f"kvm_amd of Linux {show(facts.kernel)} refuses 5-level paging"
        evidence = f"{evidence}; /proc/cpuinfo has 'la57'"
        fix = "Add no5lvl to the kernel's boot line and boot again, or use Linux 5.15 or newer."
    return Finding(name="kvm.module", status=Status.WARN, summary=summary, evidence=evidence, fix=fix)


def _has_five_level_paging(facts: Facts) -> bool:
    """Say whether 5-level paging is on, in a kernel whose kvm_amd cannot have it (commits 03ca4589, 746700d2)."""
    if isinstance(facts.cpu_flags, Unknown) or isinstance(facts.kernel, Unknown):
        return False
    return "la57" in facts.cpu_flags.value and (5, 13) <= parse_numbers(facts.kernel.value) < (5, 15)


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
        return _missing_device(facts, facts.api_version)
    if facts.api_version.error in ("EACCES", "EPERM"):
        return Finding(
            name="kvm.device",
            status=Status.UNKNOWN,
            summary="this user may not open /dev/kvm; what it can do is unknown",
            evidence=f"{facts.api_version.reason}; {node}",
            fix=_permission_fix(facts),
        )
    return unknown_finding("kvm.device", "whether /dev/kvm opens", facts.api_version)


def _missing_device(facts: Facts, answer: Unknown) -> Finding:
    mshv = facts.other_hypervisors.value.get("Hyper-V") if isinstance(facts.other_hypervisors, Known) else None
    if mshv:
        return Finding(
            name="kvm.device",
            status=Status.FAIL,
            summary="Hyper-V runs this machine (Linux is its root partition), and there is no KVM",
            evidence=f"{answer.reason}; {', '.join(mshv)}",
            fix="Use a hypervisor over /dev/mshv (Cloud Hypervisor can), or boot Linux without Hyper-V.",
        )
    wanted = "" if forbidding_lines(facts, wanted_module(facts)) else wanted_module(facts)
    fix = f"sudo modprobe {wanted}" if wanted else ""
    if _is_in_container(facts):
        fix = "Start the container with '--device /dev/kvm'."
    return Finding(
        name="kvm.device",
        status=Status.FAIL,
        summary="there is no /dev/kvm" if answer.error == "ENOENT" else "nothing serves /dev/kvm",
        evidence=answer.reason,
        fix=fix,
    )


def _is_in_container(facts: Facts) -> bool:
    return isinstance(facts.container, Known) and bool(facts.container.value.name)


def find_speed(facts: Facts) -> Finding | None:
    """Judge the loop that the micro-guest ran: the only proof that guests get the CPU's speed."""
    if facts.loop == facts.api_version or (isinstance(facts.loop, Unknown) and facts.loop.error == "EBUSY"):
        return None  # the device did not open, or another holds the CPU: another finding says so
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
    if facts.loop.error == "ETIMEDOUT":
        return Finding(
            name="kvm.speed",
            status=Status.FAIL,
            summary="a guest starts and does not get on",
            evidence=facts.loop.reason,
        )
    if facts.loop.error in NOTHING_THERE:
        # ENODEV: the module is on its way out ('rmmod --wait'; virt/kvm/kvm_main.c, kvm_create_vm).
        return Finding(
            name="kvm.speed",
            status=Status.FAIL,
            summary="/dev/kvm opens, but no guest can be made: the module behind it is being removed",
            evidence=f"KVM_CREATE_VM: {facts.loop.reason} ({facts.loop.error})",
        )
    if isinstance(facts.api_version, Known) and facts.loop.error in ("EPERM", "EACCES", "ENOMEM"):
        return Finding(
            name="kvm.speed",
            status=Status.UNKNOWN,
            summary="/dev/kvm opens, but this process may not make a guest; how fast guests run is unknown",
            evidence=f"KVM_CREATE_VM or its memory: {facts.loop.reason} ({facts.loop.error})",
            fix="Look at what confines it: seccomp, the device cgroup, 'ulimit -l' and 'ulimit -v'; try outside of it.",
        )
    return unknown_finding("kvm.speed", "how fast guests run", facts.loop)


def find_busy(facts: Facts) -> Finding | None:
    """Name who holds VMX or SVM, or may take it: the hardware serves one hypervisor at a time."""
    shown_here = facts.other_hypervisors.value if isinstance(facts.other_hypervisors, Known) else {}
    others = {name: paths for name, paths in shown_here.items() if name in OTHERS_MODULES}
    busy = facts.loop if isinstance(facts.loop, Unknown) and facts.loop.error == "EBUSY" else None
    if not busy and not others:
        return None
    names = " and ".join(others) or "another hypervisor"
    shown = ", ".join(path for paths in others.values() for path in paths)
    if busy:
        modules = " ".join(OTHERS_MODULES[name] for name in others)
        return Finding(
            name="kvm.busy",
            status=Status.FAIL,
            summary=f"{names} holds VMX or SVM, so KVM can run no guest",
            evidence=f"{busy.reason}; {shown}" if shown else busy.reason,
            fix=f"Stop its guests and remove its module: sudo modprobe -r {modules}"
            if others
            else "Stop the other hypervisor's guests (VirtualBox, VMware) and remove its module.",
        )
    return Finding(
        name="kvm.busy",
        status=Status.INFO,
        summary=f"{names} is here too; while its guests run, KVM's cannot, and the other way round",
        evidence="; ".join([shown, *_virt_at_load(facts)]),
        fix=AT_LOAD_FIX if "VirtualBox" in others and _virt_at_load(facts) else "",
    )


def _virt_at_load(facts: Facts) -> list[str]:
    """Say where KVM takes the hardware when its module is loaded (since Linux 6.12), and not with its first guest."""
    kvm = facts.modules.value.get("kvm") if isinstance(facts.modules, Known) else None
    value = kvm.parameters.get("enable_virt_at_load", "") if kvm else ""
    return [f"kvm.enable_virt_at_load is {value}"] if read_bool(value) else []


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


def _permission_fix(facts: Facts) -> str:
    if isinstance(facts.device, Known):
        device = facts.device.value
        if _group_may_open(device):
            if device.is_member and not device.is_in_group:
                return f"Log in again (or: newgrp {device.group}): the group is given, and this session is older."
            if not device.is_in_group:
                return f"sudo usermod -aG {device.group} $USER, then log in again"
            return (
                "The group may open it, and this user is in it: what refuses is a device cgroup or a security module."
            )
    return "sudo setfacl -m u:$USER:rw /dev/kvm"


def _group_may_open(device: Device) -> bool:
    return device.mode[4:6] == "rw" and device.group != "root"


RULES: tuple[Rule, ...] = (find_cpu, find_module, find_device, find_busy, find_speed, find_exit_cost)
