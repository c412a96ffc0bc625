import time

import pytest

from nestctl.agent import disturbance


def test_counters_only_grow_and_what_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    before = disturbance.read_disturbance()
    after = disturbance.read_disturbance()
    assert all(value >= 0 for value in disturbance.difference(before, after).values())
    monkeypatch.setattr(disturbance, "SCHEDSTAT", "/nowhere")
    monkeypatch.setattr(disturbance, "STAT", "/nowhere")
    assert disturbance.read_disturbance() == {}


def test_the_lines_of_the_kernel_are_read() -> None:
    assert disturbance.parse_waited("123456 789 12\n") == 789
    assert disturbance.parse_stolen("cpu  1 2 3 4 5 6 7 250 0 0\ncpu0 1 1 1 1 1 1 1 9 0 0\n", 100) == 2_500_000_000


@pytest.mark.parametrize("text", ["", "x", "1 x 3", "cpu 1 2 3", "1"])
def test_what_an_older_kernel_does_not_count_is_none(text: str) -> None:
    assert disturbance.parse_waited(text) is None
    assert disturbance.parse_stolen(text, 100) is None


def test_a_process_that_has_to_share_its_cpu_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads on one CPU: each waits for the other. schedstat of the thread that measures counts it."""
    import os

    cpus = os.sched_getaffinity(0)
    before = disturbance.read_disturbance()
    if "waited_ns" not in before:
        pytest.skip("this kernel does not count how long a process waited for a CPU")
    os.sched_setaffinity(0, {min(cpus)})
    try:
        pid = os.fork()
        if not pid:
            end_s = time.monotonic() + 0.5
            while time.monotonic() < end_s:
                pass
            os._exit(0)
        end_s = time.monotonic() + 0.4
        while time.monotonic() < end_s:
            pass
        os.waitpid(pid, 0)
        waited = disturbance.difference(before, disturbance.read_disturbance())["waited_ns"]
    finally:
        os.sched_setaffinity(0, cpus)
    assert waited > 50_000_000
