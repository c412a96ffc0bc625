"""Read a lab file. What is wrong with it is said with its file, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nestctl.errors import LabFileError, UsageError
from nestctl.model.lab import Guest, Lab

Location = tuple[str, ...]

# More keys than any lab has: YAML's aliases make millions of them out of ten lines.
_MOST_KEYS = 100_000

_MEANINGS = {
    "missing": "is missing",
    "string_pattern_mismatch": "is no name: use up to 24 lower-case letters, digits and dashes, first a letter",
}


def read_lab(path: Path) -> Lab:
    """Read and check a lab file. Raises `LabFileError` for anything wrong in it, `UsageError` when it is not there."""
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise UsageError(f"There is no lab file '{path}'.", hint="Write one with 'nestctl init'.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The lab file '{path}' cannot be read: {error}.") from error
    return parse_lab(text, str(path))


def parse_lab(text: str, source: str) -> Lab:
    """Parse a lab file's text; `source` is how errors call it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise LabFileError(f"{source}: the file is empty.", hint="'nestctl init' writes one to start from.")
        lines: dict[Location, int] = {}
        _note_lines(root, (), lines, source)
        document = yaml.safe_load(text)
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
    try:
        return Lab.model_validate(document)
    except ValidationError as error:
        raise LabFileError("\n".join(_describe(detail, lines, source) for detail in error.errors())) from error


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


def _describe(detail: ErrorDetails, lines: Mapping[Location, int], source: str) -> str:
    location = tuple(str(part) for part in detail["loc"] if part != "[key]")
    known = location
    while known and known not in lines:
        known = known[:-1]
    place = f"{source}:{lines.get(known, 1)}: "
    if detail["type"] == "extra_forbidden":
        return place + f"'{_name(location)}' is an unknown key.{_suggest(location)}"
    said = detail["msg"].removeprefix("Value error, ")
    meaning = _MEANINGS.get(detail["type"]) or f"is wrong: {said[0].lower()}{said[1:]}"
    seen = "" if detail["type"] in {"missing", "value_error"} else f" (it is {_show(detail['input'])})"
    return place + f"'{_name(location) or 'the lab'}' {meaning}{seen}."


def _suggest(location: Location) -> str:
    model: type[BaseModel] = Guest if "guests" in location[:-1] else Lab
    close = difflib.get_close_matches(location[-1], model.model_fields, n=1)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known there: {', '.join(model.model_fields)}."


def _name(location: Location) -> str:
    return ".".join(location)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
