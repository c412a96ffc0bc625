from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import GuestError
from nestctl.lab.addresses import parse_subnets
from nestctl.lab.seed import FAILURE_FILE, LOG_FILE, render_seed
from nestctl.lab.verify import expect_seeded, parse_truth
from nestctl.model.lab import Guest, Lab
from tests.builders import plans_of, recognizable_keys

LAB = Lab(
    name="demo",
    guests={"l1": Guest(memory_mib=2048, guests={"a": Guest(memory_mib=512), "b": Guest(memory_mib=512)})},
)
OUTER = plans_of(LAB)[0]
KEYS = recognizable_keys(LAB.guests)

MODES = {
    "root/.ssh": 0o700,
    "etc/hostname": 0o644,
    "etc/hosts": 0o644,
    "etc/resolv.conf": 0o644,
    "etc/systemd/network/10-nestctl.network": 0o644,
    "etc/ssh/ssh_host_ed25519_key": 0o600,
    "etc/ssh/ssh_host_ed25519_key.pub": 0o644,
    "root/.ssh/authorized_keys": 0o600,
    "etc/nestctl/subnets": 0o644,
    "etc/libvirt/qemu/networks/demo-l1.xml": 0o600,
    "etc/libvirt/qemu/networks/autostart/demo-l1.xml": 0o644,
    "etc/systemd/system/multi-user.target.wants/libvirtd.service": 0o644,
}


def unpack(seed: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(seed)) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive if entry.isfile()}
        return {name: file.read().decode() for name, file in files.items() if file}


def test_it_holds_exactly_these_files_with_these_modes() -> None:
    with tarfile.open(fileobj=io.BytesIO(render_seed(OUTER, KEYS))) as archive:
        entries = archive.getmembers()
    assert {entry.name: entry.mode for entry in entries} == MODES
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries} == {(0, 0, 0)}


def test_a_guest_gets_its_own_private_key_and_no_other() -> None:
    files = unpack(render_seed(OUTER, KEYS))
    assert files["etc/ssh/ssh_host_ed25519_key"] == "the private key of l1\n"
    assert files["etc/ssh/ssh_host_ed25519_key.pub"] == "ssh-ed25519 l1\n"
    assert files["root/.ssh/authorized_keys"] == "ssh-ed25519 client nestctl\n"
    assert "private key of client" not in "".join(files.values())
    assert "private key of a" not in "".join(files.values())


def test_a_guest_knows_itself_and_those_inside_it() -> None:
    files = unpack(render_seed(OUTER, KEYS))
    assert files["etc/hostname"] == "l1\n"
    assert files["etc/hosts"].splitlines() == [
        "127.0.0.1 localhost",
        "127.0.1.1 l1.demo l1",
        "10.213.1.10 a.demo a",
        "10.213.1.11 b.demo b",
    ]


def test_a_hypervisor_is_told_which_subnets_are_taken_further_out() -> None:
    others = (IPv4Network("10.213.7.0/24"),)
    files = unpack(render_seed(plans_of(LAB, occupied=others)[0], KEYS))
    assert list(parse_subnets(files["etc/nestctl/subnets"])) == [
        IPv4Network(text) for text in ("10.213.0.0/24", "10.213.1.0/24", "10.213.7.0/24")
    ]
    assert "etc/nestctl/subnets" not in unpack(render_seed(OUTER.guests[0], KEYS))


def test_the_network_is_set_by_the_plan() -> None:
    files = unpack(render_seed(OUTER.guests[1], KEYS))
    network = files["etc/systemd/network/10-nestctl.network"].splitlines()
    assert f"MACAddress={OUTER.guests[1].uplink.mac}" in network
    assert "Address=10.213.1.11/24" in network
    assert "Gateway=10.213.1.1" in network
    assert files["etc/resolv.conf"] == "nameserver 10.213.0.3\n"


def seed_of(**contents: Any) -> bytes:
    lab = Lab.model_validate({"name": "demo", "guests": {"l1": {"seed": contents}}})
    return render_seed(plans_of(lab)[0], recognizable_keys(lab.guests))


