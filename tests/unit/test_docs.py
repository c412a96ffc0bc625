"""The pages of docs/ that are made from the code are what the code says now, and no link in docs/ is dead."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nestctl.errors import ExitCode

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_reference_pages_are_up_to_date() -> None:
    checked = subprocess.run(
        (sys.executable, str(ROOT / "script/docs"), "--check"), capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs/reference/exit-codes.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == sorted(ExitCode)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    dead = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert dead == []
