from __future__ import annotations

import pytest

from nestctl.deadline import Deadline
from nestctl.errors import DeadlineError, ExitCode


def test_a_deadline_that_lies_ahead_lets_everything_through() -> None:
    deadline = Deadline.after(3600, "Booting")
    deadline.check()
    assert not deadline.is_over
    assert 3590 < deadline.remaining_s <= 3600


def test_a_deadline_that_is_over_says_what_did_not_happen() -> None:
    deadline = Deadline.after(0, "An answer from 'l1'")
    assert deadline.is_over
    with pytest.raises(DeadlineError, match=r"^An answer from 'l1' did not happen within 0 s\.$") as raised:
        deadline.check()
    assert raised.value.exit_code == ExitCode.DEADLINE


def test_no_time_is_less_than_none() -> None:
    assert Deadline.after(-5, "It").remaining_s == 0.0


def test_there_is_one_try_even_when_the_time_is_over() -> None:
    tries: list[None] = []
    with pytest.raises(DeadlineError):
        tries.extend(Deadline.after(0, "It").poll())
    assert len(tries) == 1


def test_tries_go_on_until_the_deadline() -> None:
    deadline = Deadline.after(0.05, "It")
    tries: list[None] = []
    with pytest.raises(DeadlineError):
        tries.extend(deadline.poll(interval_s=0.001))
    assert len(tries) > 1
    assert deadline.is_over


def test_a_try_that_succeeds_ends_the_waiting() -> None:
    for _ in Deadline.after(3600, "It").poll(interval_s=3600):
        break
