"""Runs over several boots, over fakes: how often guests are booted, and that it all is one run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.bench.compare import Verdict, compare_runs
from nestctl.bench.fresh import run_fresh
from nestctl.bench.notes import describe_notes
from nestctl.bench.plots import plot_exits
from nestctl.bench.report import describe_lines
from nestctl.bench.run import Progress
from nestctl.bench.summary import check_clock, summarize
from nestctl.bench.use_case import choose_settings
from nestctl.bench.verdicts import read_verdicts
from nestctl.errors import FailedError, GuestError
from nestctl.model.samples import Ending, Results, Settings, parse_results, render_results
from tests.unit.bench.builders import FakeShell, Machine


class Lab:
    """A guest whose clock begins anew with each boot; `fails_at` is the boot that does not succeed.

    Of one that `pauses` the exits are counted; a sample of it takes 9,000 ns, and its pauses `paused_ns` in a visit.
    """

    def __init__(
        self,
        *,
        fails_at: int = 0,
        error: type[BaseException] = GuestError,
        boot_s: float = 0,
        pauses: bool = False,
        paused_ns: int = 1000,
    ) -> None:
        self.boots = 1
        self.boot_s = boot_s
        self.fails_at, self.error = fails_at, error
        self.pauses, self.paused_ns = pauses, paused_ns
        self.said: list[str] = []
        self.host = FakeShell("L0", itertools.repeat(5))
        self.guest = self._start()

    def _start(self) -> FakeShell:
        return FakeShell("l1", itertools.repeat(9), pauses=self.pauses, paused_ns=self.paused_ns)

    def open(self) -> nullcontext[list[Machine]]:
        boot_s = tuple(self.boot_s or float(number) for number in range(1, self.boots + 1))
        guest = Machine(name="l1", shell=self.guest, depth=1, above="L0", boot_s=boot_s, accelerator="kvm")
        return nullcontext([Machine(name="L0", shell=self.host), guest])

    def step(self, text: str, **_about: object) -> nullcontext[None]:
        self.said.append(text)
        return nullcontext()

    def boot(self) -> None:
        if self.boots == self.fails_at:
            raise self.error("It does not answer.")
        self.boots += 1
        self.guest = self._start()


def run(lab: Lab, **settings: object) -> Results:
    values = {"rounds": 6, "fresh": 2, "workloads": ("cpu", "boot_to_ssh"), "has_control": True, **settings}
    wanted = Settings.model_validate(values)
    progress = Progress(most_rounds=wanted.rounds)
    return run_fresh(lab.open, lab.boot, settings=wanted, title="demo", step=lab.step, progress=progress)


@pytest.mark.parametrize(
    ("fresh", "boots"), [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 1, 2, 2, 3, 3]), (4, [1, 1, 1, 1, 2, 2])]
)
def test_guests_are_booted_between_rounds_and_it_is_one_run(fresh: int, boots: list[int]) -> None:
    lab = Lab()
    results = run(lab, fresh=fresh)
    assert lab.boots == boots[-1]
    seen = dict.fromkeys((call.round, call.boot) for call in results.calls if call.level == "l1")
    assert sorted(seen) == list(zip(range(1, 7), boots, strict=True))
    assert (results.ending, results.settings.rounds, results.settings.fresh) == (Ending.COMPLETE, 6, fresh)
    assert parse_results(render_results(results), source="x") == results
    (cpu, boot) = summarize(results).rows
    assert len(cpu.figures[1].values) == 6
    assert boot.figures[1].values == tuple(float(number) for number in range(1, lab.boots + 1))
    assert f"booted {boots[-1]} times" in " ".join(describe_notes(summarize(results)).reading)


@pytest.mark.parametrize(("settings", "most"), [({}, " of at most 6"), ({"rounds": 1000, "budget_s": 1e-9}, "")])
def test_a_round_is_shown_with_its_number_in_the_whole_run(settings: dict[str, object], most: str) -> None:
    lab = Lab()
    found = run(lab, fresh=4, fewest_rounds=6, **settings)
    rounds = [text.partition(":")[0] for text in lab.said if text.startswith("Round")]
    assert rounds == [f"Round {number}{most}" for number in range(1, max(call.round for call in found.calls) + 1)]


def test_a_round_of_a_long_run_says_how_long_it_will_go_on() -> None:
    """Two rounds have taken ten minutes, after a minute in which the levels were reached: three will take fifteen."""
    progress = Progress(begun_s=time.monotonic() - 660, most_rounds=5, rounds=2, first_s=60)
    progress.begin_round()
    assert str(progress) == "Round 3 of at most 5, about 15 min to go"
    quick = Progress(begun_s=time.monotonic() - 70, most_rounds=5, rounds=2, first_s=60)
    quick.begin_round()
    assert str(quick) == "Round 3 of at most 5"


def test_a_clock_that_begins_anew_with_each_boot_is_not_a_wrong_one() -> None:
    results = run(Lab(), rounds=6, fresh=3)
    drift = check_clock("l1", results.calls).drift
    calls = [call.model_copy(update={"boot": 1}) for call in results.calls]
    wrong = check_clock("l1", calls).drift
    assert drift is not None
    assert wrong is not None
    assert wrong < drift


@pytest.mark.parametrize("fresh", [1, 2])
def test_exits_are_counted_in_the_first_boot_and_are_those_of_all_where_pauses_are_dear(fresh: int) -> None:
    lab = Lab(pauses=True)
    results = run(lab, fresh=fresh, workloads=("cpu", "cpuid_exit"))
    bracketed = [
        (call.round, call.boot, call.level, call.is_control)
        for call in results.calls
        if any(outcome.bracket for outcome in call.outcomes)
    ]
    assert bracketed == [(1, 1, "l1", False)]
    summary = summarize(results)
    figure = summary.rows[0].figures[1]
    assert len(figure.boots) == lab.boots == 6 // fresh
    assert figure.exits_per_operation == 0.5
    assert describe_lines(summary)[0].cells[1].exits == "0.500 exits each"
    assert "exits per operation" in "".join(plot_exits(summary))


def test_where_pauses_are_cheap_every_visit_from_the_first_on_is_bracketed_over_all_boots() -> None:
    """1 % of a sample of 9,000 ns; until the first visit that is not the control's nobody knows."""
    results = run(Lab(pauses=True, paused_ns=90), rounds=6, fresh=2, workloads=("cpu",), seed=5)
    visits = [call for call in results.calls if call.level == "l1"]
    first = [call.is_control for call in visits].index(False)
    bracketed = [bool(call.outcomes[0].bracket) for call in visits]
    assert (len(visits), bracketed) == (12, [False] * first + [True] * (12 - first))
    assert f"in {12 - first} of 12 visits to l1" in " ".join(describe_notes(summarize(results)).reading)


