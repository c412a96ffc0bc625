"""What is seen from outside of a workload: exits on the level above, and L0's clock."""

from __future__ import annotations

import io
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Completed, Conversation
from nestctl.agent.__main__ import answer
from nestctl.bench.brackets import make_bracket
from nestctl.bench.costs import DEAREST_PAUSES, harness_share, pause_share
from nestctl.bench.notes import describe_notes
from nestctl.bench.report import describe_lines
from nestctl.bench.run import bracket_program, run_bench
from nestctl.bench.summary import disagrees, summarize
from nestctl.bench.workloads import choose_workloads
from nestctl.deadline import Deadline
from nestctl.model.samples import Bracket, Outcome, Results, Sample, Settings
from tests.unit.bench.builders import SECOND_NS, FakeShell, Machine, call, record, results


def measure(*, accelerator: str, no_exits: str = "") -> Results:
    host = FakeShell("L0", itertools.repeat(5), pauses=True, no_exits=no_exits)
    guest = FakeShell("l1", itertools.repeat(9), pauses=True)
    levels = [
        Machine(name="L0", shell=host),
        Machine(name="l1", shell=guest, depth=1, above="L0", accelerator=accelerator, domain="demo-l1"),
    ]
    settings = Settings(rounds=2, workloads=("cpu", "cpuid_exit"))
    return run_bench(levels, settings=settings, deadline=Deadline.after(60, "The test"))


def test_the_level_above_counts_the_exits_of_a_guest_while_its_samples_are_taken() -> None:
    summary = summarize(measure(accelerator="kvm"))
    cpu, micro = summary.rows
    assert cpu.figures[0].exits_per_operation is None
    assert cpu.figures[1].exits_per_operation == pytest.approx(0.5)  # 500 exits, 1000 operations
    assert describe_lines(summary)[0].cells[1].exits == "0.500 exits each"
    assert micro.figures[1].exits_per_operation is None
    assert not any("are not counted" in note for note in describe_notes(summary).below)


@pytest.mark.parametrize(
    ("accelerator", "no_exits", "reason"),
    [("tcg", "", "it is emulated (TCG)"), ("kvm", "KVM's counters are only for root", "L0: KVM's counters")],
)
def test_why_exits_are_not_counted_is_said_once(accelerator: str, no_exits: str, reason: str) -> None:
    results = measure(accelerator=accelerator, no_exits=no_exits)
    (sentence,) = results.left_out
    assert sentence.startswith(f"Exits of l1 are not counted: {reason}")
    assert summarize(results).rows[0].figures[1].exits_per_operation is None


def test_a_counter_of_another_boot_counts_nothing() -> None:
    assert make_bracket(1, 2, 500, 700).exits == 200
    assert make_bracket(1, 2, 700, 500).exits is None
    assert make_bracket(1, 2, None, 500).exits is None


@pytest.mark.parametrize(
    ("around_s", "depth", "is_flagged"),
    [
        (1.0, 1, False),
        (0.99, 1, True),
        (1.1, 1, False),
        (1.5, 1, True),
        (1.3, 1, True),
        (1.3, 3, False),
        (1.5, 3, True),
    ],
)
def test_a_level_whose_clock_says_another_time_than_l0_is_flagged(
    around_s: float, depth: int, is_flagged: bool
) -> None:
    """Messages to an l3 go through three levels, and take three times as long and longer."""
    bracket = Bracket(host_begin_ns=0, host_end_ns=round(around_s * SECOND_NS))
    sample = Sample(operations=1, elapsed_ns=SECOND_NS, begin_ns=7, end_ns=7 + SECOND_NS)
    outcome = Outcome(workload="cpu", samples=(sample,), bracket=bracket)
    assert disagrees(call("l1", 1, "cpu", 1), outcome, depth) is is_flagged


