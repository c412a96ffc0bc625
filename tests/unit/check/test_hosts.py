"""Every machine under tests/hosts is judged as its expected.json says.

A machine is a directory: root/ with what its /proc and /sys say, probe.json with what CPUID and /dev/kvm answered (and
whether it was recorded or constructed, from which source), expected.json. Adding one needs no code.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nestctl.check.assess import assess
from nestctl.check.findings import Status
from nestctl.check.places import PLACES, find_place
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


@cache
def read_machines() -> tuple[Facts, ...]:
    return tuple(read_machine(machine) for machine in MACHINES)


def test_there_are_machines_of_every_kind() -> None:
    """The tables of what the check has to tell apart, by the machines that are there for it."""
    assert len(MACHINES) >= 25
    probes = [read_probe(machine) for machine in MACHINES]
    assert {probe["architecture"] for probe in probes} >= {"x86_64", "s390x", "ppc64le", "aarch64"}
    assert {probe["origin"] for probe in probes} == {"recorded", "constructed"}


def test_every_place_is_that_of_some_machine_and_its_advice_is_given() -> None:
    found = {place.name for facts in read_machines() if (place := find_place(facts))}
    assert {place.name for place in PLACES} - found == set()


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_machine_is_judged_as_expected(machine: Path, request: pytest.FixtureRequest) -> None:
    judged, file = outline(assess(read_machine(machine))), machine / "expected.json"
    if request.config.getoption("--update-golden"):
        file.write_text(json.dumps(judged, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert judged == json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_machine_says_where_it_is_from(machine: Path) -> None:
    probe = read_probe(machine)
    assert probe["origin"] in ("recorded", "constructed")
    assert probe["source"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.__name__))
def test_every_rule_speaks_on_some_machine_and_not_always_the_same(rule: Any) -> None:
    found = {rule(facts) for facts in read_machines()}
    assert found - {None}
    assert len(found) >= 2


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
