"""What a guest may take: in its XML, changed while it runs, lifted again."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from nestctl.lab.compare import Action
from nestctl.lab.render import render_domain
from nestctl.model.lab import Guest, Lab
from nestctl.model.network import Network
from nestctl.model.quota import Quota
from tests.builders import LIMITS, limited_plan, parse_xml, plan_of_depth
from tests.fakes import Killed
from tests.lab_bench import Bench


def lab(quota: Quota | None = None) -> Lab:
    return Lab(name="demo", guests={"a": Guest(quota=quota or Quota())})


def test_every_limit_is_an_element_of_libvirts_in_its_unit() -> None:
    root = parse_xml(render_domain(limited_plan()))
    found = {path: root.findtext(path) for path in ("cputune/shares", "cputune/global_period", "cputune/global_quota")}
    assert found == {"cputune/shares": "512", "cputune/global_period": "100000", "cputune/global_quota": "150000"}
    limit = root.find("memtune/hard_limit")
    assert limit is not None
    assert (limit.get("unit"), limit.text) == ("MiB", "2048")
    tunes = [{it.tag: it.text for it in tune} for tune in root.iterfind("devices/disk/iotune")]
    assert len(tunes) == 3
    assert tunes[0] == {
        "read_bytes_sec": "104857600",
        "write_bytes_sec": "52428800",
        "read_iops_sec": "2000",
        "write_iops_sec": "1000",
        "group_name": "nestctl",
    }
    bandwidth = {it.tag: it.get("average") for it in root.iterfind("devices/interface/bandwidth/*")}
    assert bandwidth == {"inbound": "25000", "outbound": "12500"}


def test_a_guest_without_a_quota_has_none_of_these() -> None:
    xml = render_domain(plan_of_depth(2)) + render_domain(plan_of_depth(2).guests[0])
    assert not any(word in xml for word in ("cputune", "memtune", "iotune", "bandwidth"))


@pytest.mark.parametrize("name", sorted(Quota.model_fields))
def test_a_limit_alone_is_rendered_alone(name: str) -> None:
    quota = Quota(**{name: 2048})
    network: dict[str, Any] = {"networks": {"n": Network()}} if quota.has_network else {}
    guest = Guest(quota=quota, network="n" if network else "")
    bench = Bench()
    bench.up(Lab(name="demo", guests={"a": guest}, **network))
    xml = bench.machine.hypervisor.domains["demo-a"].xml
    present = [word for word in ("cputune", "memtune", "iotune", "bandwidth") if f"<{word}>" in xml]
    assert len(present) == 1


def test_a_limit_is_changed_while_the_guest_runs_and_lifted_again() -> None:
    bench = Bench()
    bench.up(lab(Quota(cpu_cap_percent=50, disk_write_mib_s=4)))
    machine = bench.machine.hypervisor
    wanted = lab(Quota(cpu_cap_percent=80))
    (change,) = bench.plan(wanted)
    assert change.action is Action.CHANGE
    live = machine.domains["demo-a"].live_xml
    bench.up(wanted)
    assert machine.limits == [("demo-a", {"cpu_cap_percent": 80, "disk_write_mib_s": None})]
    assert machine.domains["demo-a"].live_xml == live, "it ran on"
    assert bench.actions(wanted) == {"a": Action.KEEP}
    bench.up(lab())
    assert machine.limits[1:] == [("demo-a", {"cpu_cap_percent": None})]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_change_that_was_killed_is_done_by_the_next_up(steps: int) -> None:
    bench = Bench()
    bench.up(lab())
    wanted = lab(Quota(disk_write_mib_s=4))
    bench.world.ends_at = bench.world.steps + steps
    with pytest.raises(Killed):
        bench.up(wanted)
    bench.world.ends_at = None
    bench.up(wanted)
    assert bench.machine.hypervisor.limits[-1] == ("demo-a", {"disk_write_mib_s": 4})
    assert bench.actions(wanted) == {"a": Action.KEEP}


def test_shares_that_are_lifted_need_a_new_qemu() -> None:
    bench = Bench()
    bench.up(lab(Quota(cpu_shares=100)))
    assert bench.actions(lab(Quota(cpu_shares=200))) == {"a": Action.CHANGE}
    assert bench.actions(lab()) == {"a": Action.RESTART}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quota": Quota(memory_limit_mib=1100)}, "would end it"),
        ({"quota": Quota(network_in_mbit_s=5)}, "user-mode network knows none"),
    ],
)
def test_limits_that_cannot_be_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Lab(name="demo", guests={"a": Guest(**values)})


def test_limits_have_bounds() -> None:
    for name in Quota.model_fields:
        with pytest.raises(ValidationError):
            Quota(**{name: 0})
    assert Quota().is_empty
    assert not LIMITS.is_empty
