from __future__ import annotations

import json
import re

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
