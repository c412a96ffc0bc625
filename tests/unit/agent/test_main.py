from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import nestctl.agent
from nestctl.agent.__main__ import main
from tests.unit.cli.run import python

SOURCES = sorted(Path(nestctl.agent.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_module_is_python_3_8(source: Path) -> None:
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_module_imports_only_the_standard_library_and_its_neighbours(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        assert not [name for name in names if name.split(".")[0] in ("nestctl", "typer", "rich", "pydantic")]


def test_facts_are_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["facts", "--passive"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "nestctl.facts/2"
    assert document["host"]["kernel"]["value"] == Path("/proc/sys/kernel/osrelease").read_text(encoding="utf-8").strip()


def test_unknown_subcommand_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["guess"])
    assert refused.value.code == 2
    assert "guess" in capsys.readouterr().err


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["facts", "--guess"])
    assert refused.value.code == 2
    assert "--guess" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "is_loaded"), [("'serve', 'measure'", True), ("'serve'", False)])
def test_an_agent_that_stays_imports_what_it_will_be_asked_before_its_first_question(
    words: str, is_loaded: bool
) -> None:
    source = "import io, sys; sys.stdin = io.StringIO(); from nestctl.agent.__main__ import main; "
    completed = python(f"{source}main([{words}]); print(*sys.modules)")
    assert ("nestctl.agent.measure" in completed.stdout.split()) is is_loaded


def test_measuring_does_not_compile_what_looking_needs() -> None:
    source = (
        "import sys; from nestctl.agent.__main__ import main; main(['measure', '--workload=syscall', '--target-ms=1'])"
    )
    completed = python(source + "; sys.stderr.write(' '.join(sys.modules))")
    assert json.loads(completed.stdout)["outcomes"][0]["samples"]
    loaded = completed.stderr.split()
    assert "nestctl.agent.exits" in loaded
    assert "nestctl.agent.facts" not in loaded