def test_a_guest_whose_first_boot_failed_is_bracketed_in_the_next() -> None:
    lab = Lab(pauses=True)

    def fail() -> None:
        raise FailedError("The agent broke.")

    lab.guest.before = fail
    calls = run(lab, rounds=3, fresh=1, workloads=("cpu",)).calls
    visits = [call for call in calls if call.level == "l1" and not call.is_control]
    assert [call.failure for call in visits] == ["The agent broke.", "", ""]
    assert [bool(call.outcomes and call.outcomes[0].bracket) for call in visits] == [False, True, False]


def test_runs_are_compared_whether_later_boots_were_bracketed_or_not() -> None:
    """Results of an older nestctl have brackets in every boot."""
    new = run(Lab(pauses=True), rounds=5, fresh=1, workloads=("cpu",))
    (bracketed,) = [call.outcomes[0] for call in new.calls if call.outcomes[0].bracket]
    calls = [
        call.model_copy(update={"outcomes": (call.outcomes[0].model_copy(update={"bracket": bracketed.bracket}),)})
        for call in new.calls
    ]
    old = new.model_copy(update={"calls": tuple(calls)})
    changes = compare_runs(summarize(old), summarize(new), threshold=0.05).changes
    assert {change.level: change.verdict for change in changes} == {"L0": Verdict.SAME, "l1": Verdict.SAME}


@pytest.mark.parametrize(
    ("error", "ending", "said"),
    [(GuestError, Ending.FAILED, "did not come up again"), (KeyboardInterrupt, Ending.INTERRUPTED, "")],
)
def test_guests_that_do_not_come_up_again_end_the_run_and_what_there_is_is_kept(
    error: type[BaseException], ending: Ending, said: str
) -> None:
    results = run(Lab(fails_at=2, error=error))
    assert results.ending is ending
    assert max(call.round for call in results.calls) == 4
    assert said in " ".join(results.left_out)


def test_a_budget_and_a_precision_end_it_between_boots() -> None:
    assert max(call.round for call in run(Lab(), rounds=50, fewest_rounds=5, budget_s=1e-9).calls) == 6
    assert max(call.round for call in run(Lab(), rounds=50, fewest_rounds=5, until=0.5).calls) == 6
    assert choose_settings(fresh=3).fresh == 3


def test_an_interrupted_part_is_the_last() -> None:
    lab = Lab()
    steps = itertools.count(1)

    def interrupt() -> None:
        if next(steps) == 3:
            raise KeyboardInterrupt

    before: Callable[[], None] = interrupt
    lab.host = FakeShell("L0", itertools.repeat(5), before=before)
    results = run(lab)
    assert results.ending is Ending.INTERRUPTED
    assert {call.boot for call in results.calls} <= {1, 2}


def test_a_level_that_can_be_asked_has_its_verdicts_and_another_none() -> None:
    verdicts = read_verdicts([Machine(name="L0", shell=LocalShell()), Machine(name="x", shell=FakeShell("x", [5]))])
    assert set(verdicts["L0"]) == {"check.can_accelerate", "check.can_nest", "check.nests_well"}
    assert set(verdicts["L0"].values()) <= {"yes", "no", "unknown"}
    assert verdicts["x"] == {}