def test_files_of_the_lab_file_come_last_and_with_their_modes() -> None:
    seed = seed_of(
        files=[{"path": "/etc/hostname", "content": "mine"}, {"path": "/a/b", "content": "é", "mode": "600"}]
    )
    with tarfile.open(fileobj=io.BytesIO(seed)) as archive:
        entries = archive.getmembers()
    assert [(it.name, it.mode) for it in entries][-2:] == [("etc/hostname", 0o644), ("a/b", 0o600)]
    assert unpack(seed)["etc/hostname"] == "mine"
    assert "first-boot" not in " ".join(it.name for it in entries)


def run_first_boot(directory: Path, **contents: Any) -> tuple[str, str]:
    """Run the script in this machine's shell, with its places in a directory; return its failure and its log."""
    script = unpack(seed_of(**contents))["var/lib/nestctl/first-boot.sh"]
    for place in ("/var/lib/nestctl", "/var/log"):
        (directory / place.strip("/")).mkdir(parents=True)
        script = script.replace(place, f"{directory}{place}")
    LocalShell().run(("sh", "-c", script), deadline=Deadline.after(20, "Running the script"))
    failure = directory / FAILURE_FILE.strip("/")
    return failure.read_text() if failure.exists() else "", (directory / LOG_FILE.strip("/")).read_text()


def test_commands_run_in_order_whatever_is_in_them(tmp_path: Path) -> None:
    commands = ["echo 'one' \"$((1 + 1))\"", "[[ a == a ]] && echo bash", "cat <<END\nit's here\nEND", "false || true"]
    failure, log = run_first_boot(tmp_path, commands=commands)
    assert failure == ""
    assert [line for line in log.splitlines() if not line.startswith("+ ")][:2] == ["one 2", "bash"]
    assert "\nit's here\n" in log


def test_a_command_that_fails_ends_them_and_says_why(tmp_path: Path) -> None:
    failure, log = run_first_boot(tmp_path, commands=["echo before", "echo why >&2; exit 3", "echo after"])
    assert failure.splitlines()[0] == "'echo why >&2; exit 3' ended with exit code 3:"
    assert "why" in failure.splitlines()
    assert "\nafter\n" not in log
    truth = parse_truth("".join(f"failure={line}\n" for line in failure.splitlines()))
    with pytest.raises(GuestError, match="first boot of the guest 'l1' went wrong: 'echo why") as raised:
        expect_seeded("l1", truth)
    assert LOG_FILE in raised.value.hint


def test_an_account_that_is_there_gets_its_keys(tmp_path: Path) -> None:
    """Its home is replaced by one in a directory of the test's: this machine has no account for it to use."""
    script = unpack(seed_of(users=[{"name": "ada", "ssh_keys": ["ssh-ed25519 AAAA it's ada"]}]))[
        "var/lib/nestctl/first-boot.sh"
    ]
    for place in ("/var/lib/nestctl", "/var/log"):
        (tmp_path / place.strip("/")).mkdir(parents=True)
        script = script.replace(place, f"{tmp_path}{place}")
    programs = f"getent() {{ echo ada:x:1:1::{tmp_path}/home:; }}\nchown() {{ :; }}\n"
    LocalShell().run(("sh", "-c", programs + script), deadline=Deadline.after(20, "Running")).expect_success()
    keys = tmp_path / "home/.ssh/authorized_keys"
    assert keys.read_text() == "ssh-ed25519 AAAA it's ada\n"
    assert keys.stat().st_mode & 0o777 == 0o600


def test_the_same_plan_and_keys_give_the_same_bytes() -> None:
    assert render_seed(OUTER, KEYS) == render_seed(OUTER, KEYS)
    assert render_seed(OUTER, KEYS) != render_seed(OUTER.guests[0], KEYS)


def test_a_students_key_is_let_in_beside_the_labs() -> None:
    pairs = recognizable_keys({"ann": Guest()}).hosts
    keys = replace(KEYS, owners={"l1": "ann", "a": "ann"}, students=pairs)
    for plan in (OUTER, OUTER.guests[0]):
        assert unpack(render_seed(plan, keys))["root/.ssh/authorized_keys"].splitlines() == [
            "ssh-ed25519 client nestctl",
            "ssh-ed25519 ann nestctl",
        ]
    assert "ann" not in unpack(render_seed(OUTER.guests[1], keys))["root/.ssh/authorized_keys"]
