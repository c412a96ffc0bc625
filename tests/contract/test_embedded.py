"""The directory of the embedded driver: one process at a time has it, and it is gone with the last domain."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestctl.adapters.embedded import embedded_root
from nestctl.adapters.libvirt import open_hypervisor
from nestctl.deadline import Deadline
from nestctl.lab.render import render_domain
from nestctl.paths import state_directory
from tests.builders import plan_of_depth
from tests.contract.conftest import environment
from tests.needs import need_program

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def shared_directory(own_directory: Path, one_directory: Path) -> Iterator[None]:
    need_program("qemu-system-x86_64", "qemu-system-x86")
    with environment(one_directory):
        yield


def soon() -> Deadline:
    return Deadline.after(60, "Opening libvirt")


def test_nothing_is_left_when_the_last_domain_is_gone() -> None:
    uri = f"qemu:///embed?root={embedded_root()}"
    with open_hypervisor(uri, deadline=soon()) as hypervisor:
        hypervisor.define_domain(render_domain(plan_of_depth(2, is_emulated=True)))
    assert embedded_root().is_dir()
    with open_hypervisor(uri, deadline=soon()) as hypervisor:
        assert [domain.name for domain in hypervisor.list_domains()] == ["demo-l1"]
        hypervisor.remove_domain("demo-l1")
    assert not embedded_root().exists()
    assert not state_directory().exists()


def test_nothing_is_left_when_the_work_fails_before_the_first_domain() -> None:
    with (
        pytest.raises(RuntimeError, match="interrupted"),
        open_hypervisor(f"qemu:///embed?root={embedded_root()}", deadline=soon()),
    ):
        raise RuntimeError("interrupted")
    assert not state_directory().exists()


OTHER_PROCESS = """
import sys
from nestctl.adapters.libvirt import open_hypervisor
from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError
try:
    with open_hypervisor(sys.argv[1], deadline=Deadline.after(float(sys.argv[2]), "Waiting for the other")):
        print("opened")
except DeadlineError as error:
    print(error)
"""


def open_in_other_process(uri: str, timeout_s: float) -> str:
    command = (sys.executable, "-c", OTHER_PROCESS, uri, str(timeout_s))
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_two_processes_cannot_have_the_embedded_driver_at_once() -> None:
    uri = f"qemu:///embed?root={embedded_root()}"
    with open_hypervisor(uri, deadline=soon()) as hypervisor:
        assert open_in_other_process(uri, 0.2) == "Waiting for the other did not happen within 0.2 s."
        # The one that waited in vain has not taken the directory away.
        hypervisor.define_domain(render_domain(plan_of_depth(2, is_emulated=True)))
        hypervisor.remove_domain("demo-l1")


def test_a_process_may_open_it_over_and_over() -> None:
    """libvirt has room for twenty drivers in a process, and counts every connection as one."""
    uri = f"qemu:///embed?root={embedded_root()}"
    with open_hypervisor(uri, deadline=soon()) as outer:
        for _ in range(30):
            with open_hypervisor(uri, deadline=soon()) as inner:
                assert inner.list_domains() == ()
        outer.define_domain(render_domain(plan_of_depth(2, is_emulated=True)))
    for _ in range(30):
        with open_hypervisor(uri, deadline=soon()) as hypervisor:
            assert [domain.name for domain in hypervisor.list_domains()] == ["demo-l1"]
    with open_hypervisor(uri, deadline=soon()) as hypervisor:
        hypervisor.remove_domain("demo-l1")
    assert not state_directory().exists()
