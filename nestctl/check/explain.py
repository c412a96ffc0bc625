"""What every finding means, why it matters and how to change it. The texts are in explanations.toml."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nestctl.errors import UsageError

TEXTS = Path(__file__).with_name("explanations.toml")
LIST = "list"  # the word that asks for all names


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One table of explanations.toml: sentences, not wrapped, and the documents they rest on."""

    name: str
    means: str
    why: str
    change: str
    sources: tuple[str, ...]


@cache
def load_explanations() -> Mapping[str, Explanation]:
    """Return the explanations by the names of their findings, in the order of the file."""
    rows = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    return {
        name: Explanation(
            name=name, means=row["means"], why=row["why"], change=row["change"], sources=tuple(row["sources"])
        )
        for name, row in rows.items()
    }


def explain(name: str) -> str:
    """Return the explanation of a finding as lines of text, or all names for 'list'.

    Raises `UsageError`, with the names that are near, where there is no such finding.
    """
    explanations = load_explanations()
    if name == LIST:
        return "\n".join(explanations)
    if name not in explanations:
        near = difflib.get_close_matches(name, explanations, n=3, cutoff=0.5) or [
            known for known in explanations if name and name in known
        ]
        raise UsageError(
            f"There is no finding '{name}'.",
            hint=f"Did you mean {' or '.join(near)}?" if near else "'nestctl check --explain list' prints all names.",
        )
    return render_explanation(explanations[name])


def render_explanation(explanation: Explanation) -> str:
    """Return lines of at most 100 columns, the last with its end."""
    parts = (
        ("what it means", explanation.means),
        ("why it matters", explanation.why),
        ("how to change it", explanation.change),
        ("sources", "; ".join(explanation.sources)),
    )
    return f"{explanation.name}\n" + "".join(f"\n{title}\n{_fold(text)}\n" for title, text in parts)


def _fold(text: str) -> str:
    import textwrap

    return textwrap.fill(
        text,
        width=100,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
