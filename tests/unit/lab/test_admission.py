"""What fits is let through, what cannot fit is refused with its sums, what may become too much is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nestctl.check.findings import Status
from nestctl.check.recording import read_recording
from nestctl.check.rules.quality import LAB_MEMORY_MIB, find_memory
from nestctl.errors import ExitCode, PrerequisiteError
from nestctl.lab.admission import (
    Room,
    assess_room,
    check_room,
    describe_admission,
    parse_available_mib,
    read_room,
    render_admission,
)
from nestctl.lab.compare import Change, compare
from nestctl.lab.observe import Inside
from nestctl.lab.parse import read_lab
from nestctl.model.facts import Known
from nestctl.model.facts_document import parse_facts
from nestctl.model.lab import Guest, Lab
from nestctl.paths import resource
from tests.builders import lab_of_depth, plans_of, seen

HOSTS = Path(__file__).parents[2] / "hosts"

MEMINFO = "MemTotal:        4028440 kB\nMemFree:          210000 kB\nMemAvailable:    3145728 kB\n"


def room(**changes: Any) -> Room:
    return Room(**{"cpus": 2, "available_mib": 3072, "free_gib": 100.0, **changes})


def all_new(lab: Lab) -> tuple[Change, ...]:
    return compare(plans_of(lab), Inside())


def lab(**guests: Guest) -> Lab:
    return Lab(name="demo", guests=guests)


def test_what_is_available_is_read_in_mib(tmp_path: Path) -> None:
    assert parse_available_mib(MEMINFO) == 3072
    (tmp_path / "meminfo").write_text(MEMINFO)
    seen = read_room(tmp_path / "not" / "there", meminfo=tmp_path / "meminfo")
    assert seen.available_mib == 3072
    assert seen.cpus >= 1
    assert seen.free_gib > 0


@pytest.mark.parametrize("text", ["", "MemTotal: 12 kB\n"])
def test_a_kernel_that_does_not_say_is_not_guessed_for(text: str) -> None:
    assert parse_available_mib(text) is None
    check_room(all_new(lab_of_depth(5)), room(available_mib=None))


def test_guests_that_fit_are_let_through() -> None:
    assert check_room(all_new(lab_of_depth(2)), room()) == ()
    assert check_room((), room(available_mib=0)) == ()


def test_guests_that_do_not_fit_are_said_with_their_sum() -> None:
    two = lab(a=Guest(memory_mib=2048), b=Guest(memory_mib=1024))
    with pytest.raises(PrerequisiteError, match=r"need 3328 MiB \(a 2176 \+ b 1152\), .* 3072 MiB available") as raised:
        check_room(all_new(two), room())
    assert raised.value.exit_code == ExitCode.NOT_FOUND_OUT
    assert "memory_mib" in raised.value.hint


@pytest.mark.parametrize(("short_mib", "status"), [(0, Status.PASS), (1, Status.WARN)])
def test_check_and_up_agree_whether_the_smallest_lab_fits(short_mib: int, status: Status) -> None:
    free_mib = LAB_MEMORY_MIB - short_mib
    admission = assess_room(all_new(read_lab(resource("templates", "labs/single.yaml"))), room(available_mib=free_mib))
    assert admission
    assert (not admission.refusals) is (status is Status.PASS)
    facts = parse_facts(read_recording(HOSTS / "intel-nested-on").collect())
    assert find_memory(replace(facts, memory_available_mib=Known(value=free_mib))).status is status


@pytest.mark.parametrize(
    ("memory_mib", "is_running", "needed"), [(1024, True, {}), (1536, True, {"a": 512}), (1536, False, {"a": 1664})]
)
@pytest.mark.parametrize("again", [{"cpus": 2}, {"disk_gib": 9}])
def test_a_guest_that_is_started_again_needs_what_it_has_not_yet(
    again: dict[str, int], memory_mib: int, is_running: bool, needed: dict[str, int]
) -> None:
    there = seen(plans_of(lab(a=Guest(memory_mib=1024))))
    (guest,) = there.guests
    there = replace(there, guests=(replace(guest, domain=replace(guest.domain, is_running=is_running)),))
    changes = compare(plans_of(lab(a=Guest(memory_mib=memory_mib, **again))), there)  # type: ignore[arg-type]
    admission = assess_room(changes, room(available_mib=600))
    assert admission
    assert admission.needed_mib == needed
    assert bool(admission.refusals) is not is_running


def test_a_long_sum_is_shown_short() -> None:
    many = lab(**{f"g{index}": Guest() for index in range(300)})
    with pytest.raises(PrerequisiteError, match=r"g9 1152 \+ 290 more\)"):
        check_room(all_new(many), room())


def test_many_vcpus_are_said_and_far_too_many_are_refused() -> None:
    (warning,) = check_room(all_new(lab(a=Guest(cpus=9))), room())
    assert warning == "the guests in this machine have 9 vCPUs together for 2 CPUs; they will wait for each other."
    with pytest.raises(
        PrerequisiteError, match=r"this machine have 33 vCPUs together, and it has 2 CPUs: more than 16"
    ):
        check_room(all_new(lab(a=Guest(cpus=16), b=Guest(cpus=17))), room(available_mib=None))


def test_vcpus_are_counted_in_every_hypervisor() -> None:
    inner = {"x": Guest(memory_mib=256, cpus=5)}
    (warning,) = check_room(all_new(lab(a=Guest(memory_mib=2048, guests=inner))), room())
    assert "the guests in 'a' have 5 vCPUs together for 1 CPU;" in warning


def test_disks_that_could_outgrow_their_place_are_said() -> None:
    inner = {"x": Guest(memory_mib=256, disk_gib=9)}
    here, inside = check_room(all_new(lab(a=Guest(memory_mib=2048, disk_gib=8, guests=inner))), room(free_gib=7.5))
    assert here == "the new disks may grow to 8 GiB together, and 7.5 GiB are free."
    assert inside == "the disks in 'a' may grow to 9 GiB together, and its own has 8 GiB."


def test_the_sums_are_shown_to_people_and_programs_whether_it_fits_or_not() -> None:
    two = all_new(lab(a=Guest(memory_mib=2048, cpus=33), b=Guest(memory_mib=1024)))
    fits = assess_room(two, room(cpus=16, available_mib=4096))
    too_large = assess_room(two, room())
    assert fits
    assert too_large
    assert describe_admission(fits) == (
        "Memory: 3328 MiB (a 2176 + b 1152) of 4096 MiB available. vCPUs: 34 for 16 CPUs. "
        "New disks: up to 16 GiB of 100.0 GiB free."
    )
    assert "of an unknown amount available" in describe_admission(assess_room(two, room(available_mib=None)) or fits)
    assert render_admission(fits)["fits"] is True
    assert render_admission(too_large) == {
        "fits": False,
        "memory": {"needed_mib": 3328, "available_mib": 3072, "guests": {"a": 2176, "b": 1152}},
        "cpus": {"vcpus": 34, "available": 2},
        "disk": {"new_gib": 16, "free_gib": 100.0},
        "refusals": [str(it) for it in too_large.refusals],
        "warnings": [],
    }
    assert len(too_large.refusals) == 2
    assert assess_room((), room()) is None
