"""Read the document that the agent prints, `nestctl.facts/2`, into `Facts`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nestctl.errors import NotFoundOutError
from nestctl.model.facts import (
    Changelog,
    Container,
    Cpuid,
    Device,
    Distribution,
    EmulatorCapabilities,
    Fact,
    Facts,
    HugePages,
    Known,
    KvmUsers,
    Module,
    ModuleSetting,
    NestedRun,
    Offers,
    Program,
    Registers,
    SafetyFacts,
    T,
    Timing,
    Unknown,
)

FACTS_SCHEMA = "nestctl.facts/2"


def parse_facts(document: Any) -> Facts:
    """Read what the agent printed. A single answer that is missing or misshapen becomes unknown.

    Raises `NotFoundOutError` when the document as a whole is something else.
    """
    if not isinstance(document, Mapping) or document.get("schema") != FACTS_SCHEMA:
        raise NotFoundOutError(f"What was collected is not of the schema '{FACTS_SCHEMA}'.")
    host, system, kvm = document.get("host"), document.get("system"), document.get("kvm")
    return Facts(
        architecture=_fact(host, "architecture", _text),
        kernel=_fact(host, "kernel", _text),
        cpu_model=_fact(host, "cpu_model", _text),
        cpu_flags=_fact(host, "cpu_flags", lambda value: frozenset(_text(flag) for flag in value)),
        cpu_count=_fact(host, "cpu_count", _number),
        memory_mib=_fact(host, "memory_mib", _number),
        memory_available_mib=_fact(host, "memory_available_mib", _number),
        swap_mib=_fact(host, "swap_mib", _number),
        huge_pages=_fact(host, "huge_pages", _huge_pages),
        cpu_platform=_fact(host, "cpu_platform", _text),
        modules=_fact(host, "modules", _modules),
        module_files=_fact(host, "module_files", _texts_by_name),
        module_settings=_fact(host, "module_settings", _settings),
        boot_line=_fact(host, "boot_line", _texts),
        kvm_users=_fact(host, "kvm_users", _users),
        other_hypervisors=_fact(host, "other_hypervisors", _lists_by_name),
        dmi=_fact(host, "dmi", _texts_by_name),
        smbios_is_guest=_fact(host, "smbios_is_guest", _claim),
        device_tree_hypervisor=_fact(host, "device_tree_hypervisor", _text),
        s390_hypervisor=_fact(host, "s390_hypervisor", _text),
        is_xen_dom0=_fact(host, "xen", lambda value: _claim(value["is_dom0"])),
        container=_fact(host, "container", _container),
        lockdown=_fact(host, "lockdown", _text),
        secure_boot=_fact(host, "secure_boot", _claim),
        qemu=_fact(host, "qemu", _program),
        libvirt=_fact(host, "libvirt", _program),
        libvirt_capabilities=_fact(host, "libvirt_capabilities", _emulators),
        disk_available_mib=_fact(system, "disk_available_mib", _number),
        shared_memory_mib=_fact(system, "shared_memory_mib", _number),
        kernel_log=_fact(system, "kernel_log", _texts),
        msr_feature_control=_fact(system, "msr_feature_control", _register),
        msr_vmx_basic=_fact(system, "msr_vmx_basic", _register),
        msr_vm_cr=_fact(system, "msr_vm_cr", _register),
        qemu_version=_fact(system, "qemu_version", _text),
        libvirt_version=_fact(system, "libvirt_version", _text),
        cpuid=_fact(document, "cpuid", _cpuid),
        device=_fact(kvm, "device", _device),
        api_version=_fact(kvm, "api_version", _number),
        offers=_fact(kvm, "offers", lambda value: Offers(vmx=_claim(value["vmx"]), svm=_claim(value["svm"]))),
        loop=_fact(kvm, "loop", _timing),
        cpuid_exit=_fact(kvm, "cpuid_exit", _timing),
        nested_run=_fact(kvm, "nested_run", _nested_run),
        capabilities=_fact(kvm, "capabilities", _numbers_by_name),
        supported_cpuid=_fact(kvm, "supported_cpuid", _registers_by_leaf),
        vmx_msrs=_fact(kvm, "vmx_msrs", _msrs),
        safety=_safety(host),
    )


def _safety(host: Any) -> SafetyFacts:
    return SafetyFacts(
        kernel_banner=_fact(host, "kernel_banner", _text),
        kernel_signature=_fact(host, "kernel_signature", _text),
        distribution=_fact(
            host, "distribution", lambda value: Distribution(id=_text(value["id"]), version=_text(value["version"]))
        ),
        live_patches=_fact(host, "live_patches", _texts),
        fixed_cves=_fact(host, "fixed_cves", _changelog),
        cpu_vulnerabilities=_fact(host, "cpu_vulnerabilities", _texts_by_name),
        smt_active=_fact(host, "smt_active", _claim),
        smt_control=_fact(host, "smt_control", _text),
        ksm_run=_fact(host, "ksm_run", _number),
    )


def _changelog(value: Any) -> Changelog:
    """Read {files, is_complete, cves: {year: 'number number'}}."""
    return Changelog(
        files=_texts(value["files"]),
        is_complete=_claim(value["is_complete"]),
        cves=frozenset(
            f"CVE-{_text(year)}-{number}"
            for year, numbers in value["cves"].items()
            for number in _text(numbers).split()
        ),
    )


def _fact(section: Any, name: str, read: Callable[[Any], T]) -> Fact[T]:
    answer = section.get(name) if isinstance(section, dict) else None
    if not isinstance(answer, dict):
        return Unknown(reason=f"The collector gave no answer to '{name}'.")
    if "value" not in answer:
        reason, error = answer.get("unknown", "no reason given"), answer.get("error", "")
        return Unknown(reason=_printable(str(reason)), error=_printable(str(error)))
    try:
        return Known(value=read(answer["value"]))
    except (TypeError, KeyError, ValueError, AttributeError):
        said = _printable(f"{answer['value']!r:.80}")
        return Unknown(reason=f"The collector's answer to '{name}' makes no sense: '{said}'.")


# What a machine says is printed on somebody's terminal: no byte of it may move a cursor or change a colour there.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), *range(8234, 8239), *range(8294, 8298)), "�")


def _printable(text: str) -> str:
    return text.translate(_CONTROLS)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return _printable(value)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _claim(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(item) for item in value)


def _texts_by_name(value: Any) -> dict[str, str]:
    return {_text(name): _text(text) for name, text in value.items()}


def _lists_by_name(value: Any) -> dict[str, tuple[str, ...]]:
    return {_text(name): _texts(texts) for name, texts in value.items()}


def _numbers_by_name(value: Any) -> dict[str, int]:
    return {_text(name): _number(number) for name, number in value.items()}


def _container(value: Any) -> Container:
    return Container(name=_text(value["name"]), evidence=_text(value["evidence"]))


def _register(value: Any) -> int:
    """Read a register of at most 64 bits; JSON's numbers may lose bits, so they come in hexadecimal."""
    number = int(_text(value), 16)
    if not 0 <= number < 1 << 64:
        raise ValueError
    return number


