from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from nestctl.lab.compare import is_settled
from nestctl.lab.keys import find_keys
from nestctl.lab.listing import LabSummary, summarize_labs
from nestctl.lab.observe import Look, observe
from nestctl.lab.report import render_age, render_labs, render_labs_table
from nestctl.lab.status import age_s, is_up, judge
from nestctl.lab.store import keep_lab
from tests.builders import lab_of_depth
from tests.lab_bench import Bench
from tests.unit.lab.test_status import shown

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_a_lab_without_domains_is_listed_by_its_directory() -> None:
    keep_lab(lab_of_depth(3))
    (found,) = summarize_labs(connect="qemu:///embed?root=/nowhere")
    assert found == LabSummary(name="demo", outermost=0, running=0, guests=3, age_s=None)


def test_a_lab_whose_file_is_damaged_is_listed_all_the_same() -> None:
    (keep_lab(lab_of_depth(1)) / "lab.yaml").write_text("{")
    (found,) = summarize_labs(connect="qemu:///embed?root=/nowhere")
    assert found.guests is None
    assert "its file cannot be read" in shown(render_labs_table((found,)))


def test_the_list_is_shown_to_people_and_programs() -> None:
    labs = (LabSummary(name="demo", outermost=2, running=1, guests=5, age_s=7260, expires="2026-03-01T12:00:00+00:00"),)
    assert "2026-03-01" in shown(render_labs_table(labs))
    assert "1 of 2 running" in shown(render_labs_table(labs))
    assert "2 h 1 min" in shown(render_labs_table(labs))
    assert json.loads(json.dumps(render_labs(labs)))["labs"][0]["guests"] == 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 0 min"), (90_061, "1 d 1 h")],
)
def test_an_age_has_its_two_largest_units(seconds: int, text: str) -> None:
    assert render_age(seconds) == text


@pytest.mark.parametrize("created", ["", "yesterday", "2026-01-01T00:00:00"])
def test_a_mark_that_does_not_say_gives_no_age(created: str) -> None:
    assert age_s(created, NOW) is None


def test_an_age_is_never_negative() -> None:
    assert age_s((NOW - timedelta(hours=1)).isoformat(), NOW) == 3600
    assert age_s((NOW + timedelta(hours=1)).isoformat(), NOW) == 0


def test_the_status_of_a_lab_over_fakes() -> None:
    bench = Bench()
    wanted = lab_of_depth(2)
    bench.up(wanted)

    def look() -> tuple[tuple[str, str, bool], ...]:
        there = observe(
            bench.machine.level,
            Look(lab="demo", keys=find_keys("demo"), access=bench.access, is_thorough=True),
        )
        outer = judge(wanted, wanted.guests, there, now=datetime.now(UTC))[0]
        return tuple((it.state, it.accelerator, it.age_s is not None) for it in (outer, *outer.guests))

    assert look() == (("running", "kvm", True), ("running", "kvm", True))
    bench.world.failing.add("l2")
    assert look() == (("running", "kvm", True), ("unreachable", "", True))
    bench.world.failing.clear()
    bench.machine.hypervisor.stop_domain("demo-l1")
    assert look() == (("off", "", True), ("absent", "", False))
    assert not is_settled(bench.plan(wanted))
    assert is_up(())
