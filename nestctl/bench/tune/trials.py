"""Which settings can be tried on which machine, and why the others cannot. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nestctl.bench.tune.settings import Need, Of, Setting
from nestctl.model.lab import Guest, Lab

_BOOLEANS = {"Y": "1", "N": "0"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A level on the way to the measured guest, outermost first: what can be changed there, and what it has.

    `runs` is how the next level runs on it ('kvm', 'tcg', or empty for the measured guest itself). `values` are the
    files that were read, by path; `guest` is what the lab file says of it, None for this machine.
    """

    name: str
    runs: str
    cpus: tuple[int, ...] = ()
    flags: frozenset[str] = frozenset()
    free_huge_pages_mib: int = 0
    values: Mapping[str, str]
    guest: Guest | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting on a machine. `was` and `becomes` are what is changed, in words; `keys` are those of the lab file."""

    setting: Setting
    machine: str
    was: str
    becomes: str
    keys: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.setting.name}@{self.machine}"

    @property
    def first_cpu(self) -> str:
        pins = self.keys.get("tuning", {}).get("vcpu_pins", ())
        return str(pins[0]) if pins else ""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A setting that cannot be tried on a machine, and the reason."""

    setting: Setting
    machine: str
    reason: str

    @property
    def name(self) -> str:
        return f"{self.setting.name}@{self.machine}"


def list_trials(
    settings: Sequence[Setting], machines: Sequence[Machine], *, may_change_host: bool
) -> tuple[Trial | Refusal, ...]:
    """Go through every setting on every machine that it is about, outermost first."""
    return tuple(
        trial
        for setting in settings
        for place in range(len(machines))
        if (trial := _try_on(setting, machines, place, may_change_host=may_change_host))
    )


def _try_on(
    setting: Setting, machines: Sequence[Machine], place: int, *, may_change_host: bool
) -> Trial | Refusal | None:
    """Make the trial of a setting on one machine; None where it is not about such a machine at all."""
    machine = machines[place]
    if not machine.runs and setting.of is Of.HYPERVISOR:
        return None
    if not setting.is_of_machine and machine.guest is None:
        return None
    host = machine if setting.is_of_machine else machines[place - 1]
    keys = _keys(setting, machine, host)
    reason = _refuse_adopted(machine) or _refuse_need(setting, machine, host)
    if setting.is_of_machine:
        reason = reason or _refuse_machine(setting, machine, may_change_host) or _refuse_guest(machines[place + 1])
    else:
        reason = reason or _refuse_keys(setting, machine, host, keys)
    if reason:
        return Refusal(setting=setting, machine=machine.name, reason=reason)
    was, becomes = _describe(setting, machine, keys)
    return Trial(setting=setting, machine=machine.name, was=was, becomes=becomes, keys=keys)


def _refuse_adopted(machine: Machine) -> str:
    is_adopted = machine.guest is not None and machine.guest.adopt is not None
    return "it was adopted as it is: what it is like is its owner's" if is_adopted else ""


def _refuse_guest(runs: Machine) -> str:
    """A machine is changed while the guest on the way that it runs is off."""
    if _refuse_adopted(runs):
        return f"'{runs.name}', which would have to be off meanwhile, was adopted: nestctl does not stop it"
    return ""


def _refuse_machine(setting: Setting, machine: Machine, may_change_host: bool) -> str:
    there = machine.values.get(setting.path)
    if there is None:
        return f"there is no '{setting.path}'"
    if is_same(there, setting.value):
        return f"it is so already: '{setting.path}' has '{there}'"
    if machine.guest is None and not may_change_host:
        return "it changes this machine, for all its guests: say '--host'"
    return ""


def _refuse_need(setting: Setting, machine: Machine, host: Machine) -> str:
    """`host` runs the guest whose definition is changed, or is the machine that is changed."""
    is_for_guests = setting.of is Of.HYPERVISOR and setting.needs in {Need.KVM, Need.SVM, Need.VMX}
    if is_for_guests and machine.runs != "kvm":
        return "its guests are emulated: its KVM has no part in them"
    if setting.needs in {Need.SVM, Need.VMX} and setting.needs.value not in machine.flags:
        return f"its CPU has no '{setting.needs.value}'"
    needed_mib = machine.guest.memory_mib if machine.guest else 0
    if setting.needs is Need.HUGE_PAGES and host.free_huge_pages_mib < needed_mib:
        return (
            f"it has {needed_mib} MiB of memory, and of the huge pages of '{host.name}' "
            f"{host.free_huge_pages_mib} MiB are free (vm.nr_hugepages)"
        )
    return ""


def _refuse_keys(setting: Setting, machine: Machine, host: Machine, keys: Mapping[str, Any]) -> str:
    if machine.guest is None:
        return ""
    if setting.pins and not keys:
        cpus = machine.guest.cpus
        return (
            f"'{host.name}' has {_count(len(host.cpus), 'CPU')} and it has {_count(cpus, 'vCPU')}: none would be left "
            "for QEMU's other threads"
        )
    if change_guest(machine.guest, keys) == machine.guest:
        return "the lab file says so already"
    return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _keys(setting: Setting, machine: Machine, host: Machine) -> Mapping[str, Any]:
    if not setting.pins:
        return setting.guest
    cpus = machine.guest.cpus if machine.guest else 0
    if len(host.cpus) <= cpus:
        return {}
    return {"tuning": {"vcpu_pins": host.cpus[-cpus:], "emulator_pins": host.cpus[:-cpus]}}


def _describe(setting: Setting, machine: Machine, keys: Mapping[str, Any]) -> tuple[str, str]:
    if machine.guest is None or setting.is_of_machine:
        return machine.values[setting.path], setting.value
    before = machine.guest.model_dump(mode="json", exclude_defaults=True)
    after = change_guest(machine.guest, keys).model_dump(mode="json", exclude_defaults=True)
    return _show(before, keys), _show(after, keys)


def _show(guest: Mapping[str, Any], keys: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {json.dumps(guest[key])}" if key in guest else f"no {key}" for key in keys)


def is_same(there: str, wanted: str) -> bool:
    """Tell whether a file of /sys has a value already: a kernel writes a Boolean as Y, N, 1 or 0."""
    return _BOOLEANS.get(there, there) == _BOOLEANS.get(wanted, wanted)


def change_guest(guest: Guest, keys: Mapping[str, Any]) -> Guest:
    """Change keys of a guest as a lab file would have them: lists grow, mappings are merged."""
    document = guest.model_dump(mode="json", exclude_defaults=True)
    return Guest.model_validate(_merge(document, keys))


def _merge(there: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(there)
    for key, value in keys.items():
        if isinstance(value, Mapping):
            merged[key] = _merge(merged.get(key, {}), value)
        elif isinstance(value, list):
            merged[key] = [*dict.fromkeys([*merged.get(key, []), *value])]
        else:
            merged[key] = value
    return merged


def change_lab(lab: Lab, trial: Trial) -> Lab:
    """Return the lab with a trial's change; for a setting of a machine's it is the lab itself."""
    if not trial.keys:
        return lab
    return lab.model_copy(update={"guests": _change_guests(lab.guests, trial)})


def _change_guests(guests: Mapping[str, Guest], trial: Trial) -> dict[str, Guest]:
    return {name: _change_named(name, guest, trial) for name, guest in guests.items()}


def _change_named(name: str, guest: Guest, trial: Trial) -> Guest:
    if name == trial.machine:
        return change_guest(guest, trial.keys)
    return guest.model_copy(update={"guests": _change_guests(guest.guests, trial)})
