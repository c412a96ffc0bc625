from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from nestctl.deadline import Deadline
from nestctl.lab.parallel import run_all


def test_results_come_in_the_order_of_the_tasks() -> None:
    gate = threading.Event()

    def wait_for_the_last() -> str:
        assert gate.wait(20)
        return "first"

    def last() -> str:
        gate.set()
        return "last"

    assert run_all([wait_for_the_last, last], jobs=2, stop=threading.Event()) == ("first", "last")


def test_one_task_runs_in_this_thread_and_none_is_no_work() -> None:
    assert run_all([threading.get_ident], jobs=8, stop=threading.Event()) == (threading.get_ident(),)
    assert run_all([threading.get_ident] * 2, jobs=1, stop=threading.Event()) == (threading.get_ident(),) * 2
    assert run_all([], jobs=8, stop=threading.Event()) == ()


def test_an_error_is_raised_when_all_have_come_to_their_ends() -> None:
    ended: list[int] = []
    gate = threading.Event()

    def fail() -> None:
        gate.set()
        raise ValueError("no")

    def end() -> None:
        assert gate.wait(20)
        ended.append(1)

    with pytest.raises(ValueError, match="no"):
        run_all([fail, end], jobs=2, stop=threading.Event())
    assert ended == [1]


def test_an_interruption_reaches_what_waits_in_threads_and_begins_nothing_more() -> None:
    stop = threading.Event()
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if len(begun) == 2:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        for _ in Deadline.after(60, "Something", stop=stop).poll(interval_s=0.01):
            pass

    begun_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all([lambda n=n: work(n) for n in range(6)], jobs=2, stop=stop)  # type: ignore[misc]
    assert stop.is_set()
    assert len(begun) == 2
    assert time.monotonic() - begun_s < 50


def test_a_deadline_that_is_to_stop_is_no_longer_waited_for() -> None:
    stop = threading.Event()
    deadline = Deadline.after(60, "Something", stop=stop)
    deadline.check()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        deadline.check()
