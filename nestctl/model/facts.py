"""What is known about a machine as a host of guests: values, or unknown with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeAlias, TypeVar

from nestctl.errors import NotFoundOutError

FACTS_SCHEMA = "nestctl.facts/1"

T = TypeVar("T")


class Accelerator(StrEnum):
    """How a lab's outermost guests run."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True)
class Known(Generic[T]):
    value: T


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """Why something is not known; `error` is the name of the system's error, such as 'EACCES', if it was one."""

    reason: str
    error: str = ""


Fact: TypeAlias = Known[T] | Unknown


@dataclass(frozen=True, kw_only=True)
class Device:
    """The node /dev/kvm, as `ls -l` shows it."""

    mode: str
    owner: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module of the kernel; `parameters` as the kernel prints them, those that could be read."""

    name: str
    is_built_in: bool
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Cpuid:
    """What the instruction CPUID itself shows; `signatures` name the hypervisors above, nearest leaf first."""

    vendor: str
    has_vmx: bool
    has_svm: bool
    is_guest: bool
    signatures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Offers:
    """What KVM would give to a guest (KVM_GET_SUPPORTED_CPUID)."""

    vmx: bool
    svm: bool


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A loop of a micro-guest, timed from outside."""

    turns: int
    elapsed_ns: int

    @property
    def ns_per_turn(self) -> float:
        return self.elapsed_ns / self.turns


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything the check judges about one machine."""

    architecture: Fact[str]
    kernel: Fact[str]
    cpu_model: Fact[str]
    cpu_flags: Fact[frozenset[str]]
    cpu_count: Fact[int]
    memory_mib: Fact[int]
    memory_available_mib: Fact[int]
    modules: Fact[Mapping[str, Module]]
    cpuid: Fact[Cpuid]
    device: Fact[Device]
    api_version: Fact[int]
    offers: Fact[Offers]
    loop: Fact[Timing]
    cpuid_exit: Fact[Timing]


def parse_facts(document: Any) -> Facts:
    """Read what the agent printed. A single answer that is missing or misshapen becomes unknown.

    Raises `NotFoundOutError` when the document as a whole is something else.
    """
    if not isinstance(document, dict) or document.get("schema") != FACTS_SCHEMA:
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
