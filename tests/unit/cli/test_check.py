"""`nestctl check` as a user meets it, on whatever machine the test runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nestctl.cli.check import check
from nestctl.errors import UsageError

app = typer.Typer()
app.command()(check)


def test_json_and_text_and_exit_code_agree() -> None:
    as_json, as_text = CliRunner().invoke(app, ["--json"]), CliRunner().invoke(app, [])
    document = json.loads(as_json.stdout)
    assert document["schema"] == "nestctl.check/2"
    assert as_json.exit_code == as_text.exit_code == {"yes": 0, "no": 1, "unknown": 3}[document["verdict"]]
    assert document["verdict"].upper() in as_text.stdout.splitlines()[0]
    for finding in document["findings"]:
        assert finding["name"] in as_text.stdout


def test_the_raw_answers_stand_beside_the_verdict() -> None:
    document = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert document["facts"]["schema"] == "nestctl.facts/2"
    assert set(document["facts"]["kvm"]) >= {"device", "api_version", "offers", "loop", "cpuid_exit", "nested_run"}


def test_passive_proves_nothing() -> None:
    document = json.loads(CliRunner().invoke(app, ["--json", "--passive"]).stdout)
    assert document["questions"]["can_accelerate"]["verdict"] == "unknown"
    assert "--passive" in document["questions"]["can_accelerate"]["reason"]


def machine(name: str) -> str:
    return str(Path(__file__).parents[2] / "hosts" / name)


def test_strict_ends_with_1_where_something_was_warned_about() -> None:
    weak, strong = machine("intel-old"), machine("intel-everything")
    codes = [
        CliRunner().invoke(app, ["--root", name, *strict]).exit_code
        for name in (weak, strong)
        for strict in ([], ["--strict"])
    ]
    assert codes == [0, 1, 0, 0]


@pytest.mark.parametrize("other", [["localhost"], ["--passive"], ["--record", "x.tar.gz"], ["-i", "hosts.ini"]])
def test_a_recorded_machine_excludes_what_is_about_looking_at_one(other: list[str]) -> None:
    result = CliRunner().invoke(app, ["--root", machine("intel-old"), *other])
    assert isinstance(result.exception, UsageError)
    assert "--root" in str(result.exception)


def test_untrusted_counts_safety_and_is_said_in_text_and_json() -> None:
    plain = json.loads(CliRunner().invoke(app, ["--json", "--passive"]).stdout)
    strict = CliRunner().invoke(app, ["--json", "--passive", "--untrusted"])
    document = json.loads(strict.stdout)
    assert (plain["counts_safety"], document["counts_safety"]) == (False, True)
    answers = {document["questions"][key]["verdict"] for key in ("can_accelerate", "can_nest", "safe_for_tenants")}
    verdict = "no" if "no" in answers else "unknown" if "unknown" in answers else "yes"
    assert document["verdict"] == verdict
    assert strict.exit_code == {"yes": 0, "no": 1, "unknown": 3}[verdict]
    assert "strangers" in CliRunner().invoke(app, ["--passive", "--untrusted"]).stdout.splitlines()[0]
