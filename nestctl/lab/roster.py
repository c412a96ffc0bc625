"""Read a roster: one student, tenant or variant a row, from CSV with a head line or a YAML list of mappings."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from nestctl.errors import LabFileError
from nestctl.lab.expand import Row

MOST_ROWS = 5000

# Spreadsheets write semicolons where the comma is in numbers.
_DELIMITERS = ",;\t"

# What '{{ row.COLUMN }}' can name.
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def read_roster(path: Path) -> tuple[Row, ...]:
    """Read a roster. Raises `LabFileError` when it is not there or something in it is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabFileError(f"The roster '{path}' cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise LabFileError(f"The roster '{path}' cannot be read: {error}.") from error
    if path.suffix == ".csv":
        rows = tuple(parse_csv(text, str(path)))
    elif path.suffix in {".yaml", ".yml"}:
        rows = tuple(parse_yaml(text, str(path)))
    else:
        raise LabFileError(f"The roster '{path}' is neither a .csv nor a .yaml file.")
    if not rows:
        raise LabFileError(f"The roster '{path}' has no row.")
    if len(rows) > MOST_ROWS:
        raise LabFileError(f"The roster '{path}' has {len(rows)} rows, and at most {MOST_ROWS} are taken.")
    return rows


def parse_csv(text: str, source: str) -> Iterator[Row]:
    """Parse CSV as spreadsheets write it: the first line names the columns, empty lines are passed over.

    Columns are separated by what separates their names: commas, semicolons or tabs.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_find_delimiter(text), strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            values = [cell.strip() for cell in cells]
            if not any(values):
                continue
            if not columns:
                columns = _check_columns(values, f"{source}:{reader.line_num}")
            elif len(values) != len(columns):
                raise LabFileError(
                    f"{source}:{reader.line_num}: the row has {len(values)} values for {len(columns)} columns."
                )
            else:
                yield Row(source=source, line=reader.line_num, values=dict(zip(columns, values, strict=True)))
    except csv.Error as error:
        raise LabFileError(f"{source}:{reader.line_num}: this is not CSV: {error}.") from error


def _find_delimiter(text: str) -> str:
    """Find what separates columns: no name of one has any of them, so that the first line is no matter of guessing."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    return next((it for it in _DELIMITERS if it in head), ",")


def parse_yaml(text: str, source: str) -> Iterator[Row]:
    """Parse a YAML list of mappings from columns to texts or numbers."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise LabFileError(f"{source}: this is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(root, yaml.SequenceNode):
        raise LabFileError(f"{source}: a roster is a list of mappings.")
    for node in root.value:
        place = f"{source}:{node.start_mark.line + 1}"
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        if not pairs or not all(isinstance(it, yaml.ScalarNode) for pair in pairs for it in pair):
            raise LabFileError(f"{place}: a row is a mapping from columns to texts or numbers.")
        columns = _check_columns([key.value for key, _ in pairs], place)
        # As they are written: 007 stays 007.
        values = (value.value for _, value in pairs)
        yield Row(source=source, line=node.start_mark.line + 1, values=dict(zip(columns, values, strict=True)))


def _check_columns(columns: list[str], place: str) -> list[str]:
    for column in columns:
        if not _COLUMN.fullmatch(column):
            raise LabFileError(
                f"{place}: '{column}' is no name of a column: use letters, digits and underscores, first a letter."
            )
        if columns.count(column) > 1:
            raise LabFileError(f"{place}: the column '{column}' is there twice.")
    return columns
