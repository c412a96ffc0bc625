"""Read a lab file. What is wrong with it is said with its file, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nestctl.errors import LabFileError, UsageError
from nestctl.lab.expand import Expanded, ExpansionError, Location, Row, expand_lab, list_rosters
from nestctl.lab.roster import read_roster
from nestctl.model.adopt import Adopt
from nestctl.model.declared import DeclaredGuest, DeclaredLab, DeclaredNetwork, Defaults
from nestctl.model.lab import NAME_PATTERN, Lab
from nestctl.model.quota import Quota
from nestctl.model.seed import TEMPLATES, File, Seed, User
from nestctl.model.tuning import Tuning

# More keys than any lab has: YAML's aliases make millions of them out of ten lines.
_MOST_KEYS = 100_000

_NO_NAME = "is no name: use up to 24 lower-case letters, digits and dashes, first a letter"
_MEANINGS = {
    "missing": "is missing",
    "image": "is no image: write a name, or a name and a digest, such as debian-12@sha256:HEX",
    "cdrom": "is no path from '/'",
    "profile": "is no profile's name",
    "ttl": "is no time: write a number and s, m, h or d, such as 90m, 1.5h or 14d",
    "kernel_args": "is no word of a kernel's command line: use printable characters without spaces",
    "cpu_model": "is no CPU model's name: 'virsh cpu-models x86_64' lists them",
    "cpu_features_off": "is no CPU feature's name: write it as libvirt does, in lower case",
    "accepted_risks": "is no finding about safety, such as safety.smt; 'nestctl check --untrusted' names them",
    "domain": "is no domain's name",
    "ssh": "is no way into a machine: write it as HOST, USER@HOST or USER@HOST:PORT",
    "dns": "is no IPv4 address",
    "labels": "is no label: a name has letters, digits, dots, dashes and slashes, a value at most 200 characters",
}

# What pydantic says in words of Python's and JSON's; '{...}' is of its context.
_KINDS = {
    "dict_type": "it should be a mapping of",
    "model_type": "it should be a mapping of settings",
    "tuple_type": "it should be a list",
    "string_type": "it should be a text",
    "int_type": "it should be a whole number",
    "bool_type": "it should be true or false",
    "too_short": "it should not be empty",
    "greater_than_equal": "it should be at least {ge}",
    "less_than_equal": "it should be at most {le}",
}
_MAPPINGS = {"guests": "names to guests", "networks": "names to networks"}

# Where keys of a mapping are the user's own, and which model has the keys of what is below a key.
_MODELS: Mapping[str, type[BaseModel]] = {
    "guests": DeclaredGuest,
    "networks": DeclaredNetwork,
    "adopt": Adopt,
    "quota": Quota,
    "tuning": Tuning,
    "defaults": Defaults,
    "seed": Seed,
    "users": User,
    "files": File,
}


@dataclass(frozen=True, kw_only=True)
class _Text:
    """A lab file, as far as errors have to name it."""

    source: str
    lines: Mapping[Location, int]

    def place(self, location: Location, row: Row | None = None) -> str:
        while location and location not in self.lines:
            location = location[:-1]
        return f"{self.source}:{self.lines.get(location, 1)}: " + (f"({row}) " if row else "")


# What is wrong with a lab beyond its form: where, how it goes on after the key's name, and what to do.
Complaint = tuple[Location, str, str]
Check = Callable[[Lab], Iterable[Complaint]]


def read_lab(path: Path, check: Check | None = None) -> Lab:
    """Read and check a lab file. Raises `LabFileError` for anything wrong in it, `UsageError` when it is not there.

    `check` looks at what only this machine knows: a complaint is an error in the file as well.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"There is no lab file '{path}'.", hint="Write one with 'nestctl init'.") from error
    except OSError as error:
        raise UsageError(f"The lab file '{path}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The lab file '{path}' cannot be read: {error}.") from error
    return parse_lab(text, str(path), directory=path.parent, check=check)


def parse_lab(text: str, source: str, *, directory: Path | None = None, check: Check | None = None) -> Lab:
    """Parse a lab file's text and write its guests out; `source` is how errors call it.

    Rosters are read from `directory`; without one a lab that needs them is an error.
    """
    document, lines = _parse_yaml(text, source)
    file = _Text(source=source, lines=lines)
    try:
        declared = DeclaredLab.model_validate(document, context=TEMPLATES)
    except ValidationError as error:
        raise LabFileError("\n".join(_describe(detail, file) for detail in error.errors())) from error
    rosters = _read_rosters(declared, directory, file)
    try:
        expanded = expand_lab(declared, rosters)
    except ExpansionError as error:
        place = file.place(error.origin.location, error.origin.row)
        raise LabFileError(f"{place}'{_name(error.origin.location)}' {error.said}.") from error
    try:
        lab = Lab.model_validate(expanded.document)
    except ValidationError as error:
        raise LabFileError("\n".join(_describe(detail, file, expanded) for detail in error.errors())) from error
    complaints = [*_check_risks(lab), *(check(lab) if check else ())]
    if complaints:
        raise _complain(complaints, file, expanded)
    return lab


