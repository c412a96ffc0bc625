from __future__ import annotations

import re
from dataclasses import replace

import pytest

from nestctl.check import check_this_machine, choose_accelerator
from nestctl.check.findings import AcceleratorChoice, Answer, Assessment, Finding, Question, Status, Verdict
from nestctl.check.report import render_summary
from nestctl.check.text import render_findings
from nestctl.errors import ExitCode, NotFoundOutError
from nestctl.model.facts import Accelerator
from nestctl.model.facts_document import parse_facts

KVM = AcceleratorChoice(
    accelerator=Accelerator.KVM, cpu_feature="vmx", is_machine_emulated=False, reason="it was proved"
)
TCG = AcceleratorChoice(accelerator=Accelerator.TCG, cpu_feature="svm", is_machine_emulated=False, reason="it was not")


def assessment(
    accelerate: Verdict, nest: Verdict, choice: AcceleratorChoice | None = TCG, findings: tuple[Finding, ...] = ()
) -> Assessment:
    elsewhere = Answer(verdict=Verdict.UNKNOWN, reason="nobody looked")
    return Assessment(
        where_am_i=elsewhere,
        can_accelerate=Answer(verdict=accelerate, reason="because"),
        can_nest=Answer(verdict=nest, reason="therefore"),
        nests_well=elsewhere,
        safe_for_tenants=elsewhere,
        is_emulated=False,
        choice=choice,
        findings=findings,
    )


@pytest.mark.parametrize(
    ("accelerate", "nest", "verdict", "exit_code"),
    [
        (Verdict.YES, Verdict.YES, Verdict.YES, ExitCode.OK),
        (Verdict.YES, Verdict.NO, Verdict.NO, ExitCode.NO),
        (Verdict.NO, Verdict.YES, Verdict.NO, ExitCode.NO),
        (Verdict.UNKNOWN, Verdict.NO, Verdict.NO, ExitCode.NO),
        (Verdict.YES, Verdict.UNKNOWN, Verdict.UNKNOWN, ExitCode.NOT_FOUND_OUT),
        (Verdict.UNKNOWN, Verdict.YES, Verdict.UNKNOWN, ExitCode.NOT_FOUND_OUT),
    ],
)
def test_one_no_is_enough_for_no_and_one_doubt_for_doubt(
    accelerate: Verdict, nest: Verdict, verdict: Verdict, exit_code: ExitCode
) -> None:
    assert assessment(accelerate, nest).verdict is verdict
    assert verdict.exit_code is exit_code


@pytest.mark.parametrize(
    ("choice", "verdict", "said"),
    [
        (KVM, Verdict.YES, "run on KVM; their guests are given VMX"),
        (TCG, Verdict.NO, "run EMULATED (QEMU's TCG with SVM), correctly but many times slower than on hardware"),
        (TCG, Verdict.UNKNOWN, "unless KVM proves to be usable"),
        (None, Verdict.UNKNOWN, "cannot run"),
    ],
)
def test_summary_says_loudly_how_labs_will_run(choice: AcceleratorChoice | None, verdict: Verdict, said: str) -> None:
    assert said in render_summary(assessment(verdict, verdict, choice)).splitlines()[-1]


def test_summary_of_an_emulated_machine_says_so() -> None:
    proved = assessment(Verdict.YES, Verdict.YES, KVM)
    assert "EMULATED" not in render_summary(proved)
    assert "is itself EMULATED" in render_summary(replace(proved, is_emulated=True))


def printed(width: int, *findings: Finding, is_coloured: bool = False) -> list[str]:
    judged = assessment(Verdict.NO, Verdict.NO, findings=findings)
    return render_findings(judged, width=width, is_coloured=is_coloured).splitlines()


CPU = Finding(
    name="cpu",
    status=Status.FAIL,
    summary="it is off",
    evidence="seen [1]",
    fix="do [this]",
    question=Question.ACCELERATION,
)


def test_evidence_and_fix_stand_below_their_question() -> None:
    lines = printed(120, CPU)
    assert lines[0] == "accelerated guests: no"
    assert lines[1].split() == ["cpu", "fail", "it", "is", "off", "seen", "[1]"]
    assert lines[2].split() == ["fix", "do", "[this]"]


def test_on_a_narrow_terminal_evidence_stands_below() -> None:
    lines = printed(80, CPU)
    assert [line.split() for line in lines[1:4]] == [
        ["cpu", "fail", "it", "is", "off"],
        ["seen", "[1]"],
        ["fix", "do", "[this]"],
    ]
    assert lines[2].index("seen") == lines[1].index("it is")


@pytest.mark.parametrize("width", [80, 110, 160])
def test_no_line_is_wider_than_there_is_room_and_nothing_is_lost(width: int) -> None:
    long = replace(CPU, summary="word " * 60, evidence="x" * 300, fix="do " * 60)
    lines = printed(width, long)
    assert max(map(len, lines)) <= width
    assert sum(line.count("word") for line in lines) == 60
    assert sum(line.count("x") for line in lines) == 300 + 1  # one in the word 'fix'


def test_colours_change_no_column() -> None:
    plain, coloured = printed(120, CPU), printed(120, CPU, is_coloured=True)
    assert "\x1b[31mfail\x1b[0m" in coloured[1]
    assert [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in coloured] == plain


def test_a_question_without_findings_is_left_out() -> None:
    assert not [line for line in printed(120, CPU) if line.startswith("nesting")]


@pytest.mark.parametrize(
    ("verdict", "status", "plain", "strict"),
    [
        (Verdict.YES, Status.WARN, ExitCode.OK, ExitCode.NO),
        (Verdict.YES, Status.INFO, ExitCode.OK, ExitCode.OK),
        (Verdict.NO, Status.WARN, ExitCode.NO, ExitCode.NO),
        (Verdict.UNKNOWN, Status.WARN, ExitCode.NOT_FOUND_OUT, ExitCode.NOT_FOUND_OUT),
    ],
)
def test_where_it_is_strict_a_warning_makes_a_no_of_a_yes(
    verdict: Verdict, status: Status, plain: ExitCode, strict: ExitCode
) -> None:
    judged = assessment(verdict, verdict, findings=(replace(CPU, status=status),))
    assert (judged.exit_code(), judged.exit_code(is_strict=True)) == (plain, strict)


def test_labs_get_the_accelerator_that_check_reports() -> None:
    reported = check_this_machine().assessment.choice
    chosen = choose_accelerator()
    assert reported is not None
    assert (chosen.accelerator, chosen.cpu_feature) == (reported.accelerator, reported.cpu_feature)


def test_what_is_collected_elsewhere_must_be_of_the_schema() -> None:
    with pytest.raises(NotFoundOutError, match=r"nestctl\.facts/2"):
        parse_facts({"schema": "nestctl.facts/99"})
