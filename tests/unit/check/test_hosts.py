"""Every machine under tests/hosts is judged as its expected.json says.

A machine is a directory: root/ with what its /proc and /sys say, probe.json with what CPUID and /dev/kvm answered (and
whether it was recorded or constructed, from which source), expected.json. Adding one needs no code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nestctl.check.assess import assess
from nestctl.check.findings import Status
from nestctl.check.recording import outline, read_recording
from nestctl.check.report import Report, render_json
from nestctl.check.rules import RULES
from nestctl.model.facts import Facts
from nestctl.model.facts_document import parse_facts

HOSTS = Path(__file__).parents[2] / "hosts"
MACHINES = sorted(path for path in HOSTS.iterdir() if path.is_dir())


def read_probe(machine: Path) -> dict[str, Any]:
    probe: dict[str, Any] = json.loads((machine / "probe.json").read_text(encoding="utf-8"))
    return probe


def read_machine(machine: Path) -> Facts:
    return parse_facts(read_recording(machine).collect())


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_machine_is_judged_as_expected(machine: Path) -> None:
    expected = json.loads((machine / "expected.json").read_text(encoding="utf-8"))
    assert outline(assess(read_machine(machine))) == expected


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_machine_says_where_it_is_from(machine: Path) -> None:
    probe = read_probe(machine)
    assert probe["origin"] in ("recorded", "constructed")
    assert probe["source"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_speaks_on_some_machine_and_not_always_the_same(rule: Any) -> None:
    found = {rule(read_machine(machine)) for machine in MACHINES}
    assert len(found - {None}) >= 2


def test_every_status_is_given_on_some_machine() -> None:
    assessments = [assess(read_machine(machine)) for machine in MACHINES]
    assert {finding.status for assessment in assessments for finding in assessment.findings} == set(Status)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_finding_has_a_sentence_and_evidence(machine: Path) -> None:
    for finding in assess(read_machine(machine)).findings:
        assert finding.summary
        assert finding.evidence


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_report_can_be_written_as_json_and_read_back(machine: Path) -> None:
    document = render_json(Report(assessment=assess(read_machine(machine)), collected=read_probe(machine)))
    assert json.loads(json.dumps(document)) == document
