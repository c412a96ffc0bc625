"""What makes a guest of a vendor's image the one it is: a disk that its cloud-init reads at the first boot.

The data source is NoCloud: an ISO 9660 file system with the label CIDATA and three files
(https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import yaml

from nestctl.lab.keys import LabKeys
from nestctl.lab.plan import GuestPlan
from nestctl.lab.seed import FIRST_BOOT, outer_subnets, render_first_boot, render_hosts

_READY_UNIT = """\
[Unit]
Description=Say on the console that SSH answers
After=ssh.service sshd.service network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "nestctl: ready" > /dev/ttyS0'

[Install]
WantedBy=multi-user.target
"""


def render_cloud_seed(plan: GuestPlan, keys: LabKeys) -> bytes:
    """Render a guest's seed as an ISO 9660 file system: the same identity and content as `render_seed` gives.

    It holds the guest's private host key: whoever writes it gives it mode 0600.
    """
    from pycdlib import PyCdlib

    iso = PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="CIDATA")
    for name, text in render_cloud_files(plan, keys).items():
        content = text.encode()
        iso_name = name.upper().replace("-", "_")
        iso.add_fp(io.BytesIO(content), len(content), f"/{iso_name}.;1", rr_name=name, joliet_path=f"/{name}")
    buffer = io.BytesIO()
    iso.write_fp(buffer)
    iso.close()
    return buffer.getvalue()


def render_cloud_files(plan: GuestPlan, keys: LabKeys) -> dict[str, str]:
    """Render the files of NoCloud's by their names."""
    return {
        # cloud-init does its work once for each instance: a guest that is made anew has a new disk, and starts anew.
        "meta-data": _dump({"instance-id": f"{plan.uuid}-{plan.digest}", "local-hostname": plan.name}),
        "user-data": "#cloud-config\n" + _dump(_user_data(plan, keys)),
        "network-config": _dump(_network_config(plan)),
    }


def _user_data(plan: GuestPlan, keys: LabKeys) -> dict[str, Any]:
    host = keys.hosts[plan.name]
    return {
        "hostname": plan.name,
        "fqdn": f"{plan.name}.{plan.lab}",
        "manage_etc_hosts": False,
        # Only what the lab file says: not the vendor's own account either.
        "users": [],
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_authorized_keys": [f"{it.public} nestctl" for it in keys.clients_of(plan.name)],
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {"ed25519_private": host.private, "ed25519_public": host.public},
        **({"package_update": True, "packages": list(plan.contents.packages)} if plan.contents.packages else {}),
        "write_files": list(_files(plan)),
        # In the last stage, after the packages.
        "runcmd": [
            ["sh", f"/{FIRST_BOOT}"],
            ["systemctl", "enable", "nestctl-ready.service"],
            ["systemctl", "start", "--no-block", "nestctl-ready.service"],
        ],
    }


def _files(plan: GuestPlan) -> Iterator[dict[str, str]]:
    yield _file("/etc/hosts", render_hosts(plan))
    yield _file("/etc/systemd/system/nestctl-ready.service", _READY_UNIT)
    for path, text, mode in outer_subnets(plan) if plan.is_hypervisor else ():
        yield _file(f"/{path}", text, f"{mode:04o}")
    yield _file(f"/{FIRST_BOOT}", render_first_boot(plan.contents), "0600")
    # The user has the last word.
    for file in plan.contents.files:
        yield _file(file.path, file.content, f"{int(file.mode, 8):04o}")


def _file(path: str, text: str, mode: str = "0644") -> dict[str, str]:
    content = base64.b64encode(text.encode()).decode()
    return {"path": path, "owner": "root:root", "permissions": mode, "encoding": "b64", "content": content}


def _network_config(plan: GuestPlan) -> dict[str, Any]:
    """Network configuration of version 2, in the words that every renderer of cloud-init's has known for years."""
    prefix = plan.uplink.subnet.partition("/")[2]
    return {
        "version": 2,
        "ethernets": {
            "eth0": {
                "match": {"macaddress": plan.uplink.mac},
                "set-name": "eth0",
                "dhcp4": False,
                "addresses": [f"{plan.uplink.address}/{prefix}"],
                "routes": [{"to": "0.0.0.0/0", "via": plan.uplink.gateway}],
                # A network of the lab's may have none.
                **({"nameservers": {"addresses": [plan.uplink.dns]}} if plan.uplink.dns else {}),
            }
        },
    }


def _dump(document: dict[str, Any]) -> str:
    # A detour by JSON: plain values without YAML's anchors.
    return yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False, width=1000)
