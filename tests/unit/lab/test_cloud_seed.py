from __future__ import annotations

import io
from dataclasses import replace

import yaml
from pycdlib import PyCdlib

from nestctl.lab.cloud_seed import render_cloud_files, render_cloud_seed
from nestctl.lab.plan import GuestPlan
from nestctl.model.seed import File, Seed
from tests.builders import lab_of_depth, plan_of_depth, recognizable_keys


def plan(**changes: Seed) -> GuestPlan:
    made = plan_of_depth(2)
    return replace(made, place=replace(made.place, firmware="bios"), **changes)  # type: ignore[arg-type]


KEYS = recognizable_keys(lab_of_depth(2).guests)


def test_the_seed_is_a_disk_that_cloud_init_finds() -> None:
    iso = PyCdlib()
    iso.open_fp(io.BytesIO(render_cloud_seed(plan(), KEYS)))
    assert iso.pvd.volume_identifier.decode().strip() == "CIDATA"
    for name, text in render_cloud_files(plan(), KEYS).items():
        for path in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
            read = io.BytesIO()
            iso.get_file_from_iso_fp(read, **path)
            assert read.getvalue().decode() == text
    iso.close()


def test_the_host_key_is_brought_and_no_other_is_made() -> None:
    data = yaml.safe_load(render_cloud_files(plan(), KEYS)["user-data"])
    assert data["ssh_keys"]["ed25519_private"] == KEYS.hosts["l1"].private
    assert data["ssh_deletekeys"]
    assert data["ssh_genkeytypes"] == []
    assert data["ssh_authorized_keys"] == [f"{KEYS.client.public} nestctl"]
    assert not data["ssh_pwauth"]


def test_a_network_without_a_name_server_has_none() -> None:
    def ethernet(made: GuestPlan) -> dict[str, object]:
        found: dict[str, object] = yaml.safe_load(render_cloud_files(made, KEYS)["network-config"])["ethernets"]["eth0"]
        return found

    assert ethernet(plan())["nameservers"] == {"addresses": ["10.213.0.3"]}
    without = plan()
    assert "nameservers" not in ethernet(replace(without, uplink=replace(without.uplink, dns="")))


def test_the_users_files_come_last() -> None:
    contents = Seed(files=(File(path="/etc/hosts", content="x"),), packages=("tmux",))
    data = yaml.safe_load(render_cloud_files(plan(contents=contents), KEYS)["user-data"])
    assert [it["path"] for it in data["write_files"]].count("/etc/hosts") == 2
    assert data["write_files"][-1]["path"] == "/etc/hosts"
    assert data["packages"] == ["tmux"]
    assert "packages" not in yaml.safe_load(render_cloud_files(plan(), KEYS)["user-data"])


def test_the_seed_has_another_name_than_that_of_the_built_image() -> None:
    assert plan().seed.name == "l1.seed.iso"
    assert plan_of_depth(2).seed.name == "l1.seed.tar"
