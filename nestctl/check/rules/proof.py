"""Does a guest of a guest run: what KVM offers is a promise, this is its proof. Pure."""

from __future__ import annotations

from nestctl.check.findings import Finding, Status
from nestctl.check.questions import offered_feature
from nestctl.check.rules.common import Rule, caveat, unknown_finding
from nestctl.model.facts import Facts, Unknown


def find_nested_proof(facts: Facts) -> Finding | None:
    """Judge whether a guest of a guest really ran, and give the price of its exits."""
    if not offered_feature(facts):
        return None  # there is nothing to prove, and the finding about the offer says so
    if isinstance(facts.nested_run, Unknown):
        return unknown_finding("nested.proof", "whether a guest of a guest runs", facts.nested_run)
    run = facts.nested_run.value
    how = f"micro-hypervisor with {run.feature.upper()}, {'with' if run.is_paging_nested else 'without'} nested paging"
    if run.failure:
        return Finding(
            name="nested.proof",
            status=Status.FAIL,
            summary=f"guests are given {run.feature.upper()}, and a guest of theirs does not run",
            evidence=f"{how}: {run.failure}",
        )
    return Finding(
        name="nested.proof",
        status=Status.PASS,
        summary=(
            f"a guest of a guest ran; an exit to its hypervisor and back costs {run.ns_per_exit:,.0f} ns{caveat(facts)}"
        ),
        evidence=f"{how}: {run.exits:,} CPUID instructions, best run; all {run.exits_of_all_runs:,} exits were checked",
    )


RULES: tuple[Rule, ...] = (find_nested_proof,)
