"""A benchmark that is interrupted for real: what was measured is kept and marked, nothing runs on, all is put back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestctl.image.store import Image
from tests.nested.harness import Lab, qemu_processes, wait_until

# What a run starts on a level, there and on the level above.
_STARTED = ("python3", "sysbench", "fio", "iperf3")

_ONE_GUEST = "name: tuned\nguests:\n  one:\n    memory_mib: 512\n    disk_gib: 4\n"


def _ours(lab: Lab) -> list[str]:
    """What still runs on this machine that a nestctl of this lab started, QEMU apart."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment, words = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"NESTCTL_STATE={lab.state}".encode() in environment and b"qemu-system" not in words:
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_a_run_that_is_interrupted_keeps_its_rounds_and_leaves_nothing_running(lab: Lab, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    workloads = [f"--workload={name}" for name in ("cpu", "sysbench_cpu", "iperf3_up")]
    with lab.start("--events", str(events), "bench", *workloads, "--output", str(tmp_path)) as process:
        # Round 1 has been measured, and something of round 2 runs now.
        wait_until(lambda: "Round 2" in _text(events) or process.poll() is not None, timeout_s=300)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Partial: the run was interrupted" in stdout
    (path,) = tmp_path.glob("bench-*.json")
    results = json.loads(path.read_text())
    assert results["ending"] == "interrupted"
    first = {call["level"] for call in results["calls"] if call["round"] == 1}
    assert first == {"L0", "l1", "l2"}
    assert all(call["round"] <= 2 for call in results["calls"])
    assert path.with_suffix(".html").exists()
    assert "Partial" in lab.nestctl("bench", "show", str(path)).expect(0).stdout
    wait_until(lambda: _ours(lab) == [], timeout_s=30)
    for guest in ("l1", "l2"):
        names = lab.nestctl("exec", guest, "--", "ps", "-eo", "comm=").expect(0).stdout.split()
        assert "systemd" in names, "the question is answered"
        assert not set(names) & set(_STARTED)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture
def single(image: Image, state: Path) -> Iterator[Lab]:
    """A lab of one guest, which is up."""
    assert image.disk.exists()
    with Lab(directory=state.parent, name="tuned").removed_in_the_end() as lab:
        lab.write(_ONE_GUEST)
        lab.nestctl("up").expect(0)
        yield lab


def test_settings_that_were_being_tried_are_put_back(single: Lab, tmp_path: Path) -> None:
    def has_no_cache() -> bool:
        return any('"cache":{"direct":true' in line for line in qemu_processes() if "guest=tuned-one," in line)

    words = ("bench", "tune", "--setting=cache-none", "--workload=cpu", "--json", "--output", str(tmp_path))
    with single.start(*words) as process:
        wait_until(lambda: has_no_cache() or process.poll() is not None, timeout_s=300)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    document = json.loads(stdout)
    assert (document["ending"], document["put_back"]) == ("interrupted", True)
    assert not has_no_cache()
    assert len(single.processes()) == 1
    single.nestctl("plan").expect(0)
    assert single.nestctl("ssh", "one", "--", "hostname").expect(0).stdout == "one\n"
    (path,) = tmp_path.glob("tune-*.json")
    assert json.loads(path.read_text())["ending"] == "interrupted"
