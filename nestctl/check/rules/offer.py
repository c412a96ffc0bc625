"""Would a guest of mine get VMX or SVM: what KVM says, how it is set, and how it is meant to be set. Pure."""

from __future__ import annotations

from nestctl.check.findings import Finding, Status, Verdict
from nestctl.check.processors import HARDWARE_MODULES
from nestctl.check.questions import (
    assess_nesting,
    find_backend,
    is_nested_enabled,
    offered_feature,
)
from nestctl.check.rules.common import Rule, unknown_finding
from nestctl.check.settings import Intent, find_intents, read_bool
from nestctl.model.facts import EmulatorCapabilities, Facts, Known, Module, Unknown

OTHER_FIXES = {
    "s390x": "echo 'options kvm nested=1' | sudo tee /etc/modprobe.d/nestctl.conf && sudo modprobe -r kvm && "
    "sudo modprobe kvm",
    "ppc64le": "Use POWER9 or newer with the radix MMU, and leave kvm_hv.nested on.",
    "aarch64": "Add kvm-arm.mode=nested to the boot line and boot again; it needs ARMv8.4 (FEAT_NV2) and Linux 6.16.",
}


# arm64: Documentation/virt/kvm/arm/index.rst still calls it so.
OTHER_NAMES = {"s390x": "s390x", "ppc64le": "ppc64le", "aarch64": "arm64, still experimental"}


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
        fix=_nested_fix(facts, module),
    )


def find_nested_settings(facts: Facts) -> Finding | None:
    """Compare what is in effect with modprobe.d and the boot line: the next boot may bring something else."""
    module = find_backend(facts)
    if module is None:
        return None
    intents = find_intents(facts, module.name)
    if not intents:
        return None
    said = "; ".join(f"{intent.where}: {intent.text}" for intent in intents)
    evidence = f"{said}; in effect: {module.parameters.get('nested', 'not shown')}"
    status, summary, fix = _compare(module, intents)
    return Finding(name="nested.settings", status=status, summary=summary, evidence=evidence, fix=fix)


def _compare(module: Module, intents: tuple[Intent, ...]) -> tuple[Status, str, str]:
    effective = is_nested_enabled(module)
    counted = tuple(intent for intent in intents if not module.is_built_in or intent.where == "the boot line")
    if module.is_built_in and len(counted) < len(intents):
        fix = f"Set {module.name}.nested on the kernel's boot line instead."
        return Status.WARN, f"{module.name} is built into the kernel, and files of modprobe.d do nothing", fix
    if any(intent.value is None for intent in counted):
        return Status.WARN, "a setting of 'nested' is neither on nor off", "Write nested=1 or nested=0."
    last = counted[-1]
    if effective is not None and last.value is not effective:
        return (
            Status.WARN,
            f"nesting is {_on(effective)} now, and {last.where} switches it {_on(bool(last.value))} at the next load",
            _agree_fix(module, last),
        )
    if len({intent.value for intent in counted}) > 1:
        where = " and ".join(dict.fromkeys(intent.where for intent in counted))
        return Status.WARN, f"{where} disagree about nesting; {last.where} wins", "Leave one line of them."
    return Status.PASS, f"{last.where} keeps nesting {_on(bool(last.value))}", ""


def _agree_fix(module: Module, last: Intent) -> str:
    if last.where == "the boot line":
        return f"Change {module.name}.{last.text} on the kernel's boot line, or boot again to have it."
    rebuild = "if the module is loaded by the initramfs, rebuild that (update-initramfs -u, dracut -f)"
    return f"To have what the file says: sudo modprobe -r {module.name} && sudo modprobe {module.name}; {rebuild}."


def _on(value: bool) -> str:
    return "on" if value else "off"


def find_foreign_setting(facts: Facts) -> Finding | None:
    """Say that a setting is for the other vendor's module: it does nothing here."""
    module = find_backend(facts)
    if module is None or module.name not in HARDWARE_MODULES.values():
        return None
    other = "kvm_amd" if module.name == "kvm_intel" else "kvm_intel"
    intents = find_intents(facts, other)
    if not intents or find_intents(facts, module.name):
        return None
    return Finding(
        name="nested.foreign",
        status=Status.INFO,
        summary=f"'nested' is set for {other} only, and {module.name} serves this processor",
        evidence="; ".join(f"{intent.where}: {other} {intent.text}" for intent in intents),
    )


