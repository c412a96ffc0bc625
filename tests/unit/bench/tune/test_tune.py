"""Trying settings on a lab that is not there: what is booted, what is measured, and that all is put back."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import pytest

from nestctl.adapters.shell import Completed, Conversation, Shell, TalkingShell
from nestctl.bench.level import Level
from nestctl.bench.tune.report import (
    describe_refused,
    describe_tune_notes,
    describe_tune_warnings,
    render_trials,
    render_tune,
    render_tune_markdown,
    render_tune_page,
)
from nestctl.bench.tune.run import Tuning, plan_visits, tune
from nestctl.bench.tune.settings import read_settings
from nestctl.bench.tune.summary import Effect, TuneSummary, summarize_tune
from nestctl.bench.tune.trials import Machine, Refusal, Trial, list_trials
from nestctl.deadline import Deadline
from nestctl.errors import GuestError, HypervisorError
from nestctl.model.lab import Guest, Lab
from nestctl.model.samples import Ending, Settings
from nestctl.model.tune import TuneResults
from tests.unit.bench.builders import SECOND_NS, FakeShell
from tests.unit.bench.builders import Machine as FakeLevel

HALT_POLL = "/sys/module/kvm/parameters/halt_poll_ns"
WAY = ("L0", "l1", "l2")
LAB = Lab(name="demo", guests={"l1": Guest(memory_mib=2048, guests={"l2": Guest(memory_mib=512)})})


def find(name: str) -> Trial:
    machines = (
        Machine(name="L0", runs="kvm", cpus=(0, 1), values={HALT_POLL: "200000"}),
        Machine(name="l1", runs="kvm", cpus=(0,), values={HALT_POLL: "200000"}, guest=LAB.guests["l1"]),
        Machine(name="l2", runs="", cpus=(0,), values={}, guest=LAB.guests["l1"].guests["l2"]),
    )
    (trial,) = (it for it in list_trials(read_settings(), machines, may_change_host=True) if it.name == name)
    assert isinstance(trial, Trial)
    return trial


@dataclass
class Sys:
    """A machine with one file of /sys, and a QEMU whose command line shows what its lab says."""

    where: str = "l1"
    value: str = "200000"
    qemu: str = ""
    is_stuck: bool = False

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        deadline.check()
        text = ""
        if command[0] == "cat":
            text = self.value
        elif 'printf "%s"' in command[2]:
            self.value = self.value if self.is_stuck else command[5]
        elif "head -n 1" in command[2]:
            text = f"{HALT_POLL} {self.value}\nflags : svm"
        elif "find_qemu" in command[2]:
            text = self.qemu
        return Completed(command=tuple(command), where=self.where, exit_code=0, stdout=text.encode(), stderr=b"")

    def converse(self, command: Sequence[str]) -> AbstractContextManager[Conversation]:
        raise AssertionError(f"nothing is measured there, and {command} was started")


@dataclass
class FakeBed:
    """A lab whose guest takes `cost` nanoseconds for an operation; `happens` is called before every step."""

    cost: Callable[[Lab, Sys], float]
    happens: Callable[[str], None] = lambda _step: None
    machine: Sys = field(default_factory=Sys)
    there: Lab = LAB
    running: int = 3
    is_honest: bool = True
    asked: Lab = LAB
    boots: int = 0
    noise: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311
    wishes: list[Lab] = field(default_factory=list)

    def stop(self, guest: str) -> None:
        assert self.running >= WAY.index(guest), f"nobody can go through what is off to stop {guest}"
        self.happens("stop")
        self.running = WAY.index(guest)

    def boot(self, lab: Lab) -> None:
        self.asked = lab
        self.happens("boot")
        assert self.running < 3, "a guest that runs is not booted anew"
        self.there, self.running, self.boots = lab, 3, self.boots + 1
        self.wishes.append(lab)
        caches = [guest.tuning.disk_cache for guest in (lab.guests["l1"], lab.guests["l1"].guests["l2"])]
        self.machine.qemu = '"cache":{"direct":true' if "none" in caches and self.is_honest else ""

    @contextmanager
    def open(self, lab: Lab) -> Iterator[Sequence[Level]]:
        self.happens("open")
        assert self.there == lab
        elapsed_ns = round(self.cost(lab, self.machine) * self.noise.gauss(1000, 20))
        guest = FakeShell("l2", itertools.repeat(elapsed_ns), pauses=True, paused_ns=SECOND_NS)
        shells: list[TalkingShell] = [self.machine, self.machine, guest]
        yield [
            FakeLevel(name=name, shell=shell, depth=depth, above=WAY[depth - 1] if depth else None)
            for depth, (name, shell) in enumerate(zip(WAY, shells, strict=True))
        ]

    @contextmanager
    def open_shell(self, machine: str) -> Iterator[Shell]:
        assert self.running == WAY.index(machine) + 1, "a machine is changed while it runs and its guest is off"
        there, wanted = (lab.guests["l1"].model_copy(update={"guests": {}}) for lab in (self.there, LAB))
        assert machine == "L0" or there == wanted, "l1 would be restarted, and with it go its settings"
        yield replace_where(self.machine, machine)

    def put_back(self) -> bool:
        self.happens("put back")
        self.there, self.running = LAB, 3
        return True


def replace_where(machine: Sys, where: str) -> Sys:
    machine.where = where
    return machine


def cheaper_without_cache(lab: Lab, _machine: Sys) -> float:
    return 2 if lab.guests["l1"].guests["l2"].tuning.disk_cache == "none" else 3


def run(bed: FakeBed, *names: str, rounds: int = 6, budget_s: float | None = None) -> TuneResults:
    tuning = Tuning(
        lab=LAB,
        way=WAY,
        bed=bed,
        settings=Settings(rounds=1, fewest_rounds=1, levels=("l2",), workloads=("cpu", "boot_in_guest")),
        rounds=rounds,
        budget_s=budget_s,
        step=lambda _text: nullcontext(),
        say=lambda _text: None,
    )
    refusal = Refusal(setting=find("io-uring@l2").setting, machine="l1", reason="it cannot be <here>")
    return tune(tuning, [find(name) for name in names], [refusal], seed=1)


def expect_put_back(bed: FakeBed) -> None:
    assert (bed.there, bed.running, bed.machine.value) == (LAB, 3, "200000")


def test_every_setting_is_booted_once_a_round_and_the_lab_as_it_is_twice() -> None:
    trials = [find("cache-none@l2"), find("io-uring@l2")]
    rounds = plan_visits(trials, 6, seed=3)
    names = [[visit.name for visit in visits] for visits in rounds]
    expected = ["as it is", "as it is (control)", "cache-none@l2", "io-uring@l2"]
    assert all(sorted(it) == expected for it in names)
    assert names[1] == names[0][::-1], "A B, B A"
    assert names[5] == names[4][::-1]
    assert len({tuple(it) for it in names}) > 2
    assert plan_visits(trials, 6, seed=3) == rounds != plan_visits(trials, 6, seed=4)


def test_what_helps_is_found_by_as_much_as_it_helps_and_all_is_put_back() -> None:
    bed = FakeBed(cost=cheaper_without_cache)
    results = run(bed, "cache-none@l2", "cache-none@l1")
    expect_put_back(bed)
    assert bed.boots == 4 * 6
    assert (results.ending, results.trouble) == (Ending.COMPLETE, "")
    helped, same = summarize_tune(results).assessed
    assert helped.effect is Effect.HELPED
    (change,) = helped.found
    assert change.workload == "cpu"
    assert change.ratio.interval is not None
    assert change.ratio.interval.contains(2 / 3)
    assert same.effect is Effect.NONE


def test_each_series_of_boots_is_bracketed_once() -> None:
    """Their pauses are dear, and what a setting does to the exits is the same in every boot."""
    results = run(FakeBed(cost=cheaper_without_cache), "cache-none@l2", rounds=3)
    (tried,) = results.tried
    assert results.baseline
    assert tried.results
    calls = [*results.baseline.calls, *tried.results.calls]
    assert len(calls) == 9
    bracketed = [call.is_control for call in calls if any(outcome.bracket for outcome in call.outcomes)]
    assert sorted(bracketed) == [False, False, True]


def test_how_long_each_boot_took_is_one_of_the_figures() -> None:
    results = run(FakeBed(cost=cheaper_without_cache), "cache-none@l2")
    (helped,) = summarize_tune(results).assessed
    assert {change.workload: change.before.count for change in helped.changes} == {"cpu": 6, "boot_in_guest": 6}


def test_a_setting_of_a_machine_is_in_effect_while_it_is_measured_and_only_then() -> None:
    seen: list[str] = []

    def cost(_lab: Lab, machine: Sys) -> float:
        seen.append(machine.value)
        return 4 if machine.value == "0" else 3

    bed = FakeBed(cost=cost)
    (hurt,) = summarize_tune(run(bed, "halt-poll-off@l1")).assessed
    expect_put_back(bed)
    assert sorted(seen) == ["0"] * 6 + ["200000"] * 12
    assert hurt.effect is Effect.HURT


def test_the_guest_that_a_machine_runs_is_off_while_it_is_changed_and_on_again_for_the_next() -> None:
    """The measured guest is two levels down: with a setting of this machine l1 is switched off, and l2 with it."""
    bed = FakeBed(cost=lambda _lab, _machine: 3)
    results = run(bed, "halt-poll-off@L0", "halt-poll-off@l1", "cache-none@l1")
    expect_put_back(bed)
    assert [(it.failure, it.results is not None) for it in results.tried] == [("", True)] * 3
    assert bed.boots > 5 * 6, "and what was off is booted before another trial needs it"


def test_a_guest_that_did_not_start_with_a_setting_is_booted_as_it_is_before_the_next_trial() -> None:
    bed = FakeBed(cost=cheaper_without_cache)

    def refuse(step: str) -> None:
        if step == "boot" and bed.wishes and bed.asked.guests["l1"].tuning.disk_io:
            bed.running = 1
            raise HypervisorError("Could not start the domain: io_uring is not supported.")

    bed.happens = refuse
    results = run(bed, "io-uring@l1", "cache-none@l2")
    expect_put_back(bed)
    failed, helped = summarize_tune(results).assessed
    assert (failed.effect, helped.effect) == (Effect.FAILED, Effect.HELPED)


@pytest.mark.parametrize("name", ["cache-none@l2", "halt-poll-off@l1", "halt-poll-off@L0"])
def test_an_interruption_at_any_step_puts_everything_back_and_keeps_what_there_is(name: str) -> None:
    def interrupt_at(number: int) -> Callable[[str], None]:
        steps = itertools.count(1)

        def happens(step: str) -> None:
            if next(steps) == number and step != "put back":
                raise KeyboardInterrupt

        return happens

    for number in range(1, 31):
        bed = FakeBed(cost=cheaper_without_cache, happens=interrupt_at(number))
        results = run(bed, name)
        expect_put_back(bed)
        assert results.ending is Ending.INTERRUPTED, number
        assert TuneResults.model_validate_json(results.model_dump_json(by_alias=True)) == results
        summary = summarize_tune(results)
        assert "interrupted" in " ".join(describe_tune_warnings(summary))
        assert render_tune(summary)["put_back"]


def test_a_setting_that_fails_is_left_out_from_then_on_and_says_why() -> None:
    bed = FakeBed(cost=cheaper_without_cache)

    def refuse(step: str) -> None:
        if step == "open" and bed.there.guests["l1"].guests["l2"].tuning.disk_io:
            raise HypervisorError("Could not start the domain: io_uring is not supported.")

    bed.happens = refuse
    results = run(bed, "io-uring@l2", "cache-none@l2")
    expect_put_back(bed)
    failed, helped = summarize_tune(results).assessed
    assert (failed.effect, failed.tried.results) == (Effect.FAILED, None)
    assert "io_uring is not supported" in failed.tried.failure
    assert helped.effect is Effect.HELPED
    assert sum(bool(lab.guests["l1"].guests["l2"].tuning.disk_io) for lab in bed.wishes) == 1


def test_a_setting_that_is_not_to_be_seen_is_no_trial() -> None:
    bed = FakeBed(cost=cheaper_without_cache, is_honest=False)
    (failed,) = run(bed, "cache-none@l2").tried
    assert "is not to be seen in l1" in failed.failure
    expect_put_back(bed)


def test_a_machine_that_cannot_be_put_back_ends_it_and_is_said() -> None:
    bed = FakeBed(cost=cheaper_without_cache)

    def stick(step: str) -> None:
        bed.machine.is_stuck = bed.machine.value == "0"

    bed.happens = stick
    results = run(bed, "halt-poll-off@l1")
    assert results.ending is Ending.INTERRUPTED
    assert "'/sys/module/kvm/parameters/halt_poll_ns' on l1 could not be put back" in results.trouble
    assert describe_tune_warnings(summarize_tune(results))[0].startswith("NOT PUT BACK")


def test_a_lab_that_cannot_be_booted_as_it_is_is_an_error_and_is_put_back() -> None:
    bed = FakeBed(cost=cheaper_without_cache)

    def fail(step: str) -> None:
        if step == "open":
            raise GuestError("It does not answer.")

    bed.happens = fail
    with pytest.raises(GuestError, match="does not answer"):
        run(bed, "cache-none@l2", rounds=30)
    expect_put_back(bed)


def test_no_round_begins_that_the_budget_has_no_room_for() -> None:
    bed = FakeBed(cost=cheaper_without_cache)
    results = run(bed, "cache-none@l2", budget_s=1e-9)
    assert bed.boots == 3
    assert results.ending is Ending.COMPLETE
    (unknown,) = summarize_tune(results).assessed
    assert unknown.effect is Effect.UNKNOWN
    assert "too few for an interval" in " ".join(describe_tune_notes(summarize_tune(results)))


def tried() -> TuneSummary:
    """A run in which one setting helped, one did nothing, and one could not be tried."""
    return summarize_tune(run(FakeBed(cost=cheaper_without_cache), "cache-none@l2", "cache-none@l1"))


@pytest.fixture(scope="module")
def summary() -> TuneSummary:
    return tried()


def test_the_reports_say_what_helped_what_did_not_and_what_was_not_tried(summary: TuneSummary) -> None:
    markdown, page = render_tune_markdown(summary), render_tune_page(summary)
    for text in (markdown, page):
        assert "cache-none@l2" in text
        assert "no detectable difference" in text
        assert "cheaper" in text
        assert "QEMU manual" in text
    assert "it cannot be &lt;here&gt;" in page
    assert "it cannot be \\<here>" in markdown
    assert describe_refused(summary) == ("Not tried: io-uring@l1: it cannot be <here>.",)


def test_what_nobody_may_miss_stands_before_the_trials_and_how_to_read_them_below(summary: TuneSummary) -> None:
    emulated = summarize_tune(summary.results.model_copy(update={"is_emulated": True}))
    for text in (render_tune_markdown(emulated), render_tune_page(emulated)):
        order = ("What helps", "EMULATED (l2): emulated", "cache-none@l2", "was booted anew", "it cannot be")
        places = [text.index(words) for words in order]
        assert places == sorted(places)


def test_the_documents_have_their_schemas(summary: TuneSummary) -> None:
    document = render_tune(summary)
    assert document["schema"] == "nestctl.bench-tune-summary/1"
    first = document["trials"][0]
    assert (first["name"], first["effect"], first["boots"]) == ("cache-none@l2", "helped", 6)
    (figure,) = (it for it in first["figures"] if it["workload"] == "cpu")
    assert figure["ratio_low"] <= 2 / 3 <= figure["ratio_high"]
    listed = render_trials([find("cache-none@l2"), Refusal(setting=find("pins@l1").setting, machine="l2", reason="no")])
    assert [it.get("reason", "") for it in listed["settings"]] == ["", "no"]


def test_equal_series_are_called_different_seldom() -> None:
    """The noise of boots is that of the control; with the same series nothing is found."""
    (same,) = summarize_tune(run(FakeBed(cost=lambda _lab, _machine: 3), "cache-none@l2")).assessed
    assert same.effect is Effect.NONE
