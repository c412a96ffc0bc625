"""The main job in one go: check, image, a guest, a guest inside it, every level measured, everything removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nestctl.adapters.files import check_directory
from nestctl.bench.use_case import Measured, choose_settings, measure_lab
from nestctl.lab.converge import up
from nestctl.lab.level import Step
from nestctl.lab.parse import parse_lab
from nestctl.lab.remove import clean_up, down
from nestctl.model.lab import Lab
from nestctl.paths import resource

LAB_NAME = "quickstart"


def quickstart_lab() -> Lab:
    """Return the lab that `nestctl init` writes, under a name of its own: a lab of the user's stays untouched."""
    lab = parse_lab(resource("templates", "labs/single.yaml").read_text(), "the lab of 'nestctl init'")
    return lab.model_copy(update={"name": LAB_NAME})


def run_quickstart(
    *,
    connect: str | None,
    directory: Path,
    seed: int,
    step: Step,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Measured:
    """Bring the lab up, measure it, write the results into `directory`, and remove the lab, whatever happens."""
    check_directory(directory)
    lab = quickstart_lab()
    try:
        up(lab, connect=connect, step=step, say=say)
        measured = measure_lab(
            lab, connect=connect, settings=choose_settings(is_quick=True, seed=seed), directory=directory, step=step
        )
    except BaseException:
        clean_up(lab.name, connect=connect, step=step, warn=warn)
        raise
    down(lab.name, connect=connect, step=step, warn=warn)
    return measured
