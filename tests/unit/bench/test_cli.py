"""`nestctl bench` from its options to its files, over fakes instead of a lab."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nestctl.bench import use_case
from nestctl.bench.workloads import QUICK_WORKLOADS
from nestctl.cli import app
from nestctl.model.lab import Lab
from nestctl.model.samples import parse_results
from nestctl.paths import resource
from tests.unit.bench.builders import FakeShell, Machine


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


@pytest.mark.slow
def test_the_table_is_printed_and_the_files_are_named(lab: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(lab), "--rounds", "5", "--output", str(lab.parent / "out")])
    assert result.exit_code == 0, result.output
    assert "EMULATED" in result.stdout
    assert "3.00× L0 [3.00–3.00]" in result.stdout
    written = sorted((lab.parent / "out").iterdir())
    assert [path.suffix for path in written] == [".html", ".json"]
    assert all(str(path) in result.stderr for path in written)


def test_json_is_what_was_written(lab: Path) -> None:
    arguments = ["bench", str(lab), "--quick", "--workload", "cpu", "--json", "--output", str(lab.parent / "out")]
    result = CliRunner().invoke(app, arguments)
    (raw,) = (lab.parent / "out").glob("*.json")
    assert json.loads(result.stdout) == json.loads(raw.read_bytes())
    results = parse_results(result.stdout, source="standard output")
    assert [workload.name for workload in results.workloads] == ["cpu"]
    assert [call.is_control for call in results.calls].count(True) == 5
    assert len(results.calls) == 15


@pytest.mark.slow
def test_a_budget_that_no_round_fits_into_measures_the_quick_workloads_and_accounts_for_its_time(lab: Path) -> None:
    arguments = ["bench", str(lab), "--budget", "1s", "--json", "--output", str(lab.parent / "out")]
    results = parse_results(CliRunner().invoke(app, arguments).stdout, source="standard output")
    assert [workload.name for workload in results.workloads] == list(results.settings.workloads) == [*QUICK_WORKLOADS]
    assert any("only those of --quick were measured" in note for note in results.left_out)
    assert any("iperf3_up" in note for note in results.left_out)
    assert results.spent is not None
    assert 0 < results.spent.opening_ns < results.spent.whole_ns
    assert results.spent.boots_ns == 0


def test_a_run_is_the_default_and_can_be_named(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.parent)
    for words in ([], ["run"], [str(lab)], ["run", str(lab)]):
        result = CliRunner().invoke(app, ["bench", *words, "--rounds", "1", "--workload", "cpu"])
        assert result.exit_code == 0, result.output
        assert "CPU loop" in result.stdout
    assert [path.suffix for path in (lab.parent / "results").iterdir()].count(".json") >= 1


def test_runs_are_listed_shown_and_exported_by_name(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.parent)
    CliRunner().invoke(app, ["bench", "--rounds", "1", "--workload", "cpu"])
    (raw,) = Path("results").glob("*.json")
    Path("results/bench-broken.json").write_text("{}")
    listed = json.loads(CliRunner().invoke(app, ["bench", "list", "--json"]).stdout)
    assert [entry["name"] for entry in listed["results"]] == [raw.stem, "bench-broken"]
    assert "has no schema" in listed["results"][1]["trouble"]
    table = CliRunner().invoke(app, ["bench", "list"]).stdout
    assert "l1 EMULATED" in table
    assert "cannot be read" in table
    for name in ([], [str(raw)], [raw.stem], [raw.stem.removeprefix("bench-")]):
        shown = CliRunner().invoke(app, ["bench", "show", *name])
        assert "3.00× L0" in shown.stdout, shown.output
    assert json.loads(CliRunner().invoke(app, ["bench", "show", "--json"]).stdout) == json.loads(raw.read_bytes())
    exported = CliRunner().invoke(app, ["bench", "export", raw.stem, "--format", "md", "--output", "out.md"])
    assert (exported.exit_code, exported.stdout) == (0, "")
    assert "| Workload | L0 | l1 (EMULATED) |" in Path("out.md").read_text()
    assert CliRunner().invoke(app, ["bench", "export", "--format", "csv"]).stdout.startswith("workload,level,")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show"], "There is no result in 'results'."),
        (["show", "nothing"], "There is no result file 'nothing'; in 'results' there are: none."),
        (["export", "--format", "xls"], "There is no format 'xls'."),
        (["--budget", "5x"], "Invalid value for '--budget': '5x' is not a time"),
        (["--budget", "0"], "Invalid value for '--budget': '0' is not a time"),
        (["--budget", "8d"], "Invalid value for '--budget': '8d' is not a time from 1s to 7d"),
        (["--budget", ""], "Invalid value for '--budget': '' is not a time"),
        (["--until", "0%"], "Invalid value for '--until': '0%' is never reached"),
        (["--until", "-1"], "Invalid value for '--until': '-1' is not a percentage"),
        (["tune", "--budget", "0"], "Invalid value for '--budget': '0' is not a time"),
        (["--quick", "--full"], "'--quick' measures a part and '--full' everything"),
        (["--workload", "cpux"], "There is no workload 'cpux'"),
        (["--budget", "nan"], "'nan' is not a time"),
        (["--until", "-3%"], "'-3%' is not a percentage"),
        (["compare", "a", "b", "--threshold", "much"], "'much' is not a percentage such as 5%."),
        (["compare", "a", "b"], "There is no result file 'a'"),
    ],
)
def test_what_is_not_there_is_a_usage_error(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(use_case, "open_levels", None)  # a lab that is opened fails otherwise
    (tmp_path / "lab.yaml").write_bytes(resource("templates", "labs/single.yaml").read_bytes())
    result = CliRunner().invoke(app, ["bench", *words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.replace("│", " ").split())
