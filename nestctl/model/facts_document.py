"""Read the document that the agent prints, `nestctl.facts/2`, into `Facts`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nestctl.errors import NotFoundOutError
from nestctl.model.facts import Cpuid, Device, Fact, Facts, Known, Module, Offers, T, Timing, Unknown

FACTS_SCHEMA = "nestctl.facts/2"


def parse_facts(document: Any) -> Facts:
    """Read what the agent printed. A single answer that is missing or misshapen becomes unknown.

    Raises `NotFoundOutError` when the document as a whole is something else.
    """
    if not isinstance(document, Mapping) or document.get("schema") != FACTS_SCHEMA:
        raise NotFoundOutError(f"What was collected is not of the schema '{FACTS_SCHEMA}'.")
    host, kvm = document.get("host"), document.get("kvm")
    return Facts(
        architecture=_fact(host, "architecture", _text),
        kernel=_fact(host, "kernel", _text),
        cpu_model=_fact(host, "cpu_model", _text),
        cpu_flags=_fact(host, "cpu_flags", lambda value: frozenset(_text(flag) for flag in value)),
        cpu_count=_fact(host, "cpu_count", _number),
        memory_mib=_fact(host, "memory_mib", _number),
        memory_available_mib=_fact(host, "memory_available_mib", _number),
        modules=_fact(host, "modules", _modules),
        cpuid=_fact(document, "cpuid", _cpuid),
        device=_fact(kvm, "device", _device),
        api_version=_fact(kvm, "api_version", _number),
        offers=_fact(kvm, "offers", lambda value: Offers(vmx=_claim(value["vmx"]), svm=_claim(value["svm"]))),
        loop=_fact(kvm, "loop", _timing),
        cpuid_exit=_fact(kvm, "cpuid_exit", _timing),
    )


def _fact(section: Any, name: str, read: Callable[[Any], T]) -> Fact[T]:
    answer = section.get(name) if isinstance(section, dict) else None
    if not isinstance(answer, dict):
        return Unknown(reason=f"The collector gave no answer to '{name}'.")
    if "value" not in answer:
        return Unknown(reason=str(answer.get("unknown", "no reason given")), error=str(answer.get("error", "")))
    try:
        return Known(value=read(answer["value"]))
    except (TypeError, KeyError, ValueError, AttributeError):
        return Unknown(reason=f"The collector's answer to '{name}' makes no sense: '{answer['value']!r:.80}'.")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _claim(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _modules(value: Any) -> dict[str, Module]:
    return {
        name: Module(
            name=name,
            is_built_in=module["state"] == "built in",
            parameters={
                key: _text(answer["value"]) for key, answer in module["parameters"].items() if "value" in answer
            },
        )
        for name, module in value.items()
    }


def _cpuid(value: Any) -> Cpuid:
    return Cpuid(
        vendor=_text(value["vendor"]),
        has_vmx=_claim(value["vmx"]),
        has_svm=_claim(value["svm"]),
        is_guest=_claim(value["hypervisor"]),
        signatures=tuple(_text(signature) for signature in value["signatures"]),
    )


def _device(value: Any) -> Device:
    return Device(mode=_text(value["mode"]), owner=_text(value["owner"]), group=_text(value["group"]))


def _timing(value: Any) -> Timing:
    timing = Timing(turns=_number(value["turns"]), elapsed_ns=_number(value["elapsed_ns"]))
    if not (0 < timing.turns < 1 << 64 and 0 < timing.elapsed_ns < 1 << 64):  # what the agent's counters can hold
        raise ValueError
    return timing