def test_samples_longer_than_their_visit_are_flagged_without_a_bracket() -> None:
    long, short = (call("l1", 1, "cpuid_exit", elapsed_ns) for elapsed_ns in (SECOND_NS * 2, SECOND_NS // 2))
    assert disagrees(long, long.outcomes[0], 1)
    assert not disagrees(short, short.outcomes[0], 1)


def test_clocks_are_checked_in_a_boot_without_brackets_too() -> None:
    first, right, wrong = (call("l1", number, "cpu", SECOND_NS * number // 2) for number in (1, 2, 3))
    around = Bracket(host_begin_ns=0, host_end_ns=SECOND_NS // 2)
    first = first.model_copy(update={"outcomes": (first.outcomes[0].model_copy(update={"bracket": around}),)})
    later = [it.model_copy(update={"boot": it.round}) for it in (right, wrong)]
    row = summarize(results([record("l1")], [first, *later], workloads=choose_workloads(["cpu"]))).rows[0]
    assert row.figures[0].unlike_clock == 1


def test_a_program_that_says_it_took_longer_than_l0_saw_is_void() -> None:
    said = Outcome(workload="sysbench_cpu", samples=(Sample(operations=100, elapsed_ns=2 * SECOND_NS),))
    right = bracket_program(said, make_bracket(0, 3 * SECOND_NS, 10, 60), 5, 25)
    assert (right.samples[0].void, right.samples[0].stolen_ns) == ("", 20)
    assert right.bracket is not None
    assert right.bracket.exits == 50
    wrong = bracket_program(said, make_bracket(0, SECOND_NS, None, None), None, 25)
    assert wrong.samples[0].void == "it says that it took 2.000 s, and by L0's clock all of it took 1.000 s"
    assert wrong.samples[0].stolen_ns is None


def test_exits_of_several_visits_are_their_median() -> None:
    visits = []
    for number, exits in enumerate((400, 900, 500), start=1):
        visit = call("l1", number, "cpu", 5000)
        bracket = Bracket(host_begin_ns=0, host_end_ns=5000, exits=exits)
        outcomes = (visit.outcomes[0].model_copy(update={"bracket": bracket}),)
        visits.append(visit.model_copy(update={"outcomes": outcomes}))
    row = summarize(results([record("l1")], visits, workloads=choose_workloads(["cpu"]))).rows[0]
    assert row.figures[0].exits_per_operation == pytest.approx(0.5)


class SlowLink:
    """This machine as if far away: what its agent says and is told takes its time."""

    where = "far away"

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        return LocalShell().run(command, deadline=deadline, stdin=stdin)

    @contextmanager
    def converse(self, command: Sequence[str]) -> Iterator[Conversation]:
        with LocalShell().converse(command) as conversation:
            yield _SlowConversation(conversation, self._delay_s)


class _SlowConversation:
    def __init__(self, conversation: Conversation, delay_s: float) -> None:
        self._conversation, self._delay_s = conversation, delay_s

    def ask(self, text: bytes, *, deadline: Deadline) -> bytes:
        time.sleep(self._delay_s)
        return self._conversation.ask(text, deadline=deadline)

    def end(self, *, deadline: Deadline) -> Completed:
        return self._conversation.end(deadline=deadline)


@pytest.mark.slow
@pytest.mark.parametrize(("delay_s", "target_ms"), [(0, 100), (0.05, 10)])
def test_whether_later_visits_are_bracketed_follows_from_what_pauses_took_in_the_first(
    delay_s: float, target_ms: int
) -> None:
    """Real agents. Over the slow link two pauses take 0.1 s for samples of 0.02 s; without it nobody knows before."""
    levels = [
        Machine(name="L0", shell=LocalShell()),
        Machine(name="l1", shell=SlowLink(delay_s), depth=1, above="L0", accelerator="kvm", domain="no-such-guest"),
    ]
    settings = Settings(rounds=4, samples=2, target_ms=target_ms, workloads=("cpu", "cpuid_exit"))
    measured = run_bench(levels, settings=settings, deadline=Deadline.after(60, "The test"))
    visits = [visit for visit in measured.calls if visit.level == "l1"]
    brackets = [[outcome.workload for outcome in visit.outcomes if outcome.bracket] for visit in visits]
    cost = pause_share(visits[0])
    assert brackets == [["cpu"], *([["cpu"] if cost <= DEAREST_PAUSES else []] * 3)]
    assert cost > DEAREST_PAUSES or not delay_s
    assert not any(disagrees(visit, outcome, 1) for visit in visits for outcome in visit.outcomes)
    (note,) = [it for it in describe_notes(summarize(measured)).reading if "around each workload" in it]
    assert f"in {len([it for it in brackets if it])} of 4 visits to l1 (pauses for it took" in note
    assert "L0 (" not in note


def test_pauses_are_a_cost_of_measuring() -> None:
    visit = call("l1", 1, "cpu", 5000)
    paused = visit.model_copy(update={"paused_ns": SECOND_NS // 5})
    levels = [record("l1")]
    assert harness_share(results(levels, [visit])) == pytest.approx(0)
    assert harness_share(results(levels, [paused])) == pytest.approx(0.25)


@pytest.mark.parametrize("workload", ["cpu", "syscall"])
def test_the_agent_pauses_before_and_after_the_samples_of_one_workload_and_of_no_other(
    workload: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n" * 20))
    arguments = ["--workload=cpu", "--workload=syscall", f"--pause={workload}", "--samples=2", "--target-ms=1"]
    answer("measure", arguments)
    *pauses, document = map(json.loads, capsys.readouterr().out.splitlines())
    assert [pause["at"] for pause in pauses[:2]] == ["begin", "end"]
    assert {pause["workload"] for pause in pauses} == {workload}
    assert len(pauses) % 2 == 0
    assert document["paused_ns"] > 0
