import json

import pytest

from nestctl.errors import FailedError, UsageError
from nestctl.model.samples import parse_measurement, parse_results, render_results
from tests.unit.bench.builders import call, record, results


def test_an_unknown_schema_is_named_with_the_one_that_is_read() -> None:
    text = render_results(results([record("L0")], [])).replace("nestctl.bench/1", "nestctl.bench/99")
    with pytest.raises(UsageError, match=r"'nestctl\.bench/99', and this nestctl reads 'nestctl\.bench/1'"):
        parse_results(text, source="old.json")


def test_the_place_of_a_mistake_is_named() -> None:
    document = json.loads(render_results(results([record("L0")], [call("L0", 1, "cpu", 5000)])))
    document["calls"][0]["outcomes"][0]["samples"][0]["elapsed_ns"] = 0
    with pytest.raises(UsageError, match=r"calls\.0\.outcomes\.0\.samples\.0\.elapsed_ns"):
        parse_results(json.dumps(document), source="x.json")


@pytest.mark.parametrize(
    ("place", "value"), [("surprise", 1), ("levels", []), ("ending", "whatever"), ("nestctl_version", 3)]
)
def test_what_does_not_fit_is_refused(place: str, value: object) -> None:
    document = json.loads(render_results(results([record("L0")], [call("L0", 1, "cpu", 5000)])))
    with pytest.raises(UsageError):
        parse_results(json.dumps({**document, place: value}), source="x.json")


def test_two_levels_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="name of its own"):
        results([record("L0"), record("L0")], [])


def test_an_agent_that_says_something_else_is_a_failure_of_that_machine() -> None:
    with pytest.raises(FailedError, match=r"l1.*begin_ns"):
        parse_measurement({"schema": "nestctl.measure/1"}, where="l1")
