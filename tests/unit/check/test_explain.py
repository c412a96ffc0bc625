"""Every finding that a rule can give is explained, and nothing else is."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import nestctl.check.rules
from nestctl.check.explain import explain, load_explanations
from nestctl.cli.check import check
from nestctl.errors import UsageError

HOSTS = Path(__file__).parents[2] / "hosts"
RULES = Path(nestctl.check.rules.__file__).parent

app = typer.Typer()
app.command()(check)


def names_in(path: Path) -> Iterator[str]:
    """Yield the names of the findings in a module of rules, where they are given as text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "Finding":
                values = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
            elif node.func.id.endswith("unknown_finding"):
                values = node.args[:1]
        elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["name"]:
            values = [node.value]
        yield from (it.value for it in values if isinstance(it, ast.Constant) and isinstance(it.value, str))


def test_every_finding_is_explained_and_no_other() -> None:
    """A new finding needs its table in nestctl/check/explanations.toml; then run script/docs."""
    named = {name for path in RULES.glob("*.py") for name in names_in(path)}
    named |= {name for path in HOSTS.glob("*/expected.json") for name in json.loads(path.read_text())["findings"]}
    explained = set(load_explanations())
    assert (named - explained, explained - named) == (set(), set())


@pytest.mark.parametrize("explanation", load_explanations().values(), ids=lambda it: it.name)
def test_an_explanation_leaves_nothing_out(explanation: object) -> None:
    texts = vars(explanation)
    assert texts["sources"]
    for part in ("means", "why", "change"):
        assert len(texts[part]) > 20


def test_explain_prints_all_parts_and_ends_with_0() -> None:
    ended = CliRunner().invoke(app, ["--explain", "safety.ksm"])
    assert ended.exit_code == 0
    for title in ("safety.ksm", "what it means", "why it matters", "how to change it", "sources"):
        assert title in ended.stdout.splitlines()
    assert max(len(line) for line in ended.stdout.splitlines()) <= 100


def test_list_prints_every_name() -> None:
    ended = CliRunner().invoke(app, ["--explain", "list"])
    assert (ended.exit_code, ended.stdout.split()) == (0, list(load_explanations()))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("safety.kernal", "Did you mean safety.kernel"),
        ("NESTED", "prints all names"),
        ("", "prints all names"),
        ("qqqq", "prints all names"),
    ],
)
def test_a_name_that_is_none_gets_the_names_that_are_near(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"There is no finding '{name}'") as raised:
        explain(name)
    assert hint in raised.value.hint
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (["localhost"], "a target"),
        (["--inventory", "hosts.ini"], "'--inventory'"),
        (["--limit", "web"], "'--limit'"),
        (["--jobs", "2"], "'--jobs'"),
        (["--timeout", "3"], "'--timeout'"),
        (["--json"], "'--json'"),
        (["--passive", "--strict"], "'--passive' and '--strict'"),
        (["--untrusted"], "'--untrusted'"),
        (["--root", "x"], "'--root'"),
        (["--record", "x"], "'--record'"),
    ],
)
def test_what_is_about_a_check_is_refused_beside_it(other: list[str], named: str) -> None:
    ended = CliRunner().invoke(app, ["--explain", "cpu", *other])
    assert isinstance(ended.exception, UsageError)
    assert f"leave {named} out" in str(ended.exception)
    assert ended.stdout == ""
