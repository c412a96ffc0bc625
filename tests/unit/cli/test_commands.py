"""The commands as users meet them: what they print, where, and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nestctl import __version__
from nestctl.cli import app
from nestctl.cli.lab import Template
from nestctl.errors import ExitCode
from nestctl.lab.parse import read_lab
from nestctl.lab.store import keep_lab
from nestctl.paths import resource
from tests.builders import lab_of_depth
from tests.needs import need_program
from tests.unit.cli.run import nestctl
from tests.unit.image.images import put_image


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def tree_of(directory: Path) -> dict[str, bytes]:
    """Everything below a directory: names, and what files contain."""
    paths = sorted(directory.rglob("*"))
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"" for path in paths}


def test_the_version_is_printed() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"nestctl {__version__}\n")


def test_help_is_grouped_and_has_examples_and_exit_codes() -> None:
    for words in (("--help",), ("-h",)):
        result = run(*words)
        assert result.exit_code == 0
        for text in ("The whole job", "This machine", "Labs", "Measuring", "Examples", "nestctl ssh l2", "Exit codes"):
            assert text in result.stdout


def test_the_commands_of_guests_stand_together() -> None:
    _, _, guests = run("--help").stdout.partition("\nGuests:\n")
    rows = guests.partition("\n\n")[0].splitlines()
    names = [row.split()[0] for row in rows if row[2:3] != " "]
    assert {"ssh", "exec", "cp", "logs", "console"} < set(names)


def test_every_command_has_help() -> None:
    for name in (
        "quickstart",
        "check",
        "image",
        "init",
        "schema",
        "render",
        "plan",
        "list",
        "audit",
        "up",
        "status",
        "ssh",
        "bench",
        "down",
        "exec",
        "cp",
        "logs",
        "console",
        "ssh-config",
        "inventory",
        "run",
        "bundle",
        "reset",
    ):
        assert run(name, "--help").exit_code == 0, name
        assert name in run("--help").stdout
    for name in ("build", "list", "verify", "rm"):
        assert run("image", name, "--help").exit_code == 0, name


@pytest.mark.parametrize(
    "words",
    [
        ("--wrong",),
        ("nonsense",),
        ("up", "--wrong"),
        ("init", "a", "b"),
        ("image", "rm"),
        ("ssh",),
        ("bench", "--rounds", "0"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == ExitCode.USAGE
    assert result.stdout == ""
    assert "Usage:" in result.stderr


@pytest.mark.parametrize("command", ["render", "up", "status", "down", "bench"])
def test_a_wrong_lab_file_is_said_with_its_line(command: str) -> None:
    Path("lab.yaml").write_text("name: demo\nguests:\n  l1:\n    memory: 1\n")
    result = run(command)
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith("nestctl: lab.yaml:4: 'guests.l1.memory' is an unknown key.")
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["render", "up", "status", "down", "bench"])
def test_without_a_lab_file_it_is_said_how_to_get_one(command: str) -> None:
    result = run(command)
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.splitlines() == [
        "nestctl: There is no lab file 'lab.yaml'.",
        "  Write one with 'nestctl init'.",
    ]


def test_init_writes_a_lab_file_that_is_right() -> None:
    result = run("init")
    assert (result.exit_code, result.stdout) == (0, "")
    assert read_lab(Path("lab.yaml")).name == "demo"
    assert Path("lab.yaml").read_bytes() == resource("templates", "labs/single.yaml").read_bytes()


def test_init_replaces_a_file_only_when_told_to() -> None:
    Path("lab.yaml").write_text("mine")
    result = run("init")
    assert result.exit_code == ExitCode.USAGE
    assert "is there already" in result.stderr
    assert Path("lab.yaml").read_text() == "mine"
    assert run("init", "--force").exit_code == 0
    assert read_lab(Path("lab.yaml")).name == "demo"


@pytest.mark.parametrize("template", list(Template))
def test_init_writes_every_template_with_what_belongs_to_it(template: Template) -> None:
    result = run("init", "--template", template.value)
    assert result.exit_code == 0
    assert read_lab(Path("lab.yaml")).guests
    written = [path.name for path in Path().iterdir()]
    assert all(f"'{name}'" in result.stderr for name in written)
    assert run("init", "--template", template.value).exit_code == ExitCode.USAGE


def test_every_template_can_be_asked_for() -> None:
    assert {path.stem for path in resource("templates", "labs").glob("*.yaml")} == set(Template)


def test_an_unknown_template_is_a_usage_error() -> None:
    result = run("init", "--template", "castle")
    assert result.exit_code == ExitCode.USAGE
    assert not Path("lab.yaml").exists()


def test_the_schema_is_the_one_in_the_documentation() -> None:
    printed = json.loads(run("schema", "lab").stdout)
    documented = Path(__file__).parents[3] / "docs/reference/lab-file.schema.json"
    assert printed == json.loads(documented.read_text())
    assert run("schema", "castle").exit_code == ExitCode.USAGE


def test_init_needs_the_directory() -> None:
    result = run("init", "nowhere/lab.yaml")
    assert result.exit_code == ExitCode.USAGE
    assert "There is no directory 'nowhere'" in result.stderr


@pytest.mark.parametrize("command", ["status", "bench", "ssh"])
def test_a_lab_that_does_not_exist_is_a_usage_error(command: str) -> None:
    result = run(command, "nothing/l1" if command == "ssh" else "nothing")
    assert result.exit_code == ExitCode.USAGE
    assert "no lab 'nothing'; labs that exist: none" in result.stderr


def test_an_unknown_guest_is_a_usage_error() -> None:
    keep_lab(lab_of_depth(2))
    result = run("ssh", "l9")
    assert result.exit_code == ExitCode.USAGE
    assert "The lab 'demo' has no guest 'l9'; it has l1, l2" in result.stderr


def test_a_guest_that_is_not_up_is_a_usage_error() -> None:
    run("init")
    result = run("ssh", "l2", "--", "uname", "-r")
    assert result.exit_code == ExitCode.USAGE
    assert "'demo' is not up" in result.stderr


def test_measuring_needs_a_lab_that_is_up() -> None:
    run("init")
    result = run("bench", "--quick")
    assert result.exit_code == ExitCode.USAGE
    assert "'demo' is not up" in result.stderr


def test_ssh_becomes_openssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script takes the place of ssh: its output is what it was given."""
    (keep_lab(lab_of_depth(2)) / "ssh_config").touch()
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\nprintf "%s|" "$@"\nexit 42\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    completed = nestctl("ssh", "demo/l2", "--", "ls", "-l", "a b")
    assert completed.returncode == 42
    assert completed.stdout.endswith("ssh_config|--|l2|ls -l 'a b'|")


