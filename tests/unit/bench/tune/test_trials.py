"""What can be tried where, and why not."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from nestctl.bench.tune.settings import read_settings
from nestctl.bench.tune.trials import Machine, Refusal, Trial, change_guest, change_lab, list_trials
from nestctl.bench.tune.use_case import find_guest
from nestctl.errors import UsageError
from nestctl.lab.part import stop_node
from nestctl.model.adopt import Adopt
from nestctl.model.lab import Guest, Lab
from nestctl.model.tuning import Tuning

SETTINGS = {setting.name: setting for setting in read_settings()}
HALT_POLL = "/sys/module/kvm/parameters/halt_poll_ns"
NPT = "/sys/module/kvm_amd/parameters/npt"

L2 = Guest(memory_mib=1024)
L1 = Guest(memory_mib=2048, guests={"l2": L2})
LAB = Lab(name="demo", guests={"l1": L1})


def machines(**changes: Any) -> tuple[Machine, ...]:
    """An emulated lab on two CPUs; `changes` are those of l1."""
    values: dict[str, Any] = {
        "name": "l1",
        "runs": "kvm",
        "cpus": (0,),
        "flags": frozenset({"svm", "npt"}),
        "values": {HALT_POLL: "200000", NPT: "1"},
        "guest": L1,
    }
    return (
        Machine(name="L0", runs="tcg", cpus=(0, 1), values={HALT_POLL: "200000"}),
        Machine(**{**values, **changes}),
        Machine(name="l2", runs="", cpus=(0,), values={}, guest=L2),
    )


def trials(
    *names: str, there: tuple[Machine, ...] | None = None, may_change_host: bool = False
) -> dict[str, Trial | Refusal]:
    chosen = [SETTINGS[name] for name in names]
    return {it.name: it for it in list_trials(chosen, there or machines(), may_change_host=may_change_host)}


def reason(trial: Trial | Refusal) -> str:
    assert isinstance(trial, Refusal), f"'{trial.name}' can be tried"
    return trial.reason


def test_a_setting_of_a_guests_is_tried_on_every_guest_on_the_way() -> None:
    found = trials("cache-none")
    assert list(found) == ["cache-none@l1", "cache-none@l2"]
    trial = found["cache-none@l2"]
    assert isinstance(trial, Trial)
    assert (trial.was, trial.becomes) == ("no tuning", 'tuning: {"disk_cache": "none"}')


def test_a_trial_changes_its_guest_and_nothing_else() -> None:
    trial = trials("cache-none")["cache-none@l2"]
    assert isinstance(trial, Trial)
    changed = change_lab(LAB, trial)
    assert changed.guests["l1"].guests["l2"].tuning == Tuning(disk_cache="none")
    assert changed.guests["l1"].model_copy(update={"guests": L1.guests}) == L1
    assert LAB.guests["l1"].guests["l2"].tuning.is_empty


def test_what_the_guest_has_stays_beside_what_is_tried() -> None:
    guest = Guest(kernel_args=("quiet",), tuning=Tuning(disk_iothread=True))
    assert change_guest(guest, {"kernel_args": ["idle=poll"]}).kernel_args == ("quiet", "idle=poll")
    tuned = change_guest(guest, {"tuning": {"disk_cache": "none"}}).tuning
    assert tuned == Tuning(disk_iothread=True, disk_cache="none")


def test_what_the_lab_file_says_already_is_not_tried() -> None:
    there = machines(guest=L1.model_copy(update={"tuning": Tuning(disk_cache="none")}))
    assert reason(trials("cache-none", there=there)["cache-none@l1"]) == "the lab file says so already"


def test_pins_take_the_last_cpus_and_leave_the_others_to_qemu() -> None:
    found = trials("pins")
    first = found["pins@l1"]
    assert isinstance(first, Trial)
    assert first.keys == {"tuning": {"vcpu_pins": (1,), "emulator_pins": (0,)}}
    assert first.first_cpu == "1"
    assert change_guest(L1, first.keys).tuning.vcpu_pins == (1,)
    assert "'l1' has 1 CPU and it has 1 vCPU" in reason(found["pins@l2"])


def test_a_setting_of_kvms_needs_guests_of_kvms() -> None:
    found = trials("halt-poll-off", "npt-off")
    assert "its guests are emulated" in reason(found["halt-poll-off@L0"])
    assert isinstance(found["halt-poll-off@l1"], Trial)
    assert isinstance(found["npt-off@l1"], Trial)
    assert "halt-poll-off@l2" not in found, "it runs nobody"


def test_this_machine_is_changed_only_when_that_was_asked_for() -> None:
    there = (Machine(name="L0", runs="kvm", cpus=(0, 1), values={HALT_POLL: "200000"}), *machines()[1:])
    assert "say '--host'" in reason(trials("halt-poll-off", there=there)["halt-poll-off@L0"])
    found = trials("halt-poll-off", there=there, may_change_host=True)["halt-poll-off@L0"]
    assert isinstance(found, Trial)
    assert (found.was, found.becomes) == ("200000", "0")


@pytest.mark.parametrize(
    ("name", "there", "said"),
    [
        ("halt-poll-off", machines(values={HALT_POLL: "0"}), "it is so already"),
        ("npt-off", machines(values={NPT: "N"}), "it is so already"),
        ("npt-off", machines(values={}), f"there is no '{NPT}'"),
        ("ept-off", machines(), "its CPU has no 'vmx'"),
        ("huge-pages", machines(), "of the huge pages of 'L0' 0 MiB are free"),
    ],
)
def test_what_cannot_be_tried_has_its_reason(name: str, there: tuple[Machine, ...], said: str) -> None:
    assert said in reason(trials(name, there=there)[f"{name}@l1"])


def test_huge_pages_are_those_of_the_machine_that_runs_the_guest() -> None:
    found = trials("huge-pages", there=machines(free_huge_pages_mib=1024))
    assert isinstance(found["huge-pages@l2"], Trial)
    assert isinstance(found["huge-pages@l1"], Refusal)


def test_every_setting_is_tried_or_refused_on_some_machine() -> None:
    names = {it.setting.name for it in list_trials(tuple(SETTINGS.values()), machines(), may_change_host=True)}
    assert names == set(SETTINGS)


def test_a_domain_that_was_adopted_stays_as_it_is() -> None:
    adopted = Guest(adopt=Adopt(domain="hv1", ssh="root@192.0.2.7"), guests={"l2": L2})
    found = trials("cache-none", "halt-poll-off", "npt-off", there=machines(guest=adopted))
    refused = [name for name, it in found.items() if isinstance(it, Refusal) and "was adopted" in it.reason]
    assert refused == ["cache-none@l1", "halt-poll-off@l1", "npt-off@l1"]
    assert isinstance(found["cache-none@l2"], Trial)
    values = {SETTINGS["thp-always"].path: "never"}
    here = Machine(name="L0", runs="kvm", cpus=(0, 1), values=values)
    found = trials("thp-always", there=(here, *machines(guest=adopted)[1:]), may_change_host=True)
    assert "'l1', which would have to be off meanwhile, was adopted" in reason(found["thp-always@L0"])
    lab = Lab(name="demo", guests={"l1": adopted})
    node = find_guest(lab, "l1")
    with pytest.raises(UsageError, match="nestctl does not stop it"):
        stop_node(lab, node, connect=None, step=lambda *_text, **_about: nullcontext())
