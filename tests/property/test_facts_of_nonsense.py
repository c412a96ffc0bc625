"""Arbitrary bytes in any file, or arbitrary JSON from an agent, give unknown facts and a verdict; nothing raises."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nestctl.agent.cpuid import Registers, describe
from nestctl.agent.facts import SCHEMA, read_files, replay
from nestctl.agent.tree import RecordedTree
from nestctl.check.assess import assess
from nestctl.check.recording import read_recording
from nestctl.check.report import Report, render_json, render_summary
from nestctl.model.facts_document import parse_facts

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
QUESTIONS = ("device", "api_version", "offers", "loop", "cpuid_exit", "nested_run")
HOST_FACTS = ("architecture", "kernel", "cpu_model", "cpu_flags", "cpu_count", "memory_mib", "modules")
SAFETY_FACTS = (
    "boot_line",
    "kernel_banner",
    "kernel_signature",
    "distribution",
    "live_patches",
    "fixed_cves",
    "cpu_vulnerabilities",
    "smt_active",
    "smt_control",
    "ksm_run",
)


def facts_of(names: tuple[str, ...]) -> st.SearchStrategy[Any]:
    fact = JSON | st.fixed_dictionaries({"value": JSON}) | st.fixed_dictionaries({"unknown": JSON, "error": JSON})
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, fact))


def judge(collected: Any) -> str:
    report = Report(assessment=assess(parse_facts(collected)), collected=collected)
    assert render_json(report)["verdict"] == report.assessment.verdict
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


@given(host_facts=facts_of(HOST_FACTS) | JSON, kvm=facts_of(QUESTIONS) | JSON, cpuid=JSON)
def test_any_answer_of_an_agent(host_facts: Any, kvm: Any, cpuid: Any) -> None:
    assert "verdict" in judge({"schema": SCHEMA, "host": host_facts, "cpuid": cpuid, "kvm": kvm})


@given(answers=st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1))
def test_any_answers_of_the_cpu(answers: list[tuple[int, int, int, int]]) -> None:
    shown = describe(lambda leaf: Registers(*answers[leaf % len(answers)]))
    assert isinstance(shown["vendor"], str)


@given(safety=facts_of(SAFETY_FACTS), kernel=st.sampled_from(["6.1.160", "6.1.0-18-amd64", "5.14.0-1.el9.x86_64"]))
def test_any_answer_about_safety(safety: dict[str, Any], kernel: str) -> None:
    host = {"architecture": {"value": "x86_64"}, "kernel": {"value": kernel}, **safety}
    collected = {"schema": SCHEMA, "host": host, "cpuid": {}, "kvm": {}}
    assert "safe for tenants" in judge(collected)
