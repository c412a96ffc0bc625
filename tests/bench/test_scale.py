"""What a large class costs before anything boots: 3,000 guests, against libvirt's test driver."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
import pytest

from nestctl.adapters.libvirt import Hypervisor
from nestctl.lab.compare import is_settled, walk_changes
from nestctl.lab.host import Host, plan_on
from nestctl.lab.parse import parse_lab
from nestctl.lab.plan import walk_plans
from nestctl.lab.render import render_domain
from nestctl.model.facts import Accelerator
from tests.bench.ratio import Comparison, timed
from tests.bench.ratio import compare as compare_times
from tests.large_lab import open_large_lab
from tests.libvirt_test_driver import for_test_driver

Expect = Callable[[Comparison, float], None]

LAB = """
name: large
defaults: {memory_mib: 512, disk_gib: 4}
guests:
  node:
    count: 1000
    memory_mib: 2048
    guests:
      vm: {count: 2, seed: {commands: ["echo {{ number }}"]}}
"""
HOST = Host(uri="test:///default", accelerator=Accelerator.KVM, cpu_feature="svm")


def render_all() -> list[str]:
    return [render_domain(plan) for plan in walk_plans(plan_on(HOST, parse_lab(LAB, "lab.yaml"), ()))]


@contextmanager
def driver() -> Iterator[Hypervisor]:
    connection = libvirt.open("test:///default")
    try:
        yield Hypervisor(where="this machine", uri="test:///default", connection=connection)
    finally:
        connection.close()


def test_parsing_planning_and_rendering_against_defining(expect_at_most: Expect) -> None:
    documents = [for_test_driver(xml) for xml in render_all()]
    assert len(documents) == 3000

    def define() -> float:
        with driver() as hypervisor:
            # Without the check against the schema, which takes libvirt thirty times as long.
            return timed(lambda: [hypervisor.connection.defineXML(xml) for xml in documents])

    expect_at_most(compare_times("parse, plan, render 3,000 guests", lambda: timed(render_all), define, runs=3), 2.0)


def test_its_memory_stays_small() -> None:
    script = (
        "import resource; from tests.bench.test_scale import render_all; assert len(render_all()) == 3000; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = (sys.executable, "-c", script)
    root = Path(__file__).parents[2]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert int(completed.stdout) / 1024 < 300


def test_an_empty_plan_of_it_takes_at_most_two_seconds_per_thousand_domains(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every level is entered; what the SSH connections cost beside is a matter of the machines, not of the plan."""
    with open_large_lab(parse_lab(LAB, "lab.yaml")) as large:
        begun_s = time.monotonic()
        changes = large.plan()
        elapsed_s = time.monotonic() - begun_s
    domains = list(walk_changes(changes))
    assert len(domains) == 3000
    # Nothing counts as settled that was not looked at.
    assert is_settled(changes)
    with capsys.disabled():
        print(f"\nempty plan of {len(domains):,} domains: {elapsed_s:.2f} s (at most 6)")  # noqa: T201
    assert elapsed_s <= 2.0 * len(domains) / 1000
