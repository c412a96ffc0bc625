"""Labs brought up, changed and removed over fakes: what is done, and what is left when it goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nestctl.errors import DeadlineError, ExitCode, FailedError, GuestError, HypervisorError, SeveralError, UsageError
from nestctl.lab.compare import Action, is_settled, walk_changes
from nestctl.lab.store import lab_directory
from nestctl.model.lab import Guest, Lab
from tests.builders import class_of, lab_of_depth
from tests.fakes import Killed, World, own_domains
from tests.lab_bench import Bench

SMALL: dict[str, Any] = {"memory_mib": 256}


def lab(**guests: Guest) -> Lab:
    return Lab(name="demo", guests=guests)


def pair(**changes: Any) -> Lab:
    """Two hypervisors with a guest each."""
    values: dict[str, Any] = {"memory_mib": 1024, **changes}
    return lab(**{name: Guest(**values, guests={f"{name}-in": Guest(**SMALL)}) for name in ("a", "b")})


def test_what_is_not_there_is_created_at_every_level_and_then_stays() -> None:
    bench = Bench()
    wanted = lab_of_depth(3)
    assert set(bench.actions(wanted).values()) == {Action.CREATE}
    plans = bench.up(wanted)
    assert [it.name for it in plans] == ["l1"]
    assert own_domains(bench.machine) == {"demo-l1": True, "demo-l2": True, "demo-l3": True}
    assert set(bench.actions(wanted).values()) == {Action.KEEP}
    steps = bench.world.steps
    bench.up(wanted)
    assert bench.world.steps == steps
    assert bench.down(wanted)
    bench.expect_nothing_left()


def test_a_lab_that_is_as_it_should_be_is_entered_once() -> None:
    bench = Bench()
    bench.up(pair())
    bench.world.visits.clear()
    bench.up(pair())
    assert sorted(bench.world.visits) == ["a", "a-in", "b", "b-in"]


def test_a_guest_that_stopped_is_started_with_all_inside_it() -> None:
    bench = Bench()
    bench.up(pair())
    bench.machine.hypervisor.stop_domain("demo-a")
    assert bench.actions(pair()) == {
        "a": Action.START,
        "a-in": Action.UNKNOWN,
        "b": Action.KEEP,
        "b-in": Action.KEEP,
    }
    (unknown,) = (it for it in walk_changes(bench.plan(pair())) if it.action is Action.UNKNOWN)
    assert unknown.reason == "'a' is off"
    bench.up(pair())
    assert is_settled(bench.plan(pair()))
    assert not any("Booting b" in it for it in bench.said[8:])


def test_what_was_removed_inside_behind_our_back_is_made_again() -> None:
    bench = Bench()
    bench.up(pair())
    bench.machine.hypervisor.domains["demo-a"].machine.hypervisor.remove_domain("demo-a-in")
    assert bench.actions(pair())["a-in"] is Action.CREATE
    bench.up(pair())
    assert is_settled(bench.plan(pair()))


def test_a_disk_that_is_gone_is_made_again() -> None:
    bench = Bench()
    bench.up(pair())
    bench.machine.hypervisor.stop_domain("demo-a")
    bench.machine.shell.files = {it for it in bench.machine.shell.files if not it.endswith("/a.qcow2")}
    (change,) = (it for it in bench.plan(pair()) if it.name == "a")
    assert (change.action, change.reason) == (Action.CREATE, "its disk is gone")
    bench.machine.hypervisor.domains["demo-a"].machine.hypervisor.domains.clear()
    bench.up(pair())
    assert is_settled(bench.plan(pair()))


def test_metadata_that_was_edited_is_a_reason_and_is_said() -> None:
    bench = Bench()
    bench.up(pair())
    domain = bench.machine.hypervisor.domains["demo-a"]
    domain.xml = domain.xml.replace('"disk_gib":8', '"disk_gib":9')
    with pytest.raises(UsageError, match="'a' exists with other settings: disk_gib 9 -> 8") as raised:
        bench.up(pair())
    assert "'nestctl plan' with the same lab file" in raised.value.hint
    domain.xml = domain.xml.replace('{"version"', "{version")
    with pytest.raises(UsageError, match="what it was made with is not in its metadata"):
        bench.up(pair())
    bench.up(pair(), may_recreate=True)
    assert is_settled(bench.plan(pair()))


def test_a_domain_of_somebody_else_is_left_alone() -> None:
    bench = Bench()
    bench.up(pair())
    domain = bench.machine.hypervisor.domains["demo-a"]
    domain.xml = domain.xml.replace("lab='demo'", "lab='other'")
    before = domain.xml
    with pytest.raises(FailedError, match="'demo-a' that does not belong to the lab 'demo'"):
        bench.up(pair(), may_recreate=True, may_prune=True)
    assert bench.machine.hypervisor.domains["demo-a"].xml == before


@pytest.mark.parametrize(
    ("changes", "action", "inside"),
    [
        ({"labels": {"x": "y"}}, Action.CHANGE, Action.KEEP),
        ({"memory_mib": 2048}, Action.RESTART, Action.START),
        ({"cpus": 3, "kernel_args": ("quiet",)}, Action.RESTART, Action.START),
        ({"disk_gib": 20}, Action.RECREATE, Action.CREATE),
    ],
)
def test_every_setting_has_its_way_of_being_changed(changes: dict[str, Any], action: Action, inside: Action) -> None:
    bench = Bench()
    bench.up(pair())
    wanted = pair(**changes)
    actions = bench.actions(wanted)
    assert (actions["a"], actions["a-in"]) == (action, inside)
    if action is not Action.CHANGE:
        before = own_domains(bench.machine)
        with pytest.raises(UsageError, match=r"--recreate|exists with other settings"):
            bench.up(wanted)
        assert own_domains(bench.machine) == before
    disks = {it for it in bench.machine.shell.files if it.endswith("qcow2")}
    bench.up(wanted, may_recreate=True)
    assert is_settled(bench.plan(wanted))
    assert {it for it in bench.machine.shell.files if it.endswith("qcow2")} == disks
    assert all(own_domains(bench.machine).values())


def test_a_guest_that_is_off_takes_its_new_size_when_it_is_started() -> None:
    bench = Bench()
    bench.up(pair())
    bench.machine.hypervisor.stop_domain("demo-a")
    bench.machine.hypervisor.stop_domain("demo-b")
    assert bench.actions(pair(cpus=2))["a"] is Action.START
    bench.up(pair(cpus=2))
    assert "<vcpu>2</vcpu>" in bench.machine.hypervisor.domains["demo-a"].live_xml
    assert is_settled(bench.plan(pair(cpus=2)))


def test_what_is_not_in_the_file_any_more_goes_only_when_told_to() -> None:
    bench = Bench()
    bench.up(pair())
    fewer = lab(a=pair().guests["a"])
    assert bench.actions(fewer) == {"a": Action.KEEP, "a-in": Action.KEEP, "b": Action.REMOVE, "b-in": Action.REMOVE}
    bench.up(fewer)
    assert any("not in the lab file any more: b, b-in" in it for it in bench.said)
    assert "demo-b" in own_domains(bench.machine)
    bench.up(fewer, may_prune=True)
    assert own_domains(bench.machine) == {"demo-a": True, "demo-a-in": True}
    assert not any("/b." in it for it in bench.machine.shell.files)
    assert is_settled(bench.plan(fewer))


def test_a_guest_inside_goes_too_when_told_to() -> None:
    bench = Bench()
    bench.up(pair())
    fewer = lab(a=Guest(memory_mib=1024, nesting=True), b=pair().guests["b"])
    bench.up(fewer, may_prune=True)
    assert own_domains(bench.machine) == {"demo-a": True, "demo-b": True, "demo-b-in": True}
    assert is_settled(bench.plan(fewer))


def three(*names: str) -> Lab:
    inner = {name: Guest(**SMALL) for name in names}
    return lab(a=Guest(memory_mib=2048, guests=inner))


def test_a_guest_keeps_its_address_whoever_comes_and_goes() -> None:
    bench = Bench()

    def addresses(*names: str, **wishes: Any) -> dict[str, str]:
        (outer,) = bench.up(three(*names), **wishes)
        assert is_settled(bench.plan(three(*names))) or not wishes
        return {it.name: it.uplink.address.rpartition(".")[2] for it in outer.guests}

    assert addresses("x", "y", "z") == {"x": "10", "y": "11", "z": "12"}
    # 'x' stays there until it is pruned; 'new' is not given its address, and nobody moves.
    assert addresses("new", "y", "z") == {"new": "13", "y": "11", "z": "12"}
    assert addresses("new", "y", "z", may_prune=True) == {"new": "13", "y": "11", "z": "12"}
    assert addresses("newer", "new", "z", may_prune=True) == {"newer": "10", "new": "13", "z": "12"}
    bench.machine.hypervisor.stop_domain("demo-a")
    assert addresses("z", "new", may_prune=True) == {"z": "12", "new": "13"}
    assert bench.actions(three("z", "new")) == {"a": Action.KEEP, "z": Action.KEEP, "new": Action.KEEP}


def test_one_that_fails_does_not_keep_the_others_from_coming_up() -> None:
    bench = Bench(world=World(failing={"a"}))
    with pytest.raises(GuestError, match="'a' was to boot, and has stopped") as raised:
        bench.up(pair())
    assert raised.value.exit_code == ExitCode.FAILED
    assert own_domains(bench.machine) == {"demo-a": True, "demo-b": True, "demo-b-in": True}
    bench.world.failing.clear()
    bench.up(pair())
    assert is_settled(bench.plan(pair()))


def test_all_that_failed_are_said_and_the_worst_has_the_exit_code() -> None:
    bench = Bench(world=World(failing={"a", "b-in"}))
    with pytest.raises(SeveralError) as raised:
        bench.up(pair())
    assert raised.value.message.startswith("2 guests failed.\n")
    assert "'a': The guest 'a' was to boot" in raised.value.message
    assert "'b-in': The guest 'b-in' was to boot" in raised.value.message
    assert "Its console: no" in raised.value.message
    deadline, failed = DeadlineError("late", hint="wait"), HypervisorError("no")
    several = SeveralError([("x", failed), ("y", deadline)])
    assert several.exit_code == ExitCode.DEADLINE
    assert "  wait" in several.message


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_no_more_boot_at_once_than_asked_for(jobs: int) -> None:
    bench = Bench()
    bench.up(lab(**{f"g{index}": Guest(**SMALL) for index in range(8)}), jobs=jobs)
    assert 1 <= bench.world.most_booting <= jobs
    assert len(own_domains(bench.machine)) == 8


def test_an_interruption_begins_nothing_more_and_up_goes_on() -> None:
    bench = Bench()
    wanted = lab(**{f"g{index}": Guest(**SMALL) for index in range(6)})

    @contextmanager
    def interrupted(text: str, **_about: Any) -> Iterator[None]:
        bench.said.append(text)
        if len([it for it in bench.said if it.startswith("Booting")]) == 2:
            raise KeyboardInterrupt
        yield

    bench.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.up(wanted, jobs=1)
    assert len(own_domains(bench.machine)) == 1
    again = Bench()
    again.machine = bench.machine
    again.up(wanted)
    assert is_settled(again.plan(wanted))


def count_steps(lab: Lab) -> int:
    bench = Bench()
    bench.up(lab, jobs=1)
    steps = bench.world.steps
    bench.down(lab)
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("then", ["up", "down"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_up_can_be_killed_before_any_step(then: str, jobs: int) -> None:
    wanted = pair()
    for end in range(count_steps(wanted)):
        bench = Bench(world=World(ends_at=end))
        with pytest.raises(Killed):
            bench.up(wanted, jobs=jobs)
        bench.world.ends_at = None
        if then == "up":
            bench.up(wanted)
            assert is_settled(bench.plan(wanted)), end
            assert all(own_domains(bench.machine).values())
        bench.down(wanted)
        bench.expect_nothing_left()


@pytest.mark.slow
def test_down_can_be_killed_before_any_step() -> None:
    wanted = pair()
    bench = Bench()
    bench.up(wanted)
    before = bench.world.steps
    bench.down(wanted)
    for end in range(bench.world.steps - before):
        bench = Bench()
        bench.up(wanted)
        bench.world.ends_at = bench.world.steps + end
        with pytest.raises(Killed):
            bench.down(wanted)
        bench.world.ends_at = None
        bench.down(wanted)
        bench.expect_nothing_left()


@pytest.mark.slow
def test_a_change_can_be_killed_before_any_step() -> None:
    wanted, changed = pair(), pair(disk_gib=9, memory_mib=2048)
    bench = Bench()
    bench.up(wanted)
    before = bench.world.steps
    bench.up(changed, may_recreate=True, jobs=1)
    total = bench.world.steps - before
    bench.down(changed)
    for end in range(total):
        bench = Bench()
        bench.up(wanted)
        bench.world.ends_at = bench.world.steps + end
        with pytest.raises(Killed):
            bench.up(changed, may_recreate=True, jobs=1)
        bench.world.ends_at = None
        bench.up(changed, may_recreate=True)
        assert is_settled(bench.plan(changed)), end
        bench.down(changed)
        bench.expect_nothing_left()


def test_nothing_is_left_of_a_lab_whose_first_guest_cannot_be_made() -> None:
    bench = Bench()
    bench.machine.hypervisor.define_domain = lambda xml: _refuse()  # type: ignore[method-assign]
    with pytest.raises(SeveralError):
        bench.up(pair())
    assert not lab_directory("demo").exists()
    bench.expect_nothing_left()


def _refuse() -> None:
    raise HypervisorError("Could not define a domain on this machine: no.")


@pytest.mark.parametrize(
    ("path", "started"), [(("ann",), {"class-ann", "class-ann-vm"}), (("ann", "ann-vm"), {"class-ann", "class-ann-vm"})]
)
def test_only_the_way_to_a_guest_and_what_is_inside_it_is_touched(path: tuple[str, ...], started: set[str]) -> None:
    """What else of the lab is off stays off: somebody has switched it off."""
    bench = Bench()
    plans = bench.up(class_of("ann", "bob"))
    for name in ("ann", "bob"):
        bench.machine.hypervisor.stop_domain(f"class-{name}")
    assert bench.up(class_of("ann", "bob"), only=path) == plans
    running = {name for name, is_running in own_domains(bench.machine).items() if is_running}
    assert running == started


def test_what_is_not_concerned_may_differ() -> None:
    bench = Bench()
    bench.up(class_of("ann", "bob"))
    lab = class_of("ann", "bob")
    wider = lab.model_copy(update={"guests": {**lab.guests, "bob": lab.guests["bob"].model_copy(update={"cpus": 4})}})
    bench.up(wider, only=("ann",))
    assert bench.actions(wider)["bob"] is Action.RESTART
