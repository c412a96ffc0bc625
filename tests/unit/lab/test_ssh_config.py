"""The configuration is read by OpenSSH itself."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.lab.ssh_config import own_access, render_ssh_config, ssh_command, write_ssh_config
from nestctl.model.lab import Guest, Lab
from tests.builders import lab_of_depth, plans_of, recognizable_keys
from tests.needs import need_program


def read_by_openssh(directory: Path, host: str, name: str = "ssh_config") -> dict[str, str]:
    need_program("ssh", "openssh-client")
    command = ("ssh", "-G", "-F", str(directory / name), host)
    text = LocalShell().run(command, deadline=Deadline.after(20, "Reading ssh_config")).expect_success().text
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


def write(directory: Path, lab: Lab) -> None:
    directory.mkdir(exist_ok=True)
    write_ssh_config(directory, plans_of(lab), recognizable_keys(lab.guests))


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_openssh_hops_through_every_level(tmp_path: Path, depth: int) -> None:
    write(tmp_path, lab_of_depth(depth))
    for level in range(1, depth + 1):
        settings = read_by_openssh(tmp_path, f"l{level}")
        assert settings.get("proxyjump") == (f"l{level - 1}" if level > 1 else None)
        assert settings["hostname"] == ("127.0.0.1" if level == 1 else f"10.213.{level - 1}.10")
        assert settings["port"] == ("20000" if level == 1 else "22")


@pytest.mark.parametrize("name", ["ssh_config", "ssh_include"])
def test_full_names_are_those_of_dns(tmp_path: Path, name: str) -> None:
    write(tmp_path, lab_of_depth(3))
    assert read_by_openssh(tmp_path, "l3.l2.l1.demo", name)["hostname"] == "10.213.2.10"
    assert read_by_openssh(tmp_path, "l1.demo", name)["port"] == "20000"


def test_what_is_included_elsewhere_has_full_names_only(tmp_path: Path) -> None:
    """A guest that is called like a host of the user's must not take its place."""
    write(tmp_path, lab_of_depth(2))
    assert read_by_openssh(tmp_path, "l2", "ssh_include")["hostname"] == "l2"
    assert read_by_openssh(tmp_path, "l2.l1.demo", "ssh_include")["proxyjump"] == "l1.demo"


def test_openssh_checks_the_host_key_and_offers_the_labs_key_only(tmp_path: Path) -> None:
    write(tmp_path, lab_of_depth(2))
    settings = read_by_openssh(tmp_path, "l2")
    assert settings["stricthostkeychecking"] == "true"
    assert settings["hostkeyalias"] == "l2"
    assert settings["userknownhostsfile"] == str(tmp_path / "known_hosts")
    assert settings["identityfile"] == str(tmp_path / "client_key")
    assert settings["identitiesonly"] == "yes"
    assert settings["user"] == "root"


def test_a_directory_with_a_space_in_its_name_is_found(tmp_path: Path) -> None:
    write(tmp_path / "my labs", lab_of_depth(1))
    assert read_by_openssh(tmp_path / "my labs", "l1")["identityfile"] == str(tmp_path / "my labs/client_key")


def test_siblings_are_reached_through_their_own_hypervisor() -> None:
    inner = {name: {f"{name}1": Guest(memory_mib=512)} for name in "ab"}
    lab = Lab(name="demo", guests={name: Guest(memory_mib=2048, guests=inner[name]) for name in "ab"})
    blocks = {text.split()[1]: text for text in render_ssh_config(plans_of(lab), own_access(Path("/d"))).split("\n\n")}
    assert "ProxyJump a\n" in blocks["a1"] + "\n"
    assert "ProxyJump b\n" in blocks["b1"] + "\n"


def test_the_key_is_closed_to_others_and_every_guest_is_known(tmp_path: Path) -> None:
    write(tmp_path, lab_of_depth(2))
    assert stat.S_IMODE((tmp_path / "client_key").stat().st_mode) == 0o600
    assert (tmp_path / "client_key").read_text() == "the private key of client\n"
    assert (tmp_path / "known_hosts").read_text() == "l1 ssh-ed25519 l1\nl2 ssh-ed25519 l2\n"


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ([], ()),
        (["echo $HOME; id"], ("echo $HOME; id",)),
        (["echo", "a b", "$HOME"], ("echo 'a b' '$HOME'",)),
        (["ls", "-l"], ("ls -l",)),
    ],
)
def test_one_word_is_a_shells_text_and_more_stay_apart(words: list[str], sent: tuple[str, ...]) -> None:
    assert ssh_command(Path("/d"), "l2", words) == ("ssh", "-F", "/d/ssh_config", "--", "l2", *sent)