def test_images_are_listed_verified_and_removed() -> None:
    assert "No image is there" in run("image", "list").stdout
    image = put_image()
    assert image.name in run("image", "list").stdout
    listed = json.loads(run("image", "list", "--json").stdout)
    assert [it["name"] for it in listed["images"]] == [image.name]
    assert run("image", "verify", image.name).exit_code == 0
    assert json.loads(run("image", "verify", image.name, "--json").stdout) == listed
    image.kernel.write_bytes(b"x")
    damaged = run("image", "verify", image.name)
    assert damaged.exit_code == ExitCode.FAILED
    assert "is damaged" in damaged.stderr
    removed = json.loads(run("image", "rm", "debian", "--json").stdout)
    assert [it["name"] for it in removed["images"]] == [image.name]
    gone = run("image", "verify", image.name)
    assert gone.exit_code == ExitCode.USAGE
    assert "There is no image" in gone.stderr


def test_an_empty_list_of_images_is_json_too() -> None:
    assert json.loads(run("image", "list", "--json").stdout) == {
        "schema": "nestctl.images/1",
        "images": [],
        "partial": [],
    }


def test_a_log_file_has_everything(tmp_path: Path) -> None:
    Path("lab.yaml").write_text("name: demo\n")
    completed = nestctl("--log-file", "all.log", "status", cwd=tmp_path)
    assert completed.returncode == ExitCode.USAGE
    assert "LabFileError" in (tmp_path / "all.log").read_text()
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize("log_file", [None, "all.log"])
def test_a_warning_is_shown_wherever_else_it_goes(log_file: str | None, tmp_path: Path) -> None:
    options = f"log_file=pathlib.Path({log_file!r})" if log_file else ""
    code = "import logging, pathlib; from nestctl.cli import _options; "
    code += f"_options({options}); logging.getLogger('nestctl.lab.guest').warning('%d %% stay', 5)"
    completed = subprocess.run((sys.executable, "-c", code), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert completed.stderr == "nestctl: warning: 5 % stay\n"
    assert not log_file or "nestctl.lab.guest: 5 % stay" in (tmp_path / log_file).read_text()


def test_a_log_file_that_cannot_be_written_is_a_usage_error() -> None:
    result = run("--log-file", "nowhere/all.log", "image", "list")
    assert result.exit_code == ExitCode.USAGE
    assert "The log file 'nowhere/all.log' cannot be written" in result.stderr


def test_events_that_cannot_be_written_are_a_usage_error() -> None:
    result = run("--events", "nowhere/events", "image", "list")
    assert result.exit_code == ExitCode.USAGE
    assert "Events cannot be written to 'nowhere/events'" in result.stderr


def test_v_says_more_on_standard_error_only() -> None:
    quiet, verbose = nestctl("render"), nestctl("-v", "render")
    assert quiet.returncode == verbose.returncode == ExitCode.USAGE
    assert "raised here" not in quiet.stderr
    assert "raised here" in verbose.stderr
    assert verbose.stdout == ""


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As with `nestctl --help | head -1`: the pipe's reader is closed before nestctl writes."""
    command = [sys.executable, "-m", "nestctl", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == 0
    assert said == b""


@pytest.mark.slow
class TestWithLibvirt:
    """Commands that ask libvirt: in processes of their own, as it keeps the embedded driver for a process's life."""

    @pytest.fixture(autouse=True)
    def prerequisites(self) -> None:
        need_program("qemu-system-x86_64", "qemu-system-x86")

    def test_render_touches_nothing_and_up_is_not_needed(self, tmp_path: Path, own_directory: Path) -> None:
        run("init")
        before = tree_of(tmp_path), tree_of(own_directory)
        text, document = nestctl("render", cwd=tmp_path), nestctl("render", "--json", cwd=tmp_path)
        assert (text.returncode, document.returncode) == (0, 0), text.stderr
        assert (tree_of(tmp_path), tree_of(own_directory)) == before
        documents = json.loads(document.stdout)["documents"]
        assert [(it["where"], it["kind"], it["name"]) for it in documents] == [
            ("this machine", "domain", "demo-l1"),
            ("l1", "network", "demo-l1"),
            ("l1", "domain", "demo-l2"),
        ]
        for it in documents:
            assert it["xml"] in text.stdout

    def test_the_status_of_what_is_not_there_is_no(self, tmp_path: Path) -> None:
        run("init")
        completed = nestctl("status", "--json", cwd=tmp_path)
        assert completed.returncode == ExitCode.NO
        document = json.loads(completed.stdout)
        assert document["is_up"] is False
        assert [it["state"] for it in document["guests"]] == ["absent"]

    def test_a_plan_touches_nothing_and_says_that_there_is_something_to_do(
        self, tmp_path: Path, own_directory: Path
    ) -> None:
        run("init", "--template", "deep")
        before = tree_of(tmp_path), tree_of(own_directory)
        text, document = nestctl("plan", cwd=tmp_path), nestctl("up", "--dry-run", "--json", cwd=tmp_path)
        assert (text.returncode, document.returncode) == (ExitCode.NO, ExitCode.NO), text.stderr
        assert (tree_of(tmp_path), tree_of(own_directory)) == before
        assert "deep: 3 to create" in text.stdout
        assert json.loads(document.stdout)["guests"][0]["guests"][0]["guests"][0]["action"] == "create"

    def test_of_no_lab_nothing_is_listed_and_nothing_found(self, tmp_path: Path, own_directory: Path) -> None:
        listed, found = nestctl("list", "--json", cwd=tmp_path), nestctl("audit", "--json", cwd=tmp_path)
        assert (listed.returncode, found.returncode) == (0, 0), listed.stderr + found.stderr
        assert json.loads(listed.stdout) == {"schema": "nestctl.list/1", "labs": []}
        assert json.loads(found.stdout) == {"schema": "nestctl.audit/1", "is_clean": True, "traces": []}
        assert "No lab is there" in nestctl("list", cwd=tmp_path).stderr
        assert "Nothing of any lab" in nestctl("audit", cwd=tmp_path).stderr
        assert nestctl("audit", "gone", cwd=tmp_path).returncode == 0
        assert nestctl("audit", "No name", cwd=tmp_path).returncode == ExitCode.USAGE
        assert tree_of(own_directory) == {}

    def test_what_was_left_is_named(self, tmp_path: Path) -> None:
        keep_lab(lab_of_depth(2))
        found = nestctl("audit", "demo", cwd=tmp_path)
        assert found.returncode == ExitCode.NO
        assert found.stdout.startswith("demo: file ")
        assert "0 of 0 running" in nestctl("list", cwd=tmp_path).stdout

    def test_removing_nothing_is_fine_and_leaves_nothing(self, tmp_path: Path, own_directory: Path) -> None:
        run("init")
        completed = nestctl("down", cwd=tmp_path)
        assert completed.returncode == 0, completed.stderr
        assert "There is nothing of the lab 'demo' to remove." in completed.stderr
        assert not (own_directory / "state").exists()

    def test_a_daemon_that_does_not_run_is_a_prerequisite(self, tmp_path: Path) -> None:
        run("init")
        completed = nestctl("status", "--connect", f"qemu:///system?socket={tmp_path / 'nobody'}", cwd=tmp_path)
        assert completed.returncode == ExitCode.NOT_FOUND_OUT
        assert "Could not connect to" in completed.stderr

    def test_a_connection_elsewhere_is_a_usage_error(self, tmp_path: Path) -> None:
        run("init")
        completed = nestctl("status", "--connect", "qemu+ssh://elsewhere/system", cwd=tmp_path)
        assert completed.returncode == ExitCode.USAGE
        assert "is not this machine's QEMU" in completed.stderr


@pytest.mark.slow
def test_a_plan_that_does_not_fit_is_shown_with_its_sums_and_refused_as_up_does(tmp_path: Path) -> None:
    Path("lab.yaml").write_text("name: huge\nguests: {one: {memory_mib: 16000000}}\n")
    for words in (("plan",), ("up", "--dry-run")):
        text, document = (nestctl(*words, *more, cwd=tmp_path) for more in ((), ("--json",)))
        assert text.returncode == document.returncode == ExitCode.NOT_FOUND_OUT, text.stderr
        assert "+ one  L1  create" in text.stdout
        assert "Memory: 16000128 MiB (one 16000128) of " in text.stdout
        assert "The guests need 16000128 MiB (one 16000128), and this machine has" in text.stderr
        room = json.loads(document.stdout)["room"]
        assert room["fits"] is False
        assert room["refusals"][0] in document.stderr
    Path("lab.yaml").write_text("name: small\nguests: {one: {memory_mib: 256}}\n")
    fits = nestctl("plan", "--json", cwd=tmp_path)
    assert fits.returncode == ExitCode.NO
    assert json.loads(fits.stdout)["room"]["memory"]["guests"] == {"one": 384}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uri", "exit_code", "said"),
    [
        ("test:///default", ExitCode.USAGE, "is not this machine's QEMU"),
        ("qemu:///embed?root=/etc/passwd", ExitCode.USAGE, "cannot be made: Not a directory."),
        ("qemu:///system?socket=/nowhere/at-all", ExitCode.NOT_FOUND_OUT, "Failed to connect socket"),
    ],
)
def test_no_image_is_built_for_a_connection_that_is_none(somewhere: Path, uri: str, exit_code: int, said: str) -> None:
    run("init")
    for command, *words in (("up",), ("quickstart",), ("run", "lab.yaml", "--", "true")):
        refused = nestctl(command, "--connect", uri, *words)
        assert refused.returncode == exit_code, refused.stderr
        assert refused.stderr.count(said) == 1
        assert "Building" not in refused.stderr
        assert "could not be removed" not in refused.stderr
