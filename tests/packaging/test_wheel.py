"""The wheel alone, in an environment of its own: what it needs of ours comes from it, not from the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.needs import missing, need_program

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    try:
        import hatchling  # noqa: F401
    except ImportError:
        missing("'hatchling' is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    completed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in an environment that has the libraries of this one, and nothing of the checkout."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=False)
    packages = directory / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # addsitedir() would read the .pth file that points to the checkout: a plain line does not.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "libraries.pth").write_text("".join(f"{path}\n" for path in sorted(libraries)))
    return directory / "bin/python"


def run(python: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [python, "-m", "nestctl", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_everything_of_ours_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("templates", "playbooks"):
        files = {path.relative_to(CHECKOUT) for path in (CHECKOUT / kind).rglob("*") if path.is_file()}
        assert {f"nestctl/_data/{path}" for path in files} <= names
    assert not any(name.startswith(("tests/", "script/", "docs/")) for name in names)


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
        assert "nestctl = nestctl.__main__:main" in archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    required = set(re.findall(r"^Requires-Dist: ([a-z0-9-]+)[^;\n]*$", metadata, re.MULTILINE))
    assert {"typer", "rich", "jinja2", "pydantic", "paramiko", "libvirt-python", "pyyaml", "platformdirs"} <= required


def test_nothing_is_taken_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    source = (
        "import nestctl, sys; from nestctl.paths import resource; print(nestctl.__file__);"
        "print(resource('templates')); print(resource('playbooks')); print(*sys.path)"
    )
    completed = subprocess.run([installed, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=True)
    package, templates, playbooks, path = completed.stdout.splitlines()
    for found in (package, templates, playbooks):
        assert Path(found).is_relative_to(installed.parents[1])
    assert str(CHECKOUT) not in path.split()


def test_the_installed_tool_renders_a_guest(installed: Path, tmp_path: Path, own_directory: Path) -> None:
    need_program("qemu-system-x86_64", "qemu-system-x86")
    assert run(installed, "init", cwd=tmp_path).returncode == 0
    completed = run(installed, "render", "--json", cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    documents = json.loads(completed.stdout)["documents"]
    assert [it["kind"] for it in documents] == ["domain", "network", "domain"]
    assert "<name>demo-l1</name>" in documents[0]["xml"]
    assert not (own_directory / "state").exists()


def test_the_installed_agent_can_be_sent(installed: Path, tmp_path: Path) -> None:
    """`check` runs the agent's sources through a shell: they have to be in the wheel as sources."""
    completed = run(installed, "check", "--passive", "--json", cwd=tmp_path)
    assert json.loads(completed.stdout)["schema"] == "nestctl.check/2", completed.stderr
