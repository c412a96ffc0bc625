"""Versions of the kernel as kernel.org counts them: '6.1.176', '7.2', '7.2-rc5', '2.6.36'. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Any

_VERSION = r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,5}))?(?:\.(\d{1,5}))?(?:-rc(\d{1,3}))?"
_WHOLE = re.compile(_VERSION, re.ASCII)
_START = re.compile(_VERSION + r"(?![\d.])", re.ASCII)


@total_ordering
@dataclass(frozen=True, kw_only=True)
class KernelVersion:
    """One version: its series, as (6, 1) or (2, 6, 36), the patch level in it, and the candidate if it is one.

    Before 3.0 a series had three numbers. A release candidate comes before what it is a candidate of.
    """

    series: tuple[int, ...]
    patch: int = 0
    candidate: int | None = None

    def __lt__(self, other: Any) -> bool:
        if not isinstance(other, KernelVersion):
            return NotImplemented
        return self._key < other._key

    def __str__(self) -> str:
        numbers = [*self.series, self.patch] if self.patch else self.series
        return ".".join(map(str, numbers)) + ("" if self.candidate is None else f"-rc{self.candidate}")

    @property
    def _key(self) -> tuple[tuple[int, ...], int, bool, int]:
        return (self.series, self.patch, self.candidate is None, self.candidate or 0)


def parse_version(text: str) -> KernelVersion:
    """Read a version that kernel.org could have given. Raises `ValueError` with a sentence for any other text."""
    if not (match := _WHOLE.fullmatch(text)) or (version := _read(match)) is None:
        raise ValueError(f"'{text}' is no version of the kernel, such as '6.1.176' or '7.2-rc5'.")
    return version


def split_release(text: str) -> tuple[KernelVersion, str] | None:
    """Split what `uname -r` says into the version it begins with and the rest, which a vendor appended.

    '6.12.0-rc3' is all version; '6.1.0-18-amd64' is 6.1 and '-18-amd64'. None: it begins with no version.
    """
    if not (match := _START.match(text)) or (version := _read(match)) is None:
        return None
    return version, text[match.end() :]


def _read(match: re.Match[str]) -> KernelVersion | None:
    major, minor, third, fourth, candidate = (None if it is None else int(it) for it in match.groups())
    if (major, minor) == (2, 6) and third is not None:
        return KernelVersion(series=(2, 6, third), patch=fourth or 0, candidate=candidate)
    if major is None or minor is None or fourth is not None:
        return None
    return KernelVersion(series=(major, minor), patch=third or 0, candidate=candidate)
