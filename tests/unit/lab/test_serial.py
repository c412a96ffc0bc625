from __future__ import annotations

import pytest

from nestctl.lab.nodes import list_nodes
from nestctl.lab.render import parse_terminal, render_domain
from nestctl.lab.serial import console_command
from tests.builders import lab_of_depth, plan_of_depth


def test_an_inner_guests_console_is_joined_in_the_guest_that_runs_it() -> None:
    _, node = list_nodes(lab_of_depth(2))
    command = console_command(node, connect=None)
    assert command[:3] == ("ssh", "-F", str(node.directory / "ssh_config"))
    assert command[3:] == ("-tt", "--", "l1", "virsh -c qemu:///system console demo-l2")


@pytest.mark.parametrize(
    ("serial", "path"),
    [
        ("<serial type='pty'><source path='/dev/pts/7'/></serial>", "/dev/pts/7"),
        ("<serial type='pty'/>", ""),
        ("<serial type='file'><source path='/var/log/x'/></serial>", ""),
        ("", ""),
    ],
)
def test_the_terminal_of_a_running_domain_is_found(serial: str, path: str) -> None:
    assert parse_terminal(f"<domain><devices>{serial}</devices></domain>") == path


def test_a_definition_names_no_terminal() -> None:
    assert parse_terminal(render_domain(plan_of_depth(1))) == ""
