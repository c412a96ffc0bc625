"""Nothing that is declared goes untested, and no command loads what it does not need."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import nestctl
from nestctl import errors
from nestctl.bench.html import render_report
from nestctl.bench.tune.report import render_tune_page
from nestctl.errors import NestctlError
from nestctl.lab.bundle import Student, render_card, render_index, student_of
from nestctl.lab.parse import read_lab
from nestctl.lab.plan import plan_networks
from nestctl.lab.render import render_domain, render_filter, render_network
from nestctl.model.lab import Lab
from nestctl.paths import resource
from tests.builders import class_of, host_facts, lab_of_tenants, limited_plan, plan_of_depth, plans_of
from tests.unit.bench.test_report import one_workload
from tests.unit.bench.tune.test_tune import tried
from tests.unit.cli.run import python

TESTS = Path(__file__).parents[1]
PACKAGE = Path(nestctl.__file__).parent

ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, NestctlError) and kind is not NestctlError
}


def _network() -> str:
    network = plan_of_depth(2).network
    assert network
    return render_network(network)


def _filter() -> str:
    lab = lab_of_tenants()
    (network, _) = plan_networks(lab, host_facts(lab))
    assert network.filter
    return render_filter(network.filter)


def _student() -> Student:
    lab = class_of("ann")
    return student_of(lab, plans_of(lab)[0])


TEMPLATES: dict[str, Callable[[], str]] = {
    "card.html.j2": lambda: render_card("class", _student(), None),
    "class.html.j2": lambda: render_index("class", (_student(),), None),
    "domain.xml.j2": lambda: render_domain(plan_of_depth(2)),
    "filter.xml.j2": _filter,
    "iotune.xml.j2": lambda: render_domain(limited_plan()),
    "network.xml.j2": _network,
    "report.html.j2": lambda: render_report(one_workload()),
    "tune.html.j2": lambda: render_tune_page(tried()),
}

IMPORTED = """
import json, sys
from nestctl.__main__ import main
sys.argv = ["nestctl", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
sys.stderr.write(json.dumps(sorted(sys.modules)))
"""

# A child for each module, of a parent that has loaded what does not belong to us: a module that needs another one of
# ours to have been imported before fails.
IMPORT_EACH_ALONE = """
import importlib, os, sys
import libvirt, matplotlib, jinja2, paramiko, pydantic, rich, typer, yaml
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(f"cannot be imported alone: {failed}" if failed else 0)
"""


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_raised_by_name(name: str) -> None:
    raised = re.compile(rf"raises\(\s*\(?{name}\b|, {name}, ")
    assert any(raised.search(path.read_text()) for path in TESTS.rglob("test_*.py"))


def test_every_template_is_rendered_by_name() -> None:
    assert {path.name for path in resource("templates").glob("*.j2")} == set(TEMPLATES)
    for render in TEMPLATES.values():
        assert "{{" not in render()


@pytest.mark.parametrize("path", sorted(resource("templates", "labs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_lab_that_comes_with_us_is_right(path: Path) -> None:
    assert isinstance(read_lab(path), Lab)


@pytest.mark.slow
def test_every_module_can_be_imported_alone() -> None:
    paths = (path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py"))
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "bootstrap"]
    completed = python(IMPORT_EACH_ALONE, *sorted(modules))
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], {"libvirt", "paramiko", "pydantic", "matplotlib", "jinja2", "yaml", "rich"}),
        (["--version"], {"libvirt", "paramiko", "pydantic", "matplotlib", "jinja2", "yaml"}),
        (["check", "--passive"], {"libvirt", "paramiko", "matplotlib", "jinja2", "yaml", "pydantic", "rich"}),
        (["image", "list"], {"libvirt", "paramiko", "matplotlib"}),
        (["init"], {"libvirt", "paramiko", "matplotlib"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_loads_only_what_it_needs(
    words: list[str], heavy: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    completed = python(IMPORTED, *words)
    loaded = set(json.loads(completed.stderr.splitlines()[-1]))
    assert "nestctl.cli" in loaded
    assert loaded & heavy == set()
