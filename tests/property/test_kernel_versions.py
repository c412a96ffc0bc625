"""Versions of the kernel: what is written is read again, and the order is that of kernel.org."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.check.advisories import (
    Advisory,
    Harm,
    Reach,
    Standing,
    Vendor,
    assess_release,
    identify_release,
)
from nestctl.check.advisories.version import KernelVersion, parse_version, split_release

NUMBERS = st.integers(0, 999)
OLD_SERIES = st.tuples(st.just(2), st.just(6), st.integers(0, 39))
SERIES = OLD_SERIES | st.tuples(st.integers(3, 9), st.integers(0, 30))
VERSIONS = st.builds(KernelVersion, series=SERIES, patch=NUMBERS, candidate=st.none() | st.integers(1, 12))
STABLE = st.builds(KernelVersion, series=st.tuples(st.integers(3, 9), st.integers(0, 30)), patch=st.integers(1, 400))


@given(version=VERSIONS)
def test_what_is_written_is_read_again(version: KernelVersion) -> None:
    assert parse_version(str(version)) == version


@given(version=VERSIONS, rest=st.sampled_from(["", "-18-amd64", "+", "-fc-v657", "_1", "-rc", "-rcx"]))
def test_a_release_begins_with_its_version(version: KernelVersion, rest: str) -> None:
    if not rest.startswith("-rc") or version.candidate is not None:
        assert split_release(f"{version}{rest}") == (version, rest)


@given(text=st.text() | st.from_regex(r"[0-9.rc-]{0,20}"))
def test_any_text_is_a_version_or_a_sentence(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_version(text), KernelVersion)
    identify_release(text, banner=text, signature=text)


@given(versions=st.lists(VERSIONS, min_size=3, max_size=3))
def test_the_order_is_total(versions: list[KernelVersion]) -> None:
    first, second, third = sorted(versions)
    assert first <= second <= third
    assert first <= third
    assert (first == third) == (not first < third)


@given(version=VERSIONS)
def test_candidates_come_before_the_release_and_patches_after_it(version: KernelVersion) -> None:
    release = KernelVersion(series=version.series, patch=version.patch)
    candidate = KernelVersion(series=version.series, patch=version.patch, candidate=1)
    assert candidate < KernelVersion(series=version.series, patch=version.patch, candidate=2) < release
    assert release < KernelVersion(series=version.series, patch=version.patch + 1)


@given(versions=st.lists(STABLE, min_size=2, max_size=2))
def test_a_later_series_is_later_whatever_the_patch(versions: list[KernelVersion]) -> None:
    first, second = versions
    if first.series != second.series:
        assert (first < second) == (first.series < second.series)


def test_a_version_is_no_other_type() -> None:
    version = parse_version("6.1")
    with pytest.raises(TypeError):
        _ = version < "6.1"


@given(
    introduced=st.none() | VERSIONS,
    fixed=st.lists(STABLE, unique_by=lambda version: version.series),
    mainline=STABLE,
    running=VERSIONS,
)
def test_a_newer_kernel_of_a_series_is_never_less_fixed(
    introduced: KernelVersion | None, fixed: list[KernelVersion], mainline: KernelVersion, running: KernelVersion
) -> None:
    advisory = Advisory(
        id="CVE-2026-00001",
        name="",
        what="constructed",
        introduced=(introduced,) if introduced else (),
        fixed=tuple(sorted(fixed)),
        mainline=KernelVersion(series=mainline.series),
        vendor=Vendor.BOTH,
        reach=Reach.ANY,
        harm=Harm.HOST,
        has_public_exploit=False,
        source="constructed",
    )
    newer = KernelVersion(series=running.series, patch=running.patch + 1)
    before, after = (
        assess_release(identify_release(str(version)), [advisory])[0].standing for version in (running, newer)
    )
    assert Standing.UNKNOWN not in (before, after)
    if before is Standing.FIXED:
        assert after is Standing.FIXED
