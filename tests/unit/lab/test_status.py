from __future__ import annotations

from typing import Any

from nestctl.lab.report import render_plans, render_plans_table, render_status, render_status_tree
from nestctl.lab.status import GuestStatus, is_up
from tests.builders import plan_of_depth


def status(name: str, state: str = "running", guests: tuple[GuestStatus, ...] = (), **changes: Any) -> GuestStatus:
    values: dict[str, Any] = {
        "level": 1,
        "domain": f"demo-{name}",
        "domain_type": "kvm",
        "accelerator": "kvm",
        "address": "10.213.0.10",
        "ssh_port": 0,
        "cpus": 1,
        "memory_mib": 1024,
    }
    return GuestStatus(name=name, state=state, guests=guests, **{**values, **changes})


def shown(renderable: Any) -> str:
    from rich.console import Console

    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_a_lab_is_up_when_every_guest_runs() -> None:
    assert is_up((status("l1", guests=(status("l2"),)), status("m1")))


def test_one_guest_deep_inside_that_does_not_run_is_enough() -> None:
    for state in ("off", "absent", "unreachable"):
        innermost = status("l3", state)
        assert not is_up((status("m1"), status("l1", guests=(status("l2", guests=(innermost,)),))))


def test_the_document_is_a_tree_with_its_schema() -> None:
    document = render_status("demo", (status("l1", guests=(status("l2", "off"),)),))
    assert document["schema"] == "nestctl.status/1"
    assert document["is_up"] is False
    assert document["guests"][0]["guests"][0]["state"] == "off"


def test_people_see_the_same_tree() -> None:
    text = shown(render_status_tree("demo", (status("l1", ssh_port=20_000, guests=(status("l2", cpus=2),)),)))
    first, second, third = text.splitlines()
    assert first.strip() == "demo"
    assert "127.0.0.1:20000" in second
    assert "2 CPUs" in third
    assert third.index("l2") > second.index("l1")


def test_an_emulated_guest_is_called_so() -> None:
    assert "emulated (TCG)" in shown(render_status_tree("demo", (status("l1", accelerator="qemu"),)))


def test_what_was_brought_up_is_listed_with_how_to_log_in() -> None:
    plans = (plan_of_depth(2, is_emulated=True),)
    document = render_plans(plans)
    assert document["schema"] == "nestctl.up/1"
    assert [(it["name"], it["accelerator"], it["ssh_port"]) for it in document["guests"]] == [
        ("l1", "tcg", 20_000),
        ("l2", "kvm", 0),
    ]
    text = shown(render_plans_table(plans))
    assert "nestctl ssh demo/l2" in text
    assert "emulated (TCG)" in text
