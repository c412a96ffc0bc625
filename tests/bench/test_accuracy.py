"""What bench says about differences that are known: real processes on this machine, one of them slowed down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Completed
from nestctl.bench.run import run_bench
from nestctl.bench.summary import Ratio, summarize
from nestctl.deadline import Deadline
from nestctl.model.samples import Settings
from tests.unit.bench.builders import Machine

_COUNTED = "take_samples(count_down,"
# Half as many turns again, which are not counted: each counted turn costs 1.5 times as much.
_SLOWED = "take_samples(lambda count: (count_down(count), count_down(count // 2)),"


@dataclass(frozen=True)
class SlowedShell(LocalShell):
    """This machine, but its agent burns a known cost that it does not count."""

    def run(
        self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"", descriptors: Sequence[int] = ()
    ) -> Completed:
        slowed = stdin.replace(_COUNTED.encode(), _SLOWED.encode())
        assert slowed != stdin
        return super().run(command, deadline=deadline, stdin=slowed, descriptors=descriptors)


def _measure(shell: LocalShell, *, rounds: int = 15) -> Ratio:
    levels = [Machine(name="L0", shell=LocalShell()), Machine(name="again", above="L0", depth=1, shell=shell)]
    settings = Settings(rounds=rounds, samples=3, target_ms=30, workloads=("cpu",))
    results = run_bench(levels, settings=settings, deadline=Deadline.after(300, "The test"))
    (row,) = summarize(results).rows
    (ratio,) = row.figures[1].ratios
    return ratio


def test_an_injected_slowdown_of_one_and_a_half_is_found_as_that(capsys: pytest.CaptureFixture[str]) -> None:
    ratio = _measure(SlowedShell())
    with capsys.disabled():
        print(f"\ninjected 1.5, found {ratio.value:.3f} [{ratio.interval}]")  # noqa: T201
    assert ratio.interval is not None
    assert ratio.is_detectable
    # Two starts of the loop instead of one are in it too: less than 0.1 % of 30 ms.
    assert ratio.interval.low * 0.999 <= 1.5 <= ratio.interval.high * 1.001


def test_twenty_runs_against_itself_differ_at_most_as_often_as_stated(capsys: pytest.CaptureFixture[str]) -> None:
    """5 % of 20 is one; three or more would come in 8 % of such tests with a true 5 %, four or more in 2 %."""
    different = sum(bool(_measure(LocalShell(), rounds=5).is_detectable) for _ in range(20))
    with capsys.disabled():
        print(f"\nA/A: {different} of 20 runs differ")  # noqa: T201
    assert different <= 3