def _registers(value: Any) -> Registers:
    eax, ebx, ecx, edx = (_register(word) for word in value)
    return eax, ebx, ecx, edx


def _registers_by_leaf(value: Any) -> dict[str, Registers]:
    return {_text(leaf): _registers(words) for leaf, words in value.items()}


def _msrs(value: Any) -> dict[int, Fact[int]]:
    return {_register(number): _fact(value, number, _register) for number in value}


def _settings(value: Any) -> tuple[ModuleSetting, ...]:
    keys = ("file", "kind", "module", "text")
    return tuple(ModuleSetting(**{key: _text(setting[key]) for key in keys}) for setting in value)


def _users(value: Any) -> KvmUsers:
    return KvmUsers(
        processes=tuple(f"{_text(it['name'])} ({_text(it['pid'])})" for it in value["processes"]),
        is_complete=_claim(value["is_complete"]),
    )


def _huge_pages(value: Any) -> HugePages:
    return HugePages(**{key: _number(value[key]) for key in ("total", "free", "size_kib")})


def _program(value: Any) -> Program:
    return Program(**{key: _text(value[key]) for key in ("version", "package", "program")})


def _emulators(value: Any) -> tuple[EmulatorCapabilities, ...]:
    return tuple(
        EmulatorCapabilities(
            emulator=_text(it["emulator"]),
            architecture=_text(it.get("architecture", "")),
            has_kvm=_claim(it["kvm"]),
            supports_nesting=_claim(it["supports_nesting"]),
            features=frozenset(_texts(it["features"])),
        )
        for it in value
    )


def _modules(value: Any) -> dict[str, Module]:
    return {
        name: Module(
            name=name,
            is_built_in=module["state"] == "built in",
            parameters={
                key: _text(answer["value"]) for key, answer in module["parameters"].items() if "value" in answer
            },
            users=_number(module["users"]["value"]) if "value" in module.get("users", {}) else None,
        )
        for name, module in value.items()
    }


def _cpuid(value: Any) -> Cpuid:
    return Cpuid(
        vendor=_text(value["vendor"]),
        has_vmx=_claim(value["vmx"]),
        has_svm=_claim(value["svm"]),
        is_guest=_claim(value["hypervisor"]),
        signatures=_texts(value["signatures"]),
        leaves={_register(leaf): _registers(words) for leaf, words in value.get("leaves", {}).items()},
    )


def _device(value: Any) -> Device:
    return Device(
        mode=_text(value["mode"]),
        owner=_text(value["owner"]),
        group=_text(value["group"]),
        is_in_group=_claim(value.get("in_group", False)),
        is_member=_claim(value.get("is_member", False)),
    )


def _timing(value: Any) -> Timing:
    timing = Timing(turns=_number(value["turns"]), elapsed_ns=_number(value["elapsed_ns"]))
    if not (0 < timing.turns < 1 << 64 and 0 < timing.elapsed_ns < 1 << 64):  # what the agent's counters can hold
        raise ValueError
    return timing


def _nested_run(value: Any) -> NestedRun:
    run = NestedRun(
        feature=_text(value["feature"]),
        is_paging_nested=_claim(value["is_paging_nested"]),
        exits=_number(value["exits"]),
        elapsed_ns=_number(value["elapsed_ns"]),
        exits_of_all_runs=_number(value["exits_of_all_runs"]),
        failure=_text(value["failure"]),
    )
    if not run.failure:
        _timing({"turns": run.exits, "elapsed_ns": run.elapsed_ns})
    return run
