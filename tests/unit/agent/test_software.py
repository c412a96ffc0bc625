from __future__ import annotations

import pytest

from nestctl.agent import software
from nestctl.agent.tree import RecordedTree

DPKG = """\
Package: qemu-system-x86
Status: install ok installed
Maintainer: Somebody <somebody@example.org>
Version: 1:7.2+dfsg-7+deb12u12
Description: an emulator

Package: libvirt-daemon
Status: deinstall ok config-files
Version: 9.0.0-4
"""
CACHE = """\
<qemuCaps>
  <emulator>/usr/bin/qemu-system-x86_64</emulator>
  <kvmSupportsNesting/>
  <flag name='kvm'/>
  <arch>x86_64</arch>
  <hostCPU type='kvm' model='base' migratability='yes'>
    <property name='vmx' type='boolean' value='false' migratable='yes'/>
    <property name='svm' type='boolean' value='true'/>
  </hostCPU>
  <hostCPU type='tcg'><property name='vmx' type='boolean' value='true'/></hostCPU>
</qemuCaps>
"""


def recorded(path: str, text: str) -> RecordedTree:
    return RecordedTree({path: {"text": text}, "usr/bin/qemu-system-x86_64": {"node": True}})


def test_a_package_that_was_removed_is_not_there() -> None:
    facts = software.read_facts(recorded("var/lib/dpkg/status", DPKG))
    assert facts["qemu"]["value"] == {
        "version": "7.2",
        "package": "qemu-system-x86",
        "program": "/usr/bin/qemu-system-x86_64",
    }
    assert facts["libvirt"]["value"] == {"version": "", "package": "", "program": ""}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("lib/apk/db/installed", "P:qemu-system-x86_64\nV:9.1.0-r2\nA:x86_64\n"),
        ("var/lib/pacman/local/qemu-base-9.1.0-2", ""),
    ],
)
def test_other_databases_of_packages_are_read(path: str, text: str) -> None:
    assert software.read_facts(recorded(path, text))["qemu"]["value"]["version"] == "9.1.0"


def test_what_libvirt_has_written_down_of_an_emulator_is_read_for_kvm_only() -> None:
    tree = recorded(f"{software.CAPABILITIES}/0a1b.xml", CACHE)
    assert software.read_capabilities(tree) == [
        {
            "emulator": "/usr/bin/qemu-system-x86_64",
            "architecture": "x86_64",
            "kvm": True,
            "supports_nesting": True,
            "features": ["svm"],
        }
    ]


@pytest.mark.parametrize(
    ("keep", "text"), [(software._keep_dpkg, DPKG), (software._keep_capabilities, CACHE)], ids=["dpkg", "capabilities"]
)
def test_what_is_kept_is_kept_again(keep: object, text: str) -> None:
    assert callable(keep)
    kept = keep(text)
    assert keep(kept) == kept
    assert "somebody" not in kept