def find_reload(facts: Facts) -> Finding | None:
    """Where nesting is off in a module that can be loaded again: say whether it can be now, and who is in the way."""
    module = find_backend(facts)
    if module is None or module.is_built_in or is_nested_enabled(module) is not False or module.users is None:
        return None
    evidence = f"/sys/module/{module.name}/refcnt is {module.users}"
    if not module.users:
        return Finding(
            name="nested.reload", status=Status.INFO, summary=f"nothing uses {module.name} now", evidence=evidence
        )
    users = facts.kvm_users.value if isinstance(facts.kvm_users, Known) else None
    names = ", ".join(users.processes) if users and users.processes else "guests that this user may not see"
    return Finding(
        name="nested.reload",
        status=Status.WARN,
        summary=f"{module.name} is in use by {names}; it cannot be loaded again before they end",
        evidence=evidence,
    )


def find_nested_offered(facts: Facts) -> Finding | None:
    """Judge what KVM itself would give a guest: hardware, firmware, backend and parameter in one answer."""
    if facts.offers == facts.api_version or _architecture(facts) in OTHER_FIXES:
        return None  # the device did not open, or it is said in another way there: another finding says so
    if isinstance(facts.offers, Unknown):
        return unknown_finding("nested.offered", "what a guest would be given", facts.offers)
    feature = offered_feature(facts)
    evidence = f"KVM_GET_SUPPORTED_CPUID: VMX {facts.offers.value.vmx:d}, SVM {facts.offers.value.svm:d}"
    return Finding(
        name="nested.offered",
        status=Status.PASS if feature else Status.FAIL,
        summary=f"guests are given {feature.upper()}" if feature else "guests are given neither VMX nor SVM",
        evidence=evidence,
    )


def find_nested_elsewhere(facts: Facts) -> Finding | None:
    """Judge s390x, ppc64le and arm64 by what their KVM says."""
    architecture = _architecture(facts)
    if architecture not in OTHER_FIXES or isinstance(facts.api_version, Unknown):
        return None
    answer = assess_nesting(facts)
    status = {Verdict.YES: Status.PASS, Verdict.NO: Status.FAIL, Verdict.UNKNOWN: Status.UNKNOWN}[answer.verdict]
    summary = {
        Verdict.YES: "guests may be hypervisors",
        Verdict.NO: "guests may not be hypervisors",
        Verdict.UNKNOWN: "whether guests may be hypervisors is unknown",
    }[answer.verdict]
    return Finding(
        name="nested.architecture",
        status=status,
        summary=f"{summary} ({OTHER_NAMES[architecture]})",
        evidence="; ".join([answer.reason, *_boot_words(facts)]),
        fix=_other_fix(facts, architecture) if answer.verdict is Verdict.NO else "",
    )


def _other_fix(facts: Facts, architecture: str) -> str:
    if architecture == "s390x" and isinstance(facts.cpu_flags, Known) and "sie" not in facts.cpu_flags.value:
        return (
            "On the host above: set kvm.nested=1 and give this guest a CPU model with 'sie' (host-passthrough has it)."
        )
    return OTHER_FIXES[architecture]


def _boot_words(facts: Facts) -> list[str]:
    words = facts.boot_line.value if isinstance(facts.boot_line, Known) else ()
    return [f"boot line: {word}" for word in words if word.startswith(("kvm-arm.", "kvm.", "kvm_hv."))]


def find_huge_page_conflict(facts: Facts) -> Finding | None:
    """On s390x huge pages for guests and nesting exclude each other (arch/s390/kvm/kvm-s390.c)."""
    if _architecture(facts) != "s390x" or isinstance(facts.modules, Unknown):
        return None
    kvm = facts.modules.value.get("kvm")
    if kvm is None or not read_bool(kvm.parameters.get("hpage", "")):
        return None
    return Finding(
        name="nested.hpage",
        status=Status.WARN,
        summary="kvm.hpage is on, and the kernel takes no kvm.nested beside it",
        evidence=f"/sys/module/kvm/parameters/hpage is '{kvm.parameters['hpage']}'",
        fix="Take 'hpage=1' out of modprobe.d and the boot line, and load the module kvm again.",
    )


