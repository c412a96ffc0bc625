"""Make a guest of a vendor's image a hypervisor, by the playbook that makes any machine one."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from nestctl.adapters.ansible import find_reason, run_ansible
from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.errors import GuestError
from nestctl.lab.plan import GuestPlan
from nestctl.lab.verify import PREPARED_FILE, Truth
from nestctl.paths import resource

_PLAYBOOK = "l1-kvm.yml"


def needs_preparation(plan: GuestPlan, truth: Truth) -> bool:
    """Tell whether a guest is to be a hypervisor, and this nestctl's playbook has not run through in it."""
    return plan.is_hypervisor and bool(plan.place.firmware) and truth.prepared != _digest()


def prepare_hypervisor(plan: GuestPlan, shell: Shell, ssh_config: Path, deadline: Deadline) -> None:
    """Run the playbook in a guest, and note there that it has run through. Raises `GuestError` with its reason."""
    values = {"ansible_user": "root", **({"ansible_port": plan.uplink.port} if plan.uplink.port else {})}
    words = (
        f"--inventory={plan.name},",
        f"--ssh-common-args=-F {json.dumps(str(ssh_config))}",
        f"--extra-vars={json.dumps(values)}",
        str(resource("playbooks", _PLAYBOOK)),
    )
    completed = run_ansible("ansible-playbook", words, deadline=deadline, stop=deadline.stop)
    if completed.exit_code != 0:
        raise GuestError(
            f"The guest '{plan.name}' could not be made a hypervisor: {find_reason(completed)}",
            hint=f"The packages come from the guest's own sources. See 'nestctl ssh {plan.name}', and run 'nestctl up' "
            "again.",
        )
    command = ("sh", "-c", f"mkdir -p {Path(PREPARED_FILE).parent} && echo {_digest()} > {PREPARED_FILE}")
    shell.run(command, deadline=deadline).expect_success()


@cache
def _digest() -> str:
    return hashlib.sha256(resource("playbooks", _PLAYBOOK).read_bytes()).hexdigest()[:16]
