"""What people and programs are shown of a plan."""

from __future__ import annotations

from typing import Any

from nestctl.lab.compare import Action, compare, is_settled, walk_changes
from nestctl.lab.diff import render_changes, render_changes_tree, summarize
from nestctl.lab.observe import Inside
from nestctl.model.lab import Guest, Lab
from tests.builders import plans_of
from tests.lab_bench import Bench


def lab(**changes: Any) -> Lab:
    values: dict[str, Any] = {"memory_mib": 1024, **changes}
    return Lab(name="demo", guests={"a": Guest(**values, guests={"in": Guest(memory_mib=256)}), "b": Guest()})


def shown(wanted: Lab, bench: Bench) -> list[str]:
    from rich.console import Console

    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(render_changes_tree("demo", bench.preview(wanted)))
    return [line.strip(" │├└─") for line in capture.get().splitlines()]


def test_what_is_new_is_shown_with_its_size() -> None:
    assert shown(lab(), Bench()) == [
        "demo: 3 to create",
        "+ a  L1  create: 1 CPU, 1024 MiB, disk 8 GiB",
        "+ in  L2  create: 1 CPU, 256 MiB, disk 8 GiB",
        "+ b  L1  create: 1 CPU, 1024 MiB, disk 8 GiB",
    ]


def test_nothing_to_do_is_said() -> None:
    bench = Bench()
    bench.up(lab())
    assert shown(lab(), bench) == ["demo: nothing to do", "a  L1  stays", "in  L2  stays", "b  L1  stays"]


def test_what_differs_is_said_from_what_to_what() -> None:
    bench = Bench()
    bench.up(lab())
    assert shown(lab(memory_mib=2048, labels={"x": "[bold]"}), bench)[:3] == [
        "demo: 1 to start, 1 to restart",
        "! a  L1  restart: memory_mib 1024 -> 2048, labels {} -> {x: [bold]}",
        "> in  L2  start: it stops with 'a'",
    ]
    assert shown(lab(disk_gib=9), bench)[1:3] == [
        "-/+ a  L1  recreate: disk_gib 8 -> 9",
        "+ in  L2  create: 1 CPU, 256 MiB, disk 8 GiB",
    ]
    assert shown(lab(labels={"x": "y"}), bench)[1] == "~ a  L1  change in place: labels {} -> {x: y}"


def test_what_is_not_wanted_and_what_cannot_be_seen_are_shown() -> None:
    bench = Bench()
    bench.up(lab())
    bench.machine.hypervisor.stop_domain("demo-a")
    fewer = Lab(name="demo", guests={"a": lab().guests["a"]})
    assert shown(fewer, bench) == [
        "demo: 1 to start, 1 to remove, 1 not looked at",
        "> a  L1  start: it is off",
        "? in  L2  not looked at: 'a' is off",
        "- b  L1  remove: it is not in the lab file",
    ]


def test_the_document_says_the_same() -> None:
    bench = Bench()
    bench.up(lab())
    document = render_changes("demo", bench.preview(lab(disk_gib=9)))
    assert (document["schema"], document["is_empty"]) == ("nestctl.plan/1", False)
    first = document["guests"][0]
    assert first["action"] == "recreate"
    assert first["differences"] == [{"setting": "disk_gib", "there": 8, "wanted": 9}]
    assert [it["action"] for it in first["guests"]] == ["create"]
    assert render_changes("demo", bench.preview(lab()))["is_empty"] is True


def test_every_action_can_be_summed_up() -> None:
    changes = compare(plans_of(lab()), Inside())
    assert summarize(walk_changes(changes)) == "3 to create"
    assert not is_settled(changes)
    assert {it.value for it in Action} >= {"create", "start", "change", "restart", "recreate", "remove"}