LIBVIRT_LOOKS_AGAIN = (
    "sudo sh -c 'rm /var/cache/libvirt/qemu/capabilities/*.xml; systemctl try-restart libvirtd virtqemud'"
)


def find_libvirt_view(facts: Facts) -> Finding | None:
    """Compare what KVM offers with what libvirt has written down: it does not notice every change."""
    feature = offered_feature(facts)
    if not isinstance(facts.offers, Known) or isinstance(facts.libvirt_capabilities, Unknown):
        return None
    # Those for other architectures never have KVM.
    without = [
        it for it in facts.libvirt_capabilities.value if not it.has_kvm and it.architecture in ("x86_64", "i686")
    ]
    if feature and without:
        return _without_kvm(feature, without)
    emulators = [it for it in facts.libvirt_capabilities.value if it.has_kvm]
    if not emulators:
        return None
    wrong = [it for it in emulators if (feature in it.features if feature else not it.features) is False]
    evidence = ", ".join(f"{it.emulator}: {', '.join(sorted(it.features)) or 'neither'}" for it in emulators)
    if not wrong:
        return Finding(
            name="libvirt.view",
            status=Status.PASS,
            summary="libvirt believes the same",
            evidence=evidence,
        )
    evidence = f"/var/cache/libvirt/qemu/capabilities: {evidence}"
    module = find_backend(facts)
    if module and all(it.supports_nesting is (not is_nested_enabled(module)) for it in wrong):
        # virQEMUCapsIsValid compares the module's 'nested' with what it was, and asks QEMU again where it differs.
        return Finding(
            name="libvirt.view",
            status=Status.INFO,
            summary="libvirt has not looked since nesting was switched; it does before the next guest starts",
            evidence=evidence,
        )
    return Finding(
        name="libvirt.view",
        status=Status.WARN,
        summary=f"KVM gives guests {feature.upper() or 'neither VMX nor SVM'}, and libvirt believes otherwise",
        evidence=evidence,
        fix=LIBVIRT_LOOKS_AGAIN,
    )


def _without_kvm(feature: str, emulators: list[EmulatorCapabilities]) -> Finding:
    return Finding(
        name="libvirt.view",
        status=Status.WARN,
        summary=f"KVM gives guests {feature.upper()}, and libvirt knows an emulator that runs them without KVM",
        evidence=f"/var/cache/libvirt/qemu/capabilities: {', '.join(it.emulator for it in emulators)}: no flag 'kvm'",
        fix=f"See whether it has KVM: {emulators[0].emulator} -accel help. If it has: {LIBVIRT_LOOKS_AGAIN}. "
        "If not, take the distribution's QEMU.",
    )


def _architecture(facts: Facts) -> str:
    return facts.architecture.value if isinstance(facts.architecture, Known) else ""


def _nested_fix(facts: Facts, module: Module) -> str:
    if module.is_built_in:
        return f"Add {module.name}.nested=1 to the kernel's boot line and boot again."
    own = "/etc/modprobe.d/nestctl.conf"
    against = [it for it in find_intents(facts, module.name) if it.value is False and it.where != own]
    first = f"Take '{against[-1].text}' out of {against[-1].where}; then: " if against else ""
    # With every guest stopped: a module that is in use cannot be removed.
    return (
        f"{first}echo 'options {module.name} nested=1' | sudo tee {own} && "
        f"sudo modprobe -r {module.name} && sudo modprobe {module.name}"
    )


RULES: tuple[Rule, ...] = (
    find_nested_parameter,
    find_nested_settings,
    find_foreign_setting,
    find_reload,
    find_nested_offered,
    find_nested_elsewhere,
    find_huge_page_conflict,
    find_libvirt_view,
)
