"""Labs that end, on a real libvirt without a daemon: their domains are there, and none has to run for this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nestctl.errors import ExitCode
from nestctl.lab.store import keep_lab
from nestctl.paths import state_directory
from tests.builders import lab_of_depth
from tests.needs import need_program
from tests.unit.cli.run import nestctl

pytestmark = pytest.mark.slow

# In a process of its own, as libvirt keeps the embedded driver for a process's life.
DEFINE = """
import sys
from datetime import timedelta
from nestctl.adapters.uri import choose_uri
from nestctl.lab.host import open_connection
from nestctl.lab.lifetime import ensure_expiry, now_utc
from nestctl.lab.render import render_domain
from tests.builders import lab_of_depth, plans_of
for name, ttl, action, age_h in (row.split(",") for row in sys.argv[1:]):
    lab = lab_of_depth(1, name).model_copy(update={"ttl": ttl, "on_expiry": action})
    with open_connection(choose_uri(None)) as hypervisor:
        if not any(it.name == f"{name}-l1" for it in hypervisor.list_domains()):
            hypervisor.define_domain(render_domain(plans_of(lab, is_emulated=True)[0]))
        ensure_expiry(hypervisor, lab, now_utc() - timedelta(hours=int(age_h)))
"""

# While the first lab is removed, somebody puts the end of the second off.
PUT_OFF_MEANWHILE = """
from contextlib import contextmanager
from datetime import timedelta
from nestctl.lab.expire import expire_labs
from nestctl.lab.lifetime import extend_lab, now_utc
@contextmanager
def step(text, *, lab="", node="", level=0):
    assert lab == "new", lab
    extend_lab("old", timedelta(hours=9), connect=None, now=now_utc())
    yield
seen = expire_labs(
    connect=None, now=now_utc(), warn_before=timedelta(), is_dry_run=False, step=step, warn=print
)
print([(it.lab, it.due.value, it.trouble) for it in seen])
"""


def define(*rows: str) -> None:
    """Have labs of one guest: 'NAME,TTL,ACTION,AGE' with the hours for which it has been there."""
    for row in rows:
        keep_lab(lab_of_depth(1, row.split(",")[0]))
    run_python(DEFINE, *rows)


def run_python(source: str, *words: str) -> str:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    completed = subprocess.run(
        [sys.executable, "-c", source, *words], check=True, cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    )
    return completed.stdout


def expire(*words: str) -> dict[str, tuple[str, str]]:
    completed = nestctl("expire", "--json", *words)
    assert completed.returncode == 0, completed.stderr
    return {it["lab"]: (it["due"], it["action"]) for it in json.loads(completed.stdout)["labs"]}


@pytest.fixture(autouse=True)
def prerequisites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    need_program("qemu-system-x86_64", "qemu-system-x86")
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("old", "new", "kept", "ended"):
        nestctl("down", name)
    assert not state_directory().exists()


def test_what_is_over_is_deleted_and_nothing_else() -> None:
    define("old,1h,delete,2", "new,3h,delete,2", "kept,,stop,2", "ended,1h,stop,2")
    wanted = {
        "ended": ("nothing", "stop"),  # it does not run any more
        "kept": ("nothing", ""),
        "new": ("nothing", "delete"),
        "old": ("delete", "delete"),
    }
    assert expire("--dry-run") == wanted
    assert expire("--dry-run") == wanted
    assert expire() == wanted
    assert set(expire()) == {"ended", "kept", "new"}


def test_an_end_that_is_put_off_while_another_lab_is_removed_is_put_off() -> None:
    define("new,1h,delete,2", "old,1h,delete,2")
    assert run_python(PUT_OFF_MEANWHILE) == "[('new', 'delete', ''), ('old', 'nothing', '')]\n"
    assert expire("--dry-run") == {"old": ("nothing", "delete")}


def test_the_table_says_what_was_done() -> None:
    define("old,1h,delete,2", "kept,,stop,0")
    shown = nestctl("expire").stdout
    rows = [line.split() for line in shown.splitlines() if line.strip()][2:]
    assert (rows[0][0], rows[0][-1]) == ("kept", "nothing")
    assert (rows[1][0], rows[1][-2:]) == ("old", ["delete", "deleted"])
    nestctl("down", "kept")
    assert "No lab is on this machine." in nestctl("expire").stderr


def test_an_end_is_put_off() -> None:
    define("old,1h,delete,2")
    completed = nestctl("extend", "old", "2h")
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith("The lab 'old' ends ")
    assert expire() == {"old": ("nothing", "delete")}
    again = json.loads(nestctl("extend", "old", "1h", "--json").stdout)
    assert (again["schema"], again["lab"], again["action"]) == ("nestctl.extend/1", "old", "delete")
    assert datetime.fromisoformat(again["expires"]) > datetime.now(UTC)
    assert nestctl("extend", "old", "soon").returncode == ExitCode.USAGE
    absent = nestctl("extend", "nothing", "1h")
    assert absent.returncode == ExitCode.USAGE
    assert "labs that exist: 'old'" in absent.stderr


def test_up_begins_the_time_anew_only_when_it_is_over() -> None:
    define("old,1h,delete,2", "new,3h,delete,2")
    before = json.loads(nestctl("expire", "--dry-run", "--json").stdout)["labs"]
    define("old,1h,delete,0", "new,3h,delete,0")
    after = json.loads(nestctl("expire", "--dry-run", "--json").stdout)["labs"]
    assert [it["due"] for it in before] == ["nothing", "delete"]
    assert [it["due"] for it in after] == ["nothing", "nothing"]
    assert before[0]["expires"] == after[0]["expires"]
    assert before[1]["expires"] < after[1]["expires"]
