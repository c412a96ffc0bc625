from __future__ import annotations

from pathlib import Path

import pytest

from nestctl.adapters.ssh_options import Destination
from nestctl.errors import UsageError
from nestctl.lab.parse import read_lab
from nestctl.lab.store import keep_lab
from nestctl.paths import resource
from nestctl.targets.target import Target, parse_target


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("ssh://box", "box", "", 0),
        ("ssh://joe@box:2222/", "box", "joe", 2222),
        ("ssh://joe@[::1]:22", "::1", "joe", 22),
    ],
)
def test_a_uri_names_a_machine(text: str, host: str, user: str, port: int) -> None:
    assert parse_target(text) == Target(name=text, destination=Destination(host=host, user=user, port=port))


def test_this_machine_has_no_destination() -> None:
    assert parse_target("localhost") == Target(name="localhost")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("box", "'box' is no target"),
        ("joe@box", "'joe@box' is no target"),
        ("http://box/", "'http://box/' is no target"),
        ("ssh://", "not of the form"),
        ("ssh://box/path", "not of the form"),
        ("ssh://box:0", "not of the form"),
        ("ssh://box:70000", "is wrong: Port out of range"),
        ("ssh://box:port", "is wrong: Port could not be cast"),
        ("ssh://joe:secret@box", "takes no password"),
        ("ssh://-oProxyCommand=x@box", "no host or user that there can be"),
        ("ssh://-oProxyCommand=x", "no host or user that there can be"),
        ("nolab/l1", "There is no file and no lab 'nolab'"),
    ],
)
def test_what_is_no_target_is_a_usage_error(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as raised:
        parse_target(text)
    assert "secret" not in raised.value.message + raised.value.hint


def test_a_guest_of_a_lab_is_reached_by_the_labs_own_configuration(own_directory: Path) -> None:
    directory = keep_lab(read_lab(resource("templates", "labs/single.yaml")))
    with pytest.raises(UsageError, match="The lab 'demo' is not up"):
        parse_target("demo/l2")
    (directory / "ssh_config").touch()
    assert parse_target("demo/l2").destination == Destination(host="l2", file=directory / "ssh_config")
    with pytest.raises(UsageError, match="no guest 'l9'"):
        parse_target("demo/l9")
