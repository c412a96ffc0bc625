from __future__ import annotations

import io
import json
import re
import sys
import threading

import pytest
from rich.table import Table

from nestctl.console import print_hanging, print_json, print_result, print_rich, say, step, warn


def test_results_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    print_result("an answer")
    assert capsys.readouterr() == ("an answer\n", "")


def test_everything_else_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("by the way")
    warn("careful")
    assert capsys.readouterr() == ("", "by the way\nnestctl: warning: careful\n")


def test_json_is_json_and_readable(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "é", "list": [1]})
    text = capsys.readouterr().out
    assert json.loads(text) == {"name": "é", "list": [1]}
    assert "é" in text


def test_a_table_has_no_colours_and_no_folds_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("what", style="red")
    table.add_row("x" * 120)
    print_rich(table)
    text = capsys.readouterr().out
    assert "x" * 120 in text
    assert "\x1b" not in text


def test_a_step_says_when_it_begins_and_when_it_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with step("Booting l1"):
        begun = capsys.readouterr()
    ended = capsys.readouterr()
    assert begun.out == ended.out == ""
    assert re.fullmatch(r"\[ *\d+\.\d+s\] Booting l1 \.\.\.\n", begun.err)
    assert re.fullmatch(r"\[ *\d+\.\d+s\] Booting l1: done in \d+\.\d s\n", ended.err)


def test_a_step_that_fails_is_not_said_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), step("Booting l1"):
        raise ValueError("broken")
    assert "done" not in capsys.readouterr().err


def test_lines_hang_below_their_text_on_a_narrow_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_hanging("head      " + "word " * 6, indent=10)
    assert capsys.readouterr().out.count("\n") == 1
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    print_hanging("head      " + "word " * 6, indent=10)
    assert capsys.readouterr().out.splitlines() == ["head      word word word word", "          word word"]


def test_steps_of_several_threads_are_all_said(capsys: pytest.CaptureFixture[str]) -> None:
    def work(number: int) -> None:
        with step(f"Booting g{number}"):
            barrier.wait(timeout=20)

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split("] ")[1].split(":")[0].removesuffix(" ...") for line in lines) == sorted(
        [f"Booting g{number}" for number in range(4)] * 2
    )


def test_on_a_terminal_steps_of_several_threads_share_one_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich allows one live display; what is said meanwhile goes above it."""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    barrier = threading.Barrier(3)

    def work(number: int) -> None:
        with step(f"Booting [g{number}]"):
            barrier.wait(timeout=20)
            say(f"word of g{number}")
            barrier.wait(timeout=20)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = terminal.getvalue()
    for number in range(3):
        assert f"word of g{number}" in text
        assert f"Booting [g{number}]: done in" in text
    say("later")
    assert terminal.getvalue().endswith("later\n")
