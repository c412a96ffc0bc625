"""Arbitrary bytes in any file, or arbitrary JSON from an agent, give unknown facts and a verdict; nothing raises."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nestctl.agent import host
from nestctl.agent.cpuid import Registers, describe
from nestctl.agent.facts import SCHEMA
from nestctl.check.assess import assess
from nestctl.check.report import Report, render_json, render_summary
from nestctl.model.facts_document import parse_facts

FILES = (host.CPUINFO, host.MEMINFO, host.KERNEL_RELEASE, "sys/module/kvm_intel/parameters/nested")

WORDS = st.integers(0, 0xFFFFFFFF)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)
QUESTIONS = ("device", "api_version", "offers", "loop", "cpuid_exit")
HOST_FACTS = ("architecture", "kernel", "cpu_model", "cpu_flags", "cpu_count", "memory_mib", "modules")


def facts_of(names: tuple[str, ...]) -> st.SearchStrategy[Any]:
    fact = JSON | st.fixed_dictionaries({"value": JSON}) | st.fixed_dictionaries({"unknown": JSON, "error": JSON})
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, fact))


def judge(collected: Any) -> str:
    report = Report(assessment=assess(parse_facts(collected)), collected=collected)
    assert render_json(report)["verdict"] == report.assessment.verdict
    return render_summary(report.assessment)


@given(contents=st.fixed_dictionaries(dict.fromkeys(FILES, st.binary(max_size=200))))
def test_any_bytes_in_the_files(contents: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, content in contents.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        found = host.read_facts(Path(directory))
    assert all(("value" in fact) != ("unknown" in fact) for fact in found.values())
    assert "verdict" in judge({"schema": SCHEMA, "host": found, "cpuid": {"value": {}}, "kvm": {}})


@given(host_facts=facts_of(HOST_FACTS) | JSON, kvm=facts_of(QUESTIONS) | JSON, cpuid=JSON)
def test_any_answer_of_an_agent(host_facts: Any, kvm: Any, cpuid: Any) -> None:
    assert "verdict" in judge({"schema": SCHEMA, "host": host_facts, "cpuid": cpuid, "kvm": kvm})


@given(answers=st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1))
def test_any_answers_of_the_cpu(answers: list[tuple[int, int, int, int]]) -> None:
    shown = describe(lambda leaf: Registers(*answers[leaf % len(answers)]))
    assert isinstance(shown["vendor"], str)
