"""What could be left of a lab is put there, and has to be found."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nestctl.adapters.embedded import embedded_root
from nestctl.adapters.sockets import remove_stale_sockets
from nestctl.errors import ExitCode, FailedError
from nestctl.lab import remove as removing
from nestctl.lab.audit import Trace, find_processes, find_traces
from nestctl.lab.keys import ensure_keys
from nestctl.lab.render import render_network
from nestctl.lab.store import keep_lab, lab_directory
from tests.builders import lab_of_depth, plan_of_depth
from tests.lab_bench import Bench

LAB = lab_of_depth(2)


def kinds(traces: list[Trace]) -> list[str]:
    return [it.kind for it in traces]


def test_of_a_lab_that_was_never_there_nothing_is() -> None:
    bench = Bench()
    assert list(find_traces("demo", bench.machine.hypervisor)) == []
    assert list(find_traces(None, None)) == []


def test_a_lab_that_is_up_is_there_and_another_is_not() -> None:
    bench = Bench()
    bench.up(LAB)
    traces = list(find_traces("demo", bench.machine.hypervisor))
    assert traces[0] == Trace(lab="demo", kind="domain", name="demo-l1")
    assert {"domain", "key", "file"} <= set(kinds(traces))
    assert list(find_traces(None, bench.machine.hypervisor)) == traces
    assert list(find_traces("other", bench.machine.hypervisor)) == []
    bench.down(LAB)
    assert list(find_traces("demo", bench.machine.hypervisor)) == []


def test_a_domain_and_a_network_that_stayed_are_named() -> None:
    bench = Bench()
    bench.up(LAB)
    network = plan_of_depth(2).network
    assert network
    bench.machine.hypervisor.define_network(render_network(network))
    traces = list(find_traces("demo", bench.machine.hypervisor))
    assert Trace(lab="demo", kind="network", name="demo-l1") in traces


@pytest.mark.parametrize(
    ("name", "kind"),
    [("l1.qcow2", "disk"), ("l1.seed.tar", "seed"), ("keys.json", "key"), ("client_key", "key"), ("x", "file")],
)
def test_every_file_is_named_by_what_it_is(name: str, kind: str) -> None:
    directory = lab_directory("demo")
    directory.mkdir(parents=True)
    assert [(it.kind, it.name) for it in find_traces("demo", None)] == [("file", str(directory))]
    (directory / name).touch()
    assert [(it.kind, it.name) for it in find_traces("demo", None)] == [(kind, str(directory / name))]


def test_what_libvirt_keeps_by_a_domains_name_is_named() -> None:
    nvram = embedded_root() / "lib/qemu/nvram"
    nvram.mkdir(parents=True)
    (nvram / "demo-l1_VARS.fd").touch()
    (nvram / "other-l1_VARS.fd").touch()
    assert [(it.kind, Path(it.name).name) for it in find_traces("demo", None)] == [("nvram", "demo-l1_VARS.fd")]


def test_what_belongs_to_a_domain_that_is_there_is_not_another_labs() -> None:
    """A lab 'demo' and a lab 'demo-two': their domains' names begin alike."""
    bench = Bench()
    bench.up(lab_of_depth(1, "demo-two"))
    nvram = embedded_root() / "lib/qemu/nvram"
    nvram.mkdir(parents=True)
    (nvram / "demo-two-l1_VARS.fd").touch()
    assert list(find_traces("demo", bench.machine.hypervisor)) == []


def test_a_qemu_of_ours_is_found_with_the_port_it_forwards(tmp_path: Path) -> None:
    """A process that is called like QEMU and has its options; it does nothing."""
    labs = lab_directory("demo").parent
    program = tmp_path / "qemu-system-x86_64"
    program.symlink_to(sys.executable)
    words = (
        "-c",
        "print(flush=True); input()",
        "-name",
        "guest=demo-l1,debug-threads=on",
        f'{{"filename":"{labs}/demo/l1.qcow2"}}',
        "user,id=n,hostfwd=tcp:127.0.0.1:20123-10.213.0.10:22",
    )
    with subprocess.Popen((program, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        found = list(find_processes("demo", labs))
        assert [it.kind for it in found] == ["process", "port"]
        assert found[0].name == f"QEMU of 'demo-l1', process {process.pid}"
        assert found[1].name == "127.0.0.1:20123"
        assert list(find_processes(None, labs)) == found
        assert list(find_processes("other", labs)) == []
        assert list(find_processes("demo", tmp_path)) == []
        process.communicate(b"\n")
    assert list(find_processes("demo", labs)) == []


def test_down_fails_when_something_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A libvirt that says it has removed a domain, and has not."""
    monkeypatch.setattr(removing, "_LEFT_TIMEOUT_S", 0.1)
    bench = Bench()
    bench.up(LAB)
    bench.machine.hypervisor.remove_domain = lambda name: None  # type: ignore[method-assign]
    with pytest.raises(FailedError, match="Not everything of the lab 'demo' could be removed") as raised:
        bench.down(LAB)
    assert "  domain: demo-l1" in raised.value.message
    assert raised.value.exit_code == ExitCode.FAILED


def test_keys_that_stay_without_a_lab_are_found() -> None:
    ensure_keys(keep_lab(LAB) / "keys.json", ["l1"])
    assert "key" in kinds(list(find_traces(None, None)))


def test_a_socket_of_a_nestctl_that_was_killed_is_named_and_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f"nestctl-socket-{gone.pid}-abc"
    for path in (left, tmp_path / f"nestctl-socket-{os.getpid()}-abc", tmp_path / "nestctl-socket-x-y"):
        path.mkdir()
    assert list(find_traces(None, None)) == [Trace(lab="-", kind="socket", name=str(left))]
    assert list(find_traces("demo", None)) == []
    remove_stale_sockets()
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == 2
