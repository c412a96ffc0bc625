"""`nestctl bench` from its options to its files, over fakes instead of a lab."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nestctl.bench import use_case
from nestctl.cli.bench import bench
from nestctl.model.lab import Lab
from nestctl.model.samples import parse_results
from nestctl.paths import resource
from tests.unit.bench.builders import FakeShell, Machine

app = typer.Typer()
app.command()(bench)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab file, and in place of its guests machines whose costs are known."""

    @contextmanager
    def open_fakes(lab: Lab, *, connect: str | None) -> Iterator[tuple[Machine, ...]]:
        yield (
            Machine(name="L0", shell=FakeShell("L0", itertools.repeat(10))),
            Machine(name="l1", shell=FakeShell("l1", itertools.repeat(30)), above="L0", depth=1, is_emulated=True),
        )

    monkeypatch.setattr(use_case, "open_levels", open_fakes)
    path = tmp_path / "lab.yaml"
    path.write_bytes(resource("templates", "labs/single.yaml").read_bytes())
    return path


def test_the_table_is_printed_and_the_files_are_named(lab: Path) -> None:
    result = CliRunner().invoke(app, [str(lab), "--rounds", "3", "--output", str(lab.parent / "out")])
    assert result.exit_code == 0, result.output
    assert "EMULATED" in result.stdout
    assert "3.00× L0 [3.00–3.00]" in result.stdout
    written = sorted((lab.parent / "out").iterdir())
    assert [path.suffix for path in written] == [".html", ".json"]
    assert all(str(path) in result.stderr for path in written)


def test_json_is_what_was_written(lab: Path) -> None:
    arguments = [str(lab), "--quick", "--workload", "cpu", "--json", "--output", str(lab.parent / "out")]
    result = CliRunner().invoke(app, arguments)
    (raw,) = (lab.parent / "out").glob("*.json")
    assert json.loads(result.stdout) == json.loads(raw.read_bytes())
    results = parse_results(result.stdout, source="standard output")
    assert [workload.name for workload in results.workloads] == ["cpu"]
    assert len(results.calls) == 6