def _check_risks(lab: Lab) -> Iterator[Complaint]:
    if lab.accepted_risks:
        # Its findings are many, and few labs name one.
        from nestctl.lab.risk import list_unknown_risks

        for index, name, hint in list_unknown_risks(lab.accepted_risks):
            yield ("accepted_risks", str(index)), f"is no finding of 'nestctl check': '{name}'", hint


def _complain(complaints: Iterable[Complaint], file: _Text, expanded: Expanded) -> LabFileError:
    said: dict[str, str] = {}
    for location, text, hint in complaints:
        origin = expanded.trace(location)
        # Guests that stand for many have one fault in common.
        said.setdefault(f"{file.place(origin.location)}'{_name(origin.location)}' {text}.", hint)
    return LabFileError("\n".join(said), hint=next((it for it in said.values() if it), ""))


def _read_rosters(lab: DeclaredLab, directory: Path | None, file: _Text) -> dict[str, tuple[Row, ...]]:
    rosters: dict[str, tuple[Row, ...]] = {}
    for location, name in list_rosters(lab):
        if name in rosters:
            continue
        if directory is None:
            raise LabFileError(f"{file.place(location)}'{_name(location)}' needs a lab file that is in a directory.")
        try:
            rosters[name] = read_roster(directory / name)
        except LabFileError as error:
            raise LabFileError(f"{file.place(location)}{error.message}") from error
    return rosters


def _parse_yaml(text: str, source: str) -> tuple[Any, Mapping[Location, int]]:
    """Parse YAML into a document, and the lines of its keys."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise LabFileError(f"{source}: the file is empty.", hint="'nestctl init' writes one to start from.")
        lines: dict[Location, int] = {}
        _note_lines(root, (), lines, source)
        return loader.construct_document(root), lines
    except RecursionError as error:
        raise LabFileError(f"{source}: it is nested too deeply.") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise LabFileError(f"{source}:{line}: this is not YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise LabFileError(f"{source}: this is not YAML: {error}.") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # What PyYAML lets through of values that are not what they seem or are tagged to be ('2020-02-30', '!!bool x').
        raise LabFileError(f"{source}: a value in it cannot be read: {error!r}.") from error


def _note_lines(node: yaml.Node, location: Location, lines: dict[Location, int], source: str) -> None:
    """Note the line of every key; a key given twice is an error (YAML readers drop the first without a word)."""
    lines.setdefault(location, node.start_mark.line + 1)
    if len(lines) > _MOST_KEYS:
        raise LabFileError(f"{source}: it has more than {_MOST_KEYS} keys and values, aliases counted.")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*location, str(key.value))
            if inner in lines:
                raise LabFileError(
                    f"{source}:{key.start_mark.line + 1}: '{_name(inner)}' is given a second time "
                    f"(first in line {lines[inner]})."
                )
            lines[inner] = key.start_mark.line + 1
            _note_lines(value, inner, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, (*location, str(index)), lines, source)


def _describe(detail: ErrorDetails, file: _Text, expanded: Expanded | None = None) -> str:
    location = tuple(str(part) for part in detail["loc"] if part != "[key]")
    row = None
    if expanded:
        origin = expanded.trace(location)
        location, row = origin.location, origin.row
    place = file.place(location, row)
    if detail["type"] == "extra_forbidden":
        return place + f"'{_name(location)}' is an unknown key.{_suggest(location)}"
    meaning = _meaning(detail, location)
    seen = "" if detail["type"] in {"missing", "value_error"} else f" (it is {_show(detail['input'])})"
    return place + f"'{_name(location) or 'the lab'}' {meaning}{seen}."


def _meaning(detail: ErrorDetails, location: Location) -> str:
    if detail["type"] == "string_pattern_mismatch":
        if NAME_PATTERN in detail.get("ctx", {}).get("pattern", ""):
            return _NO_NAME
        return next((_MEANINGS[key] for key in reversed(location) if key in _MEANINGS), _NO_NAME)
    if kind := _KINDS.get(detail["type"]):
        of = f" {_MAPPINGS.get(location[-1], 'names to texts')}" if detail["type"] == "dict_type" else ""
        return f"is wrong: {kind}{of}".format(**detail.get("ctx", {}))
    said = detail["msg"].removeprefix("Value error, ")
    return _MEANINGS.get(detail["type"]) or f"is wrong: {said[0].lower()}{said[1:]}"


def _suggest(location: Location) -> str:
    model: type[BaseModel] = next((_MODELS[key] for key in reversed(location[:-1]) if key in _MODELS), DeclaredLab)
    close = difflib.get_close_matches(location[-1], model.model_fields, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known there: {', '.join(model.model_fields)}."


def _name(location: Location) -> str:
    return ".".join(location)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
