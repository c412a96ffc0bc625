"""How good would nesting be. Pure."""

from __future__ import annotations

from nestctl.check.findings import Finding, Status
from nestctl.check.questions import find_backend
from nestctl.check.rules.common import Rule
from nestctl.model.facts import Facts


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


RULES: tuple[Rule, ...] = (find_nested_paging,)
