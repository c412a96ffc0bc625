"""The table of settings: each says what it changes, why, and who says so; and what it changes can be changed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nestctl.bench.tune.settings import Of, Proof, Setting, read_settings
from nestctl.bench.tune.trials import change_guest
from nestctl.lab.compare import Action
from nestctl.model.lab import Guest, Lab
from tests.lab_bench import Bench

SETTINGS = read_settings()


def test_what_matters_for_nesting_can_be_tried() -> None:
    names = {setting.name for setting in SETTINGS}
    assert {"huge-pages", "cache-none", "io-uring", "iothread", "pins", "halt-poll-off", "mitigations-off"} <= names
    assert {"npt-hidden", "ept-off", "npt-off", "shadow-vmcs-off"} <= names


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda it: it.name)
def test_a_setting_has_its_reason_and_its_source(setting: Setting) -> None:
    assert setting.why.endswith(".")
    assert len(setting.source) > 10
    if setting.is_of_machine:
        assert setting.of is Of.HYPERVISOR


@pytest.mark.parametrize("setting", [it for it in SETTINGS if it.guest], ids=lambda it: it.name)
def test_a_setting_of_a_guests_is_one_of_the_lab_file_and_only_restarts_it(setting: Setting) -> None:
    before, bench = Guest(nesting=True), Bench()
    after = change_guest(before, setting.guest)
    assert after != before
    bench.up(Lab(name="demo", guests={"a": before}))
    assert bench.actions(Lab(name="demo", guests={"a": after})) == {"a": Action.RESTART}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"pins": True},
        {"guest": {"cpus": 2}, "pins": True, "proof": {"in": "qemu", "like": "x"}},
        {"file": {"path": "/sys/x", "value": "1"}, "proof": {"in": "qemu", "like": "x"}},
        {"file": {"path": "/etc/passwd", "value": "1"}},
    ],
)
def test_a_setting_that_changes_nothing_or_two_things_or_is_not_seen_is_a_bug(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Setting.model_validate({"name": "x", "title": "x", "why": "x", "source": "x", **values})


def test_a_proof_names_a_place() -> None:
    with pytest.raises(ValidationError):
        Proof.model_validate({"in": "nowhere", "like": "x"})
