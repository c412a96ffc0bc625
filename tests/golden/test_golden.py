"""Each directory here is a lab and a host: the XML, seeds and plan that they must give lie beside them.

    NAME/lab.yaml  NAME/facts.json                       what is given
    NAME/before.yaml  NAME/changes.txt                   for some: a lab that is up, and the plan to make it the other
    NAME/plan.json  NAME/GUEST.domain.xml  NAME/GUEST.network.xml  NAME/GUEST.seed.txt
    NAME/lab-NETWORK.network.xml  NAME/lab-NETWORK.nwfilter.xml          for a lab with networks of this machine's

`pytest tests/golden --update-golden` writes them; review the difference like code.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import re
import tarfile
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from rich.console import Console

from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.lab.addresses import allocate_networks, allocate_subnets
from nestctl.lab.cloud_seed import render_cloud_files
from nestctl.lab.compare import Change, compare
from nestctl.lab.diff import render_changes_tree
from nestctl.lab.host_facts import HostFacts
from nestctl.lab.parse import read_lab
from nestctl.lab.place import ImageFacts, host_place
from nestctl.lab.plan import GuestPlan, depth_of, plan_lab, plan_networks, walk_plans
from nestctl.lab.preview import Preview
from nestctl.lab.render import render_domain, render_filter, render_network
from nestctl.lab.seed import render_seed
from nestctl.model.quota import Quota
from nestctl.model.seed import Seed
from nestctl.model.tuning import Tuning
from tests.builders import recognizable_keys, seen
from tests.needs import missing, need_program

HERE = Path(__file__).parent
GIVEN = {"lab.yaml", "facts.json", "roster.csv", "before.yaml"}
CASES = sorted(path.parent.name for path in HERE.glob("*/facts.json"))
SCHEMAS = Path("/usr/share/libvirt/schemas")


@pytest.mark.parametrize("case", CASES)
def test_a_lab_gives_what_lies_beside_it(case: str, request: pytest.FixtureRequest) -> None:
    expected = {path.name: path.read_text() for path in (HERE / case).iterdir() if path.name not in GIVEN}
    given = render_case(HERE / case)
    if request.config.getoption("update_golden"):
        for name in expected.keys() - given.keys():
            (HERE / case / name).unlink()
        for name, text in given.items():
            (HERE / case / name).write_text(text)
        return
    assert given.keys() == expected.keys()
    for name, text in given.items():
        assert text == expected[name], f"{case}/{name} differs; see --update-golden"


def test_there_are_cases_for_every_kind_of_host_and_shape() -> None:
    assert {
        "single-kvm-intel",
        "single-kvm-amd",
        "single-tcg",
        "depth-3",
        "siblings",
        "class",
        "changed",
        "tenants",
        "cloud-image",
    } <= set(CASES)


@pytest.mark.parametrize("kind", ["domain", "network", "nwfilter"])
def test_every_document_is_valid_by_libvirts_own_schema(kind: str) -> None:
    """RELAX NG: what libvirt's parser would drop without a word is an error here."""
    xmllint = need_program("xmllint", "libxml2-utils")
    schema = SCHEMAS / f"{kind}.rng"
    if not schema.exists():
        missing(f"'{schema}' is not there (package 'libvirt0')")
    documents = [str(path) for path in sorted(HERE.glob(f"*/*.{kind}.xml"))]
    command = (xmllint, "--noout", "--relaxng", str(schema), *documents)
    completed = LocalShell().run(command, deadline=Deadline.after(60, "Validating")).expect_success()
    assert completed.stderr.count(b" validates\n") == len(documents) > 0


