"""Arbitrary bytes in any file, or arbitrary JSON from an agent, give unknown facts and a verdict; nothing raises."""

from __future__ import annotations

import base64
import copy
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.agent import safety
from nestctl.agent.cpuid import Registers, describe
from nestctl.agent.facts import SCHEMA, read_facts, read_files, replay
from nestctl.agent.tree import RecordedTree
from nestctl.check.assess import assess
from nestctl.check.recording import read_recording
from nestctl.check.report import Report, render_json, render_summary
from nestctl.check.text import render_findings
from nestctl.errors import UsageError
from nestctl.model.facts_document import parse_facts

pytestmark = pytest.mark.slow

HOSTS = Path(__file__).parents[1] / "hosts"
ARCHITECTURES = ("x86_64", "aarch64", "s390x", "ppc64le", "")


def read_by_the_agent() -> tuple[str, ...]:
    """Name every file that is read of some machine of tests/hosts."""
    trees = []
    for machine in HOSTS.iterdir():
        trees.append(RecordedTree(read_recording(machine).entries))
        read_files(trees[-1], "x86_64")
    return tuple(sorted({path for tree in trees for path, entry in tree.seen.items() if "names" not in entry}))


FILES = read_by_the_agent()

WORDS = st.integers(0, 0xFFFFFFFF)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)
DOCUMENT = read_facts(passive=True)
HOST_FACTS, SYSTEM, QUESTIONS = (tuple(DOCUMENT[section]) for section in ("host", "system", "kvm"))
SAFETY_FACTS = ("boot_line", *safety.read_facts(RecordedTree({}), ""))
MACHINES = tuple(read_recording(machine).collect() for machine in sorted(HOSTS.iterdir()))


def facts_of(names: tuple[str, ...]) -> st.SearchStrategy[Any]:
    fact = JSON | st.fixed_dictionaries({"value": JSON}) | st.fixed_dictionaries({"unknown": JSON, "error": JSON})
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, fact))


def judge(collected: Any) -> str:
    report = Report(assessment=assess(parse_facts(collected)), collected=collected)
    assert render_json(report)["verdict"] == report.assessment.verdict
    assert max(map(len, render_findings(report.assessment, width=80).splitlines()), default=0) <= 80
    return render_summary(report.assessment)


@given(data=st.data())
def test_any_bytes_in_the_files(data: st.DataObject) -> None:
    """Every file that is read of a machine may hold anything; there are no more files than those of tests/hosts."""
    entries = {
        path: {"base64": base64.b64encode(data.draw(st.binary(max_size=200), label=path)).decode()}
        for path in data.draw(st.sets(st.sampled_from(FILES)), label="files")
    }
    collected = replay({"architecture": data.draw(st.sampled_from(ARCHITECTURES)), "cpuid": {"value": {}}}, entries)
    assert all(("value" in fact) != ("unknown" in fact) for fact in collected["host"].values())
    assert "verdict" in judge(collected)


@given(
    host_facts=facts_of(HOST_FACTS) | JSON, system=facts_of(SYSTEM) | JSON, kvm=facts_of(QUESTIONS) | JSON, cpuid=JSON
)
def test_any_answer_of_an_agent(host_facts: Any, system: Any, kvm: Any, cpuid: Any) -> None:
    assert "verdict" in judge({"schema": SCHEMA, "host": host_facts, "system": system, "cpuid": cpuid, "kvm": kvm})


@given(data=st.data())
def test_any_answer_in_place_of_one_that_makes_sense(data: st.DataObject) -> None:
    """One part of what a whole machine says is anything, as deep as it goes: the rules see all the rest."""
    machine = copy.deepcopy(data.draw(st.sampled_from(MACHINES), label="machine"))
    place: Any = machine
    key: Any = data.draw(st.sampled_from(("host", "system", "cpuid", "kvm")), label="section")
    while (
        isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans() | st.just(True), label="deeper")
    ):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))), label="part")
    place[key] = data.draw(JSON, label="instead")
    assert "verdict" in judge(machine)


@given(text=st.text())
def test_nothing_that_a_machine_says_moves_a_cursor(text: str) -> None:
    said = copy.deepcopy(MACHINES[0])
    said["host"]["cpu_model"] = {"value": f"\x1b[2J{text}"}
    said["host"]["cpu_count"] = {"unknown": f"\x9b31m{text}"}
    assessment = assess(parse_facts(said))
    shown = "".join(finding.summary + finding.evidence + finding.fix for finding in assessment.findings)
    assert not [character for character in shown if unicodedata.category(character) == "Cc"]


@given(content=st.binary(max_size=2000), name=st.sampled_from(("probe.json", "root/proc/cpuinfo", "")))
def test_any_file_instead_of_a_recording_is_refused_or_judged(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, name) if name else Path(directory, "machine.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        try:
            recording = read_recording(Path(directory) if name else path)
        except UsageError:
            return
    assert "verdict" in judge(recording.collect())


@given(answers=st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1))
def test_any_answers_of_the_cpu(answers: list[tuple[int, int, int, int]]) -> None:
    shown = describe(lambda leaf: Registers(*answers[leaf % len(answers)]))
    assert isinstance(shown["vendor"], str)


@given(facts=facts_of(SAFETY_FACTS), kernel=st.sampled_from(["6.1.160", "6.1.0-18-amd64", "5.14.0-1.el9.x86_64"]))
def test_any_answer_about_safety(facts: dict[str, Any], kernel: str) -> None:
    host = {"architecture": {"value": "x86_64"}, "kernel": {"value": kernel}, **facts}
    collected = {"schema": SCHEMA, "host": host, "cpuid": {}, "kvm": {}}
    assert "safe for tenants" in judge(collected)
