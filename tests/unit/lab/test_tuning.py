"""How a guest's QEMU is set up: in its XML, changed by a restart, refused where it cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from nestctl.lab.compare import Action
from nestctl.lab.render import render_domain
from nestctl.model.lab import Guest, Lab
from nestctl.model.tuning import Tuning
from tests.builders import parse_xml, plan_of_depth, tuned_plan
from tests.lab_bench import Bench


def lab(**tuning: Any) -> Lab:
    return Lab(name="demo", guests={"a": Guest(cpus=2, nesting=True, tuning=Tuning(**tuning))})


def test_every_setting_is_an_element_of_libvirts() -> None:
    root = parse_xml(render_domain(tuned_plan()))
    drivers = [dict(it.attrib) for it in root.iterfind("devices/disk/driver")]
    tuned = {"cache": "none", "io": "native", "iothread": "1"}
    assert drivers == [
        {"name": "qemu", "type": "qcow2", **tuned, "discard": "unmap"},
        {"name": "qemu", "type": "raw"},  # the seed is read once
        {"name": "qemu", "type": "raw", **tuned},
    ]
    assert root.findtext("iothreads") == "1"
    assert root.find("memoryBacking/hugepages") is not None
    assert [dict(it.attrib) for it in root.iterfind("cputune/vcpupin")] == [
        {"vcpu": "0", "cpuset": "3"},
        {"vcpu": "1", "cpuset": "2"},
    ]
    for name in ("emulatorpin", "iothreadpin"):
        element = root.find(f"cputune/{name}")
        assert element is not None
        assert element.get("cpuset") == "0,1"


def test_a_guest_without_it_has_none_of_these_and_is_the_one_it_was() -> None:
    plan = plan_of_depth(2)
    xml = render_domain(plan)
    assert not any(word in xml for word in ("cputune", "iothread", "memoryBacking", "cache=", "io="))
    assert "tuning" not in plan.settings


@pytest.mark.parametrize(
    "tuning",
    [
        {"disk_cache": "unsafe"},
        {"disk_io": "io_uring"},
        {"disk_iothread": True},
        {"huge_pages": True},
        {"vcpu_pins": (0, 1)},
        {"emulator_pins": (1,)},
    ],
)
def test_a_change_needs_a_restart_and_keeps_the_disk(tuning: dict[str, Any]) -> None:
    bench = Bench()
    bench.up(lab())
    assert bench.actions(lab(**tuning)) == {"a": Action.RESTART}


def test_what_cannot_be_is_refused_with_what_can() -> None:
    with pytest.raises(ValidationError, match="needs a disk_cache of 'none' or 'directsync'"):
        Tuning(disk_io="native")
    with pytest.raises(ValidationError, match="vcpu_pins are 1, and it has 2 cpus"):
        lab(vcpu_pins=(1,))
