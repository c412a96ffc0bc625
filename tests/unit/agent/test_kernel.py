"""The workloads of a level's kernel, run for real. No test looks at how fast they are."""

import mmap
import os

import pytest

from nestctl.agent import kernel, native


def test_the_other_process_answers_every_byte_and_ends() -> None:
    exchange = native.Routine(kernel.EXCHANGE, 4)
    memory = mmap.mmap(-1, 4096)
    with kernel._echo(exchange, native.address_of(memory), min(os.sched_getaffinity(0))) as (write, read):
        assert exchange(write, read, native.address_of(memory), 25) == 0
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_an_exchange_with_nobody_says_how_much_was_not_done() -> None:
    exchange = native.Routine(kernel.EXCHANGE, 4)
    memory = mmap.mmap(-1, 4096)
    read, write = os.pipe()
    empty, gone = os.pipe()
    os.close(gone)
    assert exchange(write, empty, native.address_of(memory), 7) == 7
    for descriptor in (read, write, empty):
        os.close(descriptor)


def test_the_cpus_of_this_process_are_as_before() -> None:
    before = os.sched_getaffinity(0)
    assert kernel.measure_wake_same_cpu(1, 1_000_000)["samples"]
    assert os.sched_getaffinity(0) == before


def test_one_cpu_cannot_show_what_two_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    with pytest.raises(native.NotMeasuredError, match="one CPU"):
        kernel.measure_wake_other_cpu(1, 1_000_000)


def test_lateness_is_less_than_the_time_it_took() -> None:
    (sample,) = kernel.measure_timer_wake(1, 5_000_000)["samples"]
    assert sample["operations"] == 5
    assert 0 < sample["elapsed_ns"] < sample["end_ns"] - sample["begin_ns"]
