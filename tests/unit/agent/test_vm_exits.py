"""A guest's exits on the level that runs it, as Linux 6.1 and QEMU 7.2 show them."""

from pathlib import Path

import pytest

from nestctl.agent import vm_exits
from nestctl.agent.fact import NotFoundOut
from nestctl.agent.vm_exits import find_qemu, is_of_guest, parse_number

RECORDED = b"/usr/bin/qemu-system-x86_64\0-name\0guest=demo-l2,debug-threads=on\0-S\0"  # how libvirt 9.0 starts it


@pytest.mark.parametrize(
    ("command", "guest", "found"),
    [
        (RECORDED, "demo-l2", True),
        (RECORDED.replace(b"/usr/bin/qemu-system-x86_64", b"/usr/libexec/qemu-kvm"), "demo-l2", True),
        (RECORDED, "demo-l", False),
        (RECORDED, "emo-l2", False),
        (b"grep\0guest=demo-l2,\0", "demo-l2", False),
        (b"", "demo-l2", False),
    ],
)
def test_a_qemu_is_known_by_the_name_that_libvirt_gives_it(command: bytes, guest: str, found: bool) -> None:
    assert is_of_guest(command, guest) is found


def test_it_is_found_among_processes(tmp_path: Path) -> None:
    for number, command in {"7": b"init\0", "42": RECORDED, "self": RECORDED}.items():
        (tmp_path / number).mkdir()
        (tmp_path / number / "cmdline").write_bytes(command)
    (tmp_path / "43").mkdir()  # it ended between the listing and the reading
    assert find_qemu("demo-l2", str(tmp_path)) == 42
    with pytest.raises(NotFoundOut, match="no process runs the guest 'other'"):
        find_qemu("other", str(tmp_path))


def test_counters_of_all_machines_of_a_process_are_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name, text in {"42-13": "1201845\n", "42-14": "5\n", "421-13": "7\n"}.items():
        (tmp_path / "kvm" / name).mkdir(parents=True)
        (tmp_path / "kvm" / name / "exits").write_text(text)
    monkeypatch.setattr(vm_exits, "_open_debugfs", lambda: os.open(tmp_path, os.O_RDONLY))
    monkeypatch.setattr(vm_exits, "find_qemu", lambda _guest: 42)
    assert vm_exits.read_exits("demo-l2") == 1201850
    (tmp_path / "kvm" / "42-14" / "exits").unlink()
    with pytest.raises(FileNotFoundError):
        vm_exits.read_exits("demo-l2")
    assert "demo-l2" not in vm_exits._directories


def test_what_is_no_number_is_refused() -> None:
    assert parse_number(b"1201845\n") == 1201845
    with pytest.raises(ValueError, match="invalid literal"):
        parse_number(b"")
