"""The profiles that there are, and what they need of the machine that runs their guests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml

from nestctl.errors import UsageError
from nestctl.model.profile import Profile
from nestctl.paths import resource

# What a module parameter that is a switch shows when it is on (the kernel's param_get_bool).
_ON = {"Y", "1"}


def list_profiles() -> tuple[str, ...]:
    """List the profiles there are, by name: a file of templates/profiles each."""
    return tuple(sorted(path.stem for path in resource("templates", "profiles").glob("*.yaml")))


@cache
def find_profile(name: str) -> Profile:
    """Read a profile. Raises `UsageError` when there is none of this name."""
    if name not in list_profiles():
        raise UsageError(f"There is no profile '{name}'; there: {', '.join(list_profiles())}.")
    text = resource("templates", f"profiles/{name}.yaml").read_text()
    return Profile.model_validate(yaml.safe_load(text))


def warn_of_profiles(
    names: Iterable[str], *, cpu_feature: str, is_emulated: bool, root: Path = Path("/")
) -> Iterator[str]:
    """Yield what this machine lacks of what profiles need, as the end of a sentence."""
    flags = _read_flags(root / "proc/cpuinfo")
    for name in dict.fromkeys(names):
        profile = find_profile(name)
        if is_emulated:
            if profile.cpu_flags:
                yield f"the profile '{name}' is for KVM on hardware; its system may not start where that is emulated."
            continue
        if lacking := [flag for flag in profile.cpu_flags.get(cpu_feature, ()) if flag not in flags]:
            yield f"the profile '{name}' needs {', '.join(lacking)}, which this machine's CPU does not show."
        for parameter, wanted in profile.parameters.items():
            module, _, key = parameter.partition(".")
            path = root / "sys/module" / module / "parameters" / key
            seen = path.read_text().strip() if path.exists() else "absent"
            if seen != wanted and not (seen in _ON and wanted in _ON):
                yield (
                    f"the profile '{name}' needs {parameter}={wanted}, and it is {seen} here. It holds for all guests "
                    f"of this machine: echo {wanted} > {path}"
                )


def _read_flags(cpuinfo: Path) -> set[str]:
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
