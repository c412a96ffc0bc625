"""Parsers of text that comes from outside: whatever it is, they give a value or nestctl's own error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.errors import NestctlError
from nestctl.image.recipe import parse_os_release, parse_sources, select_sources
from nestctl.image.store import parse_manifest
from nestctl.lab.addresses import parse_routes, parse_subnets
from nestctl.lab.admission import parse_available_mib
from nestctl.lab.parse import parse_lab
from nestctl.lab.render import NAMESPACE, parse_mark
from nestctl.lab.roster import parse_csv, parse_yaml
from nestctl.lab.verify import parse_truth


def _domain_with(settings: str) -> str:
    """A domain of ours whose settings somebody has edited; libvirt keeps the document well formed."""
    text = "".join(character for character in settings if character.isprintable())
    mark = (
        f"<n:guest xmlns:n='{NAMESPACE}' lab='a' name='b' level='1'><n:settings>{escape(text)}</n:settings></n:guest>"
    )
    return f"<domain><metadata>{mark}</metadata></domain>"


PARSERS: dict[str, Callable[[str], Any]] = {
    "parse_lab": lambda text: parse_lab(text, "lab.yaml"),
    "parse_lab, tags": lambda text: parse_lab(text, "lab.yaml"),
    "parse_manifest": parse_manifest,
    "parse_os_release": parse_os_release,
    "parse_routes": lambda text: list(parse_routes(text)),
    "parse_sources of lines": lambda text: list(select_sources(parse_sources(".list", text), "bookworm")),
    "parse_sources of paragraphs": lambda text: list(select_sources(parse_sources(".sources", text), "bookworm")),
    "parse_truth": parse_truth,
    "parse_available_mib": parse_available_mib,
    "parse_csv": lambda text: list(parse_csv(text, "roster.csv")),
    "parse_yaml": lambda text: list(parse_yaml(text, "roster.yaml")),
    "parse_subnets": lambda text: list(parse_subnets(text)),
    "parse_mark": lambda text: parse_mark(_domain_with(text)),
}

# Text alone seldom gets past the first token: pieces of what is expected, shuffled, get further.
PIECES = {
    "parse_lab": ["name: ", "guests:", " {", "}", "[", "]", "l1", "&a ", "*a", "<<: ", "? ", "- ", "---", "%YAML 9"],
    "parse_lab, tags": ["name: ", "!!bool ", "!!int ", "!!timestamp ", "!!binary ", "!!set ", "2020-13-45", "1:99:99"],
    "parse_manifest": [
        '{"schema": ',
        '"nestctl.image/1"',
        ', "name": ',
        '"a"',
        "}",
        "[]",
        "null",
        "1e999",
        '"sha256": ',
    ],
    "parse_routes": [
        "Iface\n",
        "eth0 0001A8C0 0 1 0 0 0 ",
        "eth0 FFFFFFFFFF 0 1 0 0 0 ",
        "eth0\t",
        "0001A8C0\t",
        "FFFFFFFF\t",
        "00FF00FF\t",
        "zz\t",
        "0\t",
        "FFFFFFFFFF\t",
    ],
    "parse_sources of lines": [
        "deb ",
        "deb-src ",
        "[signed-by=/k] ",
        "[ ",
        "] ",
        "http://x ",
        "bookworm ",
        "main",
        "#",
    ],
    "parse_sources of paragraphs": [
        "Types: deb",
        "URIs: ",
        "Suites: bookworm",
        "Signed-By:",
        " .",
        ":",
        "http://x",
        "#",
    ],
    "parse_available_mib": ["MemAvailable:", " 12 ", "kB", "x", "-1"],
}


@pytest.mark.parametrize("parser", PARSERS)
@given(data=st.data())
def test_nothing_else_is_raised(parser: str, data: st.DataObject) -> None:
    pieces = st.sampled_from([*PIECES.get(parser, ["="]), "\n", " ", "\n  "])
    text = data.draw(st.lists(pieces | st.text(max_size=5), max_size=25).map("".join) | st.text())
    with contextlib.suppress(NestctlError):
        PARSERS[parser](text)
