"""Untrusted guests that may nest: what the check of this machine says against it, and who has accepted that."""

from __future__ import annotations

from typing import Any

import pytest

from nestctl.check.explain import load_explanations
from nestctl.check.findings import Finding, Status
from nestctl.errors import ExitCode, LabFileError, PrerequisiteError
from nestctl.lab.admission import Room
from nestctl.lab.bring_up import Wishes
from nestctl.lab.converge import converge
from nestctl.lab.diff import render_changes
from nestctl.lab.parse import parse_lab
from nestctl.lab.preview import Preview
from nestctl.lab.risk import Risk, check_risks, describe_risk, judge_risks, read_risks
from nestctl.model.lab import Guest, Lab
from tests.builders import lab_of_tenants
from tests.lab_bench import HOST, Bench


def finding(name: str, status: Status) -> Finding:
    return Finding(name=name, status=status, summary=f"about {name}", evidence="", fix="do it")


FINDINGS = (
    finding("safety.kernel", Status.WARN),
    finding("safety.smt", Status.FAIL),
    finding("safety.ksm", Status.PASS),
    finding("safety.cpu", Status.UNKNOWN),
    finding("safety.encryption", Status.INFO),
)


def up(bench: Bench, lab: Lab, risks: tuple[Risk, ...]) -> None:
    room = Room(cpus=1000, available_mib=None, free_gib=1e6)
    some: dict[str, Any] = {"step": bench.step, "say": bench.said.append, "access": bench.access}
    converge(bench.machine.level, lab, HOST, wishes=Wishes(), room=room, risks=risks, **some)


def test_what_speaks_against_it_is_kept_and_what_is_accepted_is_not_open() -> None:
    risks = judge_risks(FINDINGS, ["safety.smt", "safety.other"])
    assert [(it.name, it.is_open, it.is_accepted) for it in risks] == [
        ("safety.kernel", True, False),
        ("safety.smt", False, True),
        ("safety.cpu", False, False),
    ]
    assert [describe_risk(it).partition(":")[0] for it in risks] == [
        "safety.kernel (open)",
        "safety.smt (accepted)",
        "safety.cpu (not known)",
    ]


def test_an_open_risk_is_refused_with_the_line_that_accepts_it() -> None:
    with pytest.raises(PrerequisiteError, match=r"safety\.kernel \(open\)") as caught:
        check_risks(judge_risks(FINDINGS, ()))
    assert "accepted_risks: [safety.kernel, safety.smt]" in caught.value.hint
    assert caught.value.exit_code == ExitCode.NOT_FOUND_OUT
    check_risks(judge_risks(FINDINGS, ["safety.kernel", "safety.smt"]))


def test_nothing_is_started_against_an_open_risk_and_all_are_shown() -> None:
    bench, lab = Bench(), lab_of_tenants(trust="untrusted")
    with pytest.raises(PrerequisiteError):
        up(bench, lab, judge_risks(FINDINGS, ()))
    assert bench.world.steps == 0
    assert [line for line in bench.said if "safety." in line] == [
        "nestctl: warning: safety.kernel (open): about safety.kernel",
        "nestctl: warning: safety.smt (open): about safety.smt",
        "nestctl: warning: safety.cpu (not known): about safety.cpu",
    ]


def test_what_runs_already_is_only_warned_about() -> None:
    bench, lab = Bench(), lab_of_tenants(trust="untrusted")
    up(bench, lab, ())
    up(bench, lab, judge_risks(FINDINGS, ()))
    assert any("safety.kernel (open)" in line for line in bench.said)


@pytest.mark.parametrize(
    ("trust", "nesting", "is_emulated", "expected"),
    [
        ("own", True, True, False),
        ("untrusted", False, True, False),
        ("untrusted", True, True, True),
    ],
)
def test_this_machine_is_looked_at_for_untrusted_guests_that_nest(
    trust: str, nesting: bool, is_emulated: bool, expected: bool
) -> None:
    lab = Lab(name="isp", trust=trust, guests={"a": Guest(nesting=nesting)})  # type: ignore[arg-type]
    names = [it.name for it in read_risks(lab, is_emulated=is_emulated)]
    assert ("safety.tcg" in names) is expected
    assert bool(names) is expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("safety.smtt", "Did you mean 'safety.smt'?"),
        ("safety.nonsense", "Known: safety.kernel, safety.cpu, safety.smt,"),
    ],
)
def test_a_risk_that_no_finding_has_cannot_be_accepted(name: str, hint: str) -> None:
    text = f"name: isp\ntrust: untrusted\naccepted_risks: [safety.tcg, {name}]\nguests: {{a: {{}}}}\n"
    with pytest.raises(LabFileError, match=rf"lab.yaml:3: 'accepted_risks.1' is no finding .*'{name}'") as caught:
        parse_lab(text, "lab.yaml")
    assert caught.value.hint.startswith(hint)


def test_every_risk_that_can_be_found_can_be_accepted() -> None:
    names = [name for name in load_explanations() if name.startswith("safety.")]
    text = f"name: isp\naccepted_risks: [{', '.join([*names, 'safety.tcg'])}]\nguests: {{a: {{}}}}\n"
    assert len(parse_lab(text, "lab.yaml").accepted_risks) == len(names) + 1


def test_programs_are_told_of_them() -> None:
    document = render_changes("isp", Preview(guests=(), risks=judge_risks(FINDINGS[:1], ())))
    assert document["risks"] == [
        {
            "name": "safety.kernel",
            "status": "warn",
            "summary": "about safety.kernel",
            "fix": "do it",
            "is_accepted": False,
        }
    ]
