"""Run Ansible: read an inventory as it does, run a playbook. Nothing else in nestctl does.

Its programs are started, not imported: Ansible promises nothing about its Python interfaces.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Completed
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError, PrerequisiteError, UsageError

_ENDING_S = 5.0

HINT = (
    "Run script/setup in a checkout; elsewhere 'pipx inject nestctl ansible-core', or 'apt-get install ansible-core'."
)


def list_inventory(inventory: str, *, limit: str = "") -> Any:
    """Return what `ansible-inventory --list` says of a file, a directory or a list with commas.

    `limit` is a pattern of hosts and groups, as Ansible's option of this name takes it.

    Raises `UsageError` when Ansible cannot read it, and `PrerequisiteError` when there is no Ansible.
    """
    if "," not in inventory and not Path(inventory).exists():
        raise UsageError(f"There is no inventory '{inventory}'.")
    words = ("--inventory", inventory, "--list", *(("--limit", limit) if limit else ()))
    completed = run_ansible("ansible-inventory", words, deadline=Deadline.after(60, "Reading the inventory"))
    if completed.exit_code != 0:
        # It tries one format after the other, and says of each on many lines why not.
        said = [line for line in completed.stderr.decode(errors="replace").splitlines() if line.startswith("[")]
        raise UsageError("\n  ".join([f"Ansible cannot read the inventory '{inventory}':", *said]))
    return json.loads(completed.stdout)


def find_ansible(program: str) -> str:
    """Find one of Ansible's programs. Raises `PrerequisiteError` when there is no Ansible."""
    # A virtual environment has its own beside its Python; it need not be on PATH.
    if found := shutil.which(str(Path(sys.executable).with_name(program))) or shutil.which(program):
        return found
    raise PrerequisiteError("Ansible is not installed on this machine.", hint=HINT)


def run_ansible(
    program: str, words: Sequence[str], *, deadline: Deadline, stop: threading.Event | None = None
) -> Completed:
    """Run one of Ansible's programs; nothing is written to the home, and its files and connections end with it.

    `stop` ends it from another thread (see `LocalShell`).
    """
    found = find_ansible(program)
    # SSH's control sockets lie in it, and a socket's path has at most 107 bytes (unix(7)).
    with TemporaryDirectory(prefix="nestctl-") as directory:
        shell = LocalShell(
            environment={
                "ANSIBLE_HOME": directory,
                "ANSIBLE_LOCAL_TEMP": directory,
                "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{directory}/cp",
                "ANSIBLE_NOCOLOR": "1",
                # What is read of it: a user's configuration may want other forms.
                "ANSIBLE_STDOUT_CALLBACK": "default",
                "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
                "ANSIBLE_RETRY_FILES_ENABLED": "0",
                # One process a task there, and no file is put there first.
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_DEPRECATION_WARNINGS": "0",
                "ANSIBLE_LOCALHOST_WARNING": "0",
                "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0",
                # Else a file that it cannot read is an empty inventory.
                "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
                "ANSIBLE_INVENTORY_UNPARSED_FAILED": "1",
                "LC_ALL": "C.UTF-8",
            },
            stop=stop,
        )
        try:
            return shell.run((found, *words), deadline=deadline)
        finally:
            _end_connections(Path(directory) / "cp")


def _end_connections(sockets: Path) -> None:
    """End what ssh keeps, in a session of its own, for a next task: a minute, or as long as a machine says nothing."""
    for socket in sockets.glob("*"):
        with suppress(NestctlError):
            ending = ("ssh", "-F", "none", "-S", str(socket), "-O", "exit", "any")
            LocalShell().run(ending, deadline=Deadline.after(_ENDING_S, "Ending a connection of Ansible's"))


def find_reason(completed: Completed) -> str:
    """Say why a play failed: what its last task that failed said, else the last lines of all that was said.

    Ansible prints it as 'fatal: [HOST]: FAILED! => {JSON}'.
    """
    text = completed.text
    for found in reversed(list(re.finditer(r"^fatal: \[[^]]+\]: [A-Z]+! => ", text, re.MULTILINE))):
        try:
            document, _ = json.JSONDecoder().raw_decode(text[found.end() :])
            if said := [str(document[key]).strip() for key in ("msg", "stderr") if document.get(key)]:
                return " ".join(said)[:1500]
        except ValueError:
            pass
        break
    lines = (completed.stderr or completed.stdout).decode(errors="replace").strip().splitlines()
    return "\n  ".join([f"ansible-playbook ended with exit code {completed.exit_code}:", *lines[-6:]])
