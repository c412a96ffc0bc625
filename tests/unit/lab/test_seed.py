from __future__ import annotations

import io
import tarfile

from nestctl.lab.seed import render_seed
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


def test_the_network_is_set_by_the_plan() -> None:
    files = unpack(render_seed(OUTER.guests[1], KEYS))
    network = files["etc/systemd/network/10-nestctl.network"].splitlines()
    assert f"MACAddress={OUTER.guests[1].uplink.mac}" in network
    assert "Address=10.213.1.11/24" in network
    assert "Gateway=10.213.1.1" in network
    assert files["etc/resolv.conf"] == "nameserver 10.213.0.3\n"


def test_the_same_plan_and_keys_give_the_same_bytes() -> None:
    assert render_seed(OUTER, KEYS) == render_seed(OUTER, KEYS)
    assert render_seed(OUTER, KEYS) != render_seed(OUTER.guests[0], KEYS)
