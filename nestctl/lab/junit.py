"""Results as JUnit XML, which CI systems show: one test case a guest.

There is no standard; what Jenkins and GitLab read is the common form (https://github.com/testmoapp/junitxml).
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from nestctl.lab.reach import Outcome
from nestctl.lab.run import RunResult

# What XML 1.0 has no way to write (https://www.w3.org/TR/xml/#charsets): a terminal's escapes, most of all.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(result: RunResult) -> bytes:
    """Render results as one suite. A command that failed is a failure; a guest that has no answer, an error."""
    errors = sum(outcome.exit_code is None for outcome in result.outcomes)
    counts = {
        "tests": str(len(result.outcomes)),
        "failures": str(len(result.failed) - errors),
        "errors": str(errors),
        "skipped": "0",
        "time": f"{result.duration_s:.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(f"nestctl run {result.lab}"), **counts})
    for outcome in result.outcomes:
        _add_case(suite, outcome)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _add_case(suite: ElementTree.Element, outcome: Outcome) -> None:
    node = outcome.node
    case = ElementTree.SubElement(
        suite,
        "testcase",
        {
            "classname": ".".join((node.lab, *node.path[:-1])),
            "name": node.name,
            "time": f"{outcome.duration_s:.3f}",
        },
    )
    if node.guest.labels:
        properties = ElementTree.SubElement(case, "properties")
        for name, value in node.guest.labels.items():
            ElementTree.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    if outcome.exit_code is None:
        ElementTree.SubElement(case, "error", {"message": _clean(outcome.trouble)}).text = _clean(outcome.trouble)
    elif outcome.exit_code != 0:
        failure = ElementTree.SubElement(case, "failure", {"message": f"exit code {outcome.exit_code}"})
        failure.text = _clean(outcome.stderr or outcome.stdout)
    for name, text in (("system-out", outcome.stdout), ("system-err", outcome.stderr)):
        if text:
            ElementTree.SubElement(case, name).text = _clean(text)


def _clean(text: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
