"""What students get. What opens what is tried on a real sshd in tests/contract/test_bundle.py."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nestctl.errors import FailedError, UsageError
from nestctl.lab.bundle import Jump, parse_jump, write_bundles
from nestctl.lab.keys import LabKeys, ensure_lab_keys
from tests.builders import class_of, plans_of, recognizable_keys
from tests.unit.lab.test_ssh_config import read_by_openssh


@pytest.fixture
def keys(tmp_path: Path) -> LabKeys:
    return ensure_lab_keys(tmp_path / "keys.json", class_of("ann", "bob"))


def write(directory: Path, keys: LabKeys, jump: Jump | None = None) -> Path:
    lab = class_of("ann", "bob")
    write_bundles(lab, plans_of(lab), keys, directory / "out", jump)
    return directory / "out"


def test_every_student_has_a_directory_that_is_closed_to_others(tmp_path: Path, keys: LabKeys) -> None:
    out = write(tmp_path, keys)
    files = {str(path.relative_to(out)): stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*")}
    each = ("", "/card.html", "/key", "/known_hosts", "/ssh_config")
    assert set(files) == {"index.html", *(f"{name}{it}" for name in ("ann", "bob") for it in each)}
    assert {mode for name, mode in files.items() if name not in {"ann", "bob"}} == {0o600}
    assert {files["ann"], files["bob"], stat.S_IMODE(out.stat().st_mode)} == {0o700}


def test_a_directory_has_nothing_of_another_student_and_nothing_of_the_lab(tmp_path: Path, keys: LabKeys) -> None:
    out = write(tmp_path, keys, parse_jump("class@lab.example", tmp_path))
    ann = "".join(path.read_text() for path in (out / "ann").iterdir())
    assert keys.students["ann"].private in ann
    assert "bob" not in ann
    for secret in (keys.client.private, keys.students["bob"].private, keys.hosts["ann"].private):
        assert secret.splitlines()[3] not in ann
    index = (out / "index.html").read_text()
    assert "PRIVATE KEY" not in index + (out / "ann" / "card.html").read_text()


def test_openssh_hops_to_the_inner_guest_with_the_students_files(tmp_path: Path, keys: LabKeys) -> None:
    out = write(tmp_path, keys)
    settings = read_by_openssh(out / "bob", "bob-vm")
    assert (settings["proxyjump"], settings["identityfile"], settings["hostkeyalias"]) == ("bob", "key", "bob-vm")
    assert settings["userknownhostsfile"] == "known_hosts"
    assert "proxyjump" not in read_by_openssh(out / "bob", "bob")
    assert (out / "bob" / "known_hosts").read_text().splitlines() == [
        f"bob {keys.hosts['bob'].public}",
        f"bob-vm {keys.hosts['bob-vm'].public}",
    ]


def test_students_elsewhere_come_through_this_machine(tmp_path: Path, keys: LabKeys) -> None:
    (tmp_path / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAAhost root@here\n")
    out = write(tmp_path, keys, parse_jump("class@lab.example:2222", tmp_path))
    assert read_by_openssh(out / "ann", "ann")["proxyjump"] == "nestctl-host"
    host = read_by_openssh(out / "ann", "nestctl-host")
    assert (host["hostname"], host["port"], host["user"]) == ("lab.example", "2222", "class")
    assert (host["identityfile"], host["stricthostkeychecking"]) == ("key", "true")
    assert "nestctl-host ssh-ed25519 AAAAhost\n" in (out / "ann" / "known_hosts").read_text()
    lines = (out / "authorized_keys").read_text().splitlines()
    public = keys.students["bob"].public
    options = 'restrict,port-forwarding,permitopen="127.0.0.1:20001",permitlisten="127.0.0.1:1",command="/bin/false"'
    assert lines[1] == f"{options} {public} class/bob"
    assert "Match User class\n" in (out / "sshd.conf").read_text()


def test_cards_and_index_say_what_is_there(tmp_path: Path, keys: LabKeys) -> None:
    out = write(tmp_path, keys, parse_jump("class@lab.example", tmp_path))
    card = (out / "ann" / "card.html").read_text()
    for text in ("ssh -F ssh_config ann-vm", "2048 MiB", "10.213.1.10", "through class@lab.example"):
        assert text in card
    index = (out / "index.html").read_text()
    for text in ("2 students", 'href="ann/card.html"', "nestctl reset class/bob", "authorized_keys"):
        assert text in index


def test_a_directory_of_the_users_keeps_its_mode(tmp_path: Path, keys: LabKeys) -> None:
    (tmp_path / "out").mkdir(mode=0o755)
    out = write(tmp_path, keys)
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "text", ["host", "a b@host", "a@host:x", "a@host:0", "a@host:70000", "a@-oProxyCommand=x y", "@h", "a@h\nHost *"]
)
def test_a_way_that_is_none_is_a_usage_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no way to this machine"):
        parse_jump(text, tmp_path)


def test_the_way_is_read(tmp_path: Path) -> None:
    assert str(parse_jump("a@host", tmp_path)) == "a@host"
    assert parse_jump("a@[::1]:22", tmp_path).host == "::1"
    assert str(parse_jump("a@h:222", tmp_path)) == "a@h:222"


def test_a_lab_of_an_older_nestctl_is_said(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match="has no key for ann, bob: an older nestctl"):
        write(tmp_path, recognizable_keys(class_of("ann", "bob").guests))
