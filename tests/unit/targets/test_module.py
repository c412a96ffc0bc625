"""What is said of the parameter 'nested', and what is refused, for every state a module can be in."""

from __future__ import annotations

from typing import Any

import pytest

from nestctl.targets.module import parse_state, render_state, render_state_json, say_left
from nestctl.targets.switch import Switched, Wanted, refuse, render_switched, render_switched_json
from nestctl.targets.target import Target

HERE = Target(name="localhost")

LOADED = {
    "module": "kvm_amd",
    "state": "loaded",
    "value": "0",
    "refcnt": 0,
    "configured": "0",
    "boot": "",
    "files": [{"file": "/etc/modprobe.d/kvm.conf", "value": "0"}],
    "users": [],
    "is_root": True,
    "has_drop_in": False,
}
IN_USE = {"users": [{"pid": 7, "name": "demo-l2"}], "refcnt": 3}
ON_NOW = Wanted(on=True, persist=False, now=True)
ON_LATER = Wanted(on=True, persist=True, now=False)


def state(**changes: Any) -> Any:
    return parse_state({**LOADED, **changes})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "in effect  nested=0 (off)"),
        ({"module": "kvm_intel", "value": "Y"}, "in effect  nested=Y (on)"),
        ({}, "on disk    nested=0 (off) in /etc/modprobe.d/kvm.conf"),
        ({"files": []}, "on disk    nothing"),
        ({"boot": "1"}, "boot line  kvm_amd.nested=1"),
        ({"configured": ""}, "next load  the default of the module"),
        ({"state": "builtin"}, "module     kvm_amd, built into the kernel"),
        ({"state": "absent", "value": ""}, "in effect  nothing"),
        (IN_USE, "used by    'demo-l2' (process 7)"),
        ({"refcnt": 1, "is_root": False}, "used by    something that does not show: only root sees what others run"),
        ({"module": ""}, "module     none: the CPU shows neither"),
    ],
)
def test_every_state_is_told(changes: dict[str, Any], line: str) -> None:
    assert any(it.startswith(line) for it in render_state(state(**changes)).splitlines())


def test_a_built_in_module_has_no_next_load() -> None:
    assert "next load" not in render_state(state(state="builtin"))


def test_the_document_has_what_was_seen() -> None:
    document = render_state_json("box", state(value="Y", **IN_USE))
    assert (document["schema"], document["target"], document["is_on"]) == ("nestctl.nested/1", "box", True)
    assert document["module"]["users"] == ({"pid": 7, "name": "demo-l2"},)
    assert document["module"]["files"] == [{"file": "/etc/modprobe.d/kvm.conf", "value": "0"}]


@pytest.mark.parametrize(
    ("changes", "wanted", "sentence"),
    [
        ({"module": ""}, ON_LATER, "neither VMX nor SVM"),
        ({"state": "builtin"}, ON_LATER, "add 'kvm_amd.nested=1' to the kernel's boot line"),
        (IN_USE, ON_NOW, "is used by 'demo-l2' (process 7)"),
        ({"refcnt": 1}, ON_NOW, "is used by something that does not show"),
    ],
)
def test_what_cannot_be_done_is_refused(changes: dict[str, Any], wanted: Wanted, sentence: str) -> None:
    assert sentence in refuse(state(**changes), wanted)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ON_NOW),
        (IN_USE, ON_LATER),
        ({"value": "1", **IN_USE}, ON_NOW),
        ({"value": "1", "state": "builtin"}, ON_LATER),
    ],
)
def test_what_can_be_done_or_is_done_is_not_refused(changes: dict[str, Any], wanted: Wanted) -> None:
    assert refuse(state(**changes), wanted) == ""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"value": "1"}, ""),
        ({"state": "absent", "value": ""}, "'kvm_amd' is not loaded, and gets nested=1 when it is."),
        ({}, "'nestctl nested on --now' loads it again"),
        (IN_USE, "used by 'demo-l2' (process 7): end that"),
    ],
)
def test_what_is_left_to_do_is_said(changes: dict[str, Any], sentence: str) -> None:
    left = say_left("localhost", state(**changes), True)
    assert sentence in left
    assert bool(sentence) == bool(left)


def test_what_is_left_to_do_names_the_machine() -> None:
    later = Switched(changes=1, state=state(), answer=None)
    said = render_switched(Target(name="ssh://root@host:2222"), state(), later, ON_LATER, dry_run=False)
    assert "'nestctl nested on --now ssh://root@host:2222' loads it again" in said
    assert "'nestctl nested off --now demo/l1', or reboot" in say_left("demo/l1", state(value="1", **IN_USE), False)


def test_a_dry_run_says_what_would_be() -> None:
    wanted = Wanted(on=True, persist=True, now=True)
    said = render_switched(HERE, state(), Switched(changes=1, state=state(), answer=None), wanted, dry_run=True)
    assert "/etc/modprobe.d/nestctl.conf: would be written: options kvm_amd nested=1" in said
    assert "kvm_amd: would be loaded again with nested=1" in said
    assert "left to do" not in said


def test_a_second_run_says_that_nothing_changed() -> None:
    wanted = Wanted(on=False, persist=True, now=True)
    said = render_switched(HERE, state(), Switched(changes=0, state=state(), answer=None), wanted, dry_run=False)
    assert said.splitlines() == ["/etc/modprobe.d/nestctl.conf: unchanged", "kvm_amd: unchanged"]


def test_what_was_switched_is_json_too() -> None:
    document = render_switched_json(HERE, state(value="1"), ON_LATER, changes=1)
    assert (document["schema"], document["is_on"], document["changes"]) == ("nestctl.nested/1", True, 1)
    assert document["wanted"] == {"on": True, "persist": True, "now": False, "dry_run": False}
    assert (document["refused"], document["left"]) == ("", "")
    refused = render_switched_json(HERE, state(), ON_LATER, refused="Guests run.")
    assert (refused["refused"], refused["changes"], refused["left"]) == ("Guests run.", 0, "")