def test_the_schema_would_find_an_unknown_element(tmp_path: Path) -> None:
    """The test above can fail."""
    xmllint = need_program("xmllint", "libxml2-utils")
    text = (HERE / "single-tcg/l1.domain.xml").read_text().replace("<acpi/>", "<acpi/><surprise/>")
    (tmp_path / "wrong.xml").write_text(text)
    command = (xmllint, "--noout", "--relaxng", str(SCHEMAS / "domain.rng"), str(tmp_path / "wrong.xml"))
    assert LocalShell().run(command, deadline=Deadline.after(60, "Validating")).exit_code != 0


def render_case(directory: Path) -> dict[str, str]:
    """Everything that is rendered of a case, by file name."""
    lab = read_lab(directory / "lab.yaml")
    facts = json.loads((directory / "facts.json").read_text())
    routes = [ipaddress.IPv4Network(it) for it in facts["routes"]]
    subnets = allocate_subnets(depth_of(lab.guests), routes)
    host = HostFacts(
        place=host_place(
            Path(facts["directory"]),
            Path(facts["image"]),
            is_emulated=facts["is_emulated"],
            is_slow=facts["is_emulated"],
            firmware=facts.get("firmware", ""),
        ),
        cpu_feature=facts["cpu_feature"],
        image_digest=facts["image_digest"],
        subnets=subnets,
        ports=facts["ports"],
        networks=allocate_networks(lab.networks, (*routes, *subnets), {}),
        own_addresses=tuple(facts.get("own_addresses", ())),
        images={
            name: ImageFacts(**{**it, "directory": PurePosixPath(it["directory"])})
            for name, it in facts.get("images", {}).items()
        },
    )
    plans = plan_lab(lab, host)
    keys = recognizable_keys(lab.guests)
    if (directory / "before.yaml").exists():
        there = seen(plan_lab(read_lab(directory / "before.yaml"), host))
        return {"changes.txt": show_changes(lab.name, compare(plans, there))}
    files = {"plan.json": json.dumps([asdict(plan) for plan in plans], indent=2, default=_plain) + "\n"}
    for network in plan_networks(lab, host):
        files[f"lab-{network.label}.network.xml"] = render_network(network)
        if network.filter:
            files[f"lab-{network.label}.nwfilter.xml"] = render_filter(network.filter)
    for plan in walk_plans(plans):
        files[f"{plan.name}.domain.xml"] = render_domain(plan)
        files[f"{plan.name}.seed.txt"] = (
            list_cloud_seed(render_cloud_files(plan, keys))
            if plan.place.firmware
            else list_seed(render_seed(plan, keys))
        )
        if plan.network:
            files[f"{plan.name}.network.xml"] = render_network(plan.network)
    return files


def show_changes(lab: str, changes: tuple[Change, ...]) -> str:
    """What 'nestctl plan' prints."""
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(render_changes_tree(lab, Preview(guests=changes)))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def list_seed(seed: bytes) -> str:
    """A seed's files with modes and contents, as text."""
    lines = []
    with tarfile.open(fileobj=io.BytesIO(seed)) as archive:
        for entry in archive:
            kind, target = ("l", f" -> {entry.linkname}") if entry.issym() else ("d" if entry.isdir() else "-", "")
            lines.append(f"{kind}{entry.mode:04o} {entry.uid}:{entry.gid} {entry.name}{target}")
            file = archive.extractfile(entry) if entry.isfile() else None
            lines += [f"    {line}".rstrip() for line in (file.read().decode().splitlines() if file else ())]
    return "\n".join(lines) + "\n"


def list_cloud_seed(files: dict[str, str]) -> str:
    """A cloud-init seed's files, each with what it writes in words."""
    text = "".join(f"== {name}\n{content}" for name, content in files.items())
    return re.sub(r"content: (\S+)", lambda it: "content: " + repr(base64.b64decode(it[1]).decode()), text)


def _plain(value: Any) -> Any:
    if isinstance(value, Seed):
        return value.model_dump(mode="json")
    if isinstance(value, Quota | Tuning):
        return value.given()
    assert isinstance(value, PurePosixPath | GuestPlan)
    return str(value)
