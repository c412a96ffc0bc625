"""What the rules of several questions share. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from nestctl.check.findings import Finding, Status
from nestctl.check.processors import HARDWARE_MODULES
from nestctl.check.questions import LONGEST_HARDWARE_TURN_NS, is_emulated
from nestctl.model.facts import Fact, Facts, Known, T, Unknown

# A rule looks at one thing and answers None where it has nothing to say about a machine.
Rule: TypeAlias = Callable[[Facts], Finding | None]


def unknown_finding(name: str, what: str, fact: Unknown) -> Finding:
    """Make a finding of what was not found out; `what` begins the sentence, and the reason is the evidence."""
    return Finding(name=name, status=Status.UNKNOWN, summary=f"{what} is unknown", evidence=fact.reason)


def caveat(facts: Facts) -> str:
    """Label a figure that is no figure of hardware."""
    if is_emulated(facts):
        return " (on an emulated machine: not a figure of hardware)"
    if isinstance(facts.loop, Known) and facts.loop.value.ns_per_turn > LONGEST_HARDWARE_TURN_NS:
        return " (in software: not a figure of hardware)"
    return ""


def show(fact: Fact[T]) -> str:
    """Return a fact's value as text, 'unknown' where it is."""
    return str(fact.value) if isinstance(fact, Known) else "unknown"


def wanted_module(facts: Facts) -> str:
    """Return the module that would serve this CPU, or '' where the kernel may not use hardware virtualization."""
    if isinstance(facts.cpuid, Unknown) or isinstance(facts.cpu_flags, Unknown):
        return ""
    return HARDWARE_MODULES.get(facts.cpuid.value.vendor, "") if facts.cpu_flags.value & {"vmx", "svm"} else ""


def parse_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers at the head of a version ('6.1.0-9-amd64' is 6, 1, 0); none where it has no number."""
    found = re.match(r"\d{1,6}(?:\.\d{1,6})*", text, re.ASCII)
    return tuple(int(number) for number in found.group(0).split(".")) if found else ()
