"""`bench tune` is interrupted for real: all is put back. test_fits.py interrupts `bench` itself."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestctl.image.store import Image
from tests.nested.harness import Lab, qemu_processes, wait_until

_ONE_GUEST = "name: tuned\nguests:\n  one:\n    memory_mib: 512\n    disk_gib: 4\n"


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
