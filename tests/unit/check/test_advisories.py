"""The table that comes with nestctl, and what it says of kernels at, before and after every fix."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nestctl.check.advisories import (
    Advisory,
    Basis,
    Release,
    Standing,
    assess_release,
    identify_release,
    load_advisories,
)
from nestctl.check.advisories.table import TABLE, parse_table, render_table
from nestctl.check.advisories.version import KernelVersion, parse_version
from nestctl.errors import UsageError

ADVISORIES = {advisory.id: advisory for advisory in load_advisories().advisories}
READ = [advisory for advisory in ADVISORIES.values() if advisory.mainline]
UNREAD = [advisory for advisory in ADVISORIES.values() if not advisory.mainline]
FIXES = [(advisory, fix) for advisory in READ for fix in (*advisory.fixed, advisory.mainline) if fix]

DEBIAN_12 = (
    "Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024)"
)


def stand(release: str, advisory: Advisory, **more: Any) -> Standing:
    return assess_release(identify_release(release), [advisory], **more)[0].standing


def name(value: Any) -> str:
    return value.id if isinstance(value, Advisory) else str(value)


def one_before(version: KernelVersion) -> KernelVersion | None:
    """The version before this one in the same series, or None where it is the series' first."""
    if version.candidate:
        return KernelVersion(series=version.series, candidate=version.candidate - 1) if version.candidate > 1 else None
    return KernelVersion(series=version.series, patch=version.patch - 1) if version.patch else None


@pytest.mark.parametrize(("advisory", "fix"), FIXES, ids=name)
def test_a_kernel_is_fixed_from_the_fix_on_and_vulnerable_before_it(advisory: Advisory, fix: KernelVersion) -> None:
    assert stand(str(fix), advisory) is Standing.FIXED
    later = KernelVersion(series=fix.series, patch=fix.patch + 1)
    assert stand(str(later), advisory) is Standing.FIXED
    if before := one_before(fix):
        assert stand(str(before), advisory) is Standing.VULNERABLE


@pytest.mark.parametrize("advisory", READ, ids=name)
def test_every_series_after_the_mainline_s_fix_is_fixed_from_its_start(advisory: Advisory) -> None:
    assert advisory.mainline
    major, minor = advisory.mainline.series[:2]
    for series in ((major, minor + 1), (major + 1, 0)):
        assert stand(f"{series[0]}.{series[1]}.0-rc1", advisory) is Standing.FIXED


@pytest.mark.parametrize("advisory", UNREAD, ids=name)
def test_without_a_record_every_kernel_is_unknown_unless_its_package_names_the_fix(advisory: Advisory) -> None:
    assert advisory.source
    for release in ("3.2.1", "6.12.110", "9.0", "5.14.0-427.el9.x86_64"):
        assert stand(release, advisory) is Standing.UNKNOWN
    assert stand("6.12.110", advisory, named_fixed=[advisory.id]) is Standing.FIXED


@pytest.mark.parametrize("advisory", READ, ids=name)
def test_what_is_older_than_the_flaw_is_not_affected_and_a_series_without_a_fix_is_vulnerable(
    advisory: Advisory,
) -> None:
    if not advisory.introduced:
        assert stand("3.2.1", advisory) is Standing.VULNERABLE
        return
    came_with = max(advisory.introduced)
    assert stand(f"{came_with}", advisory) is not Standing.NOT_AFFECTED
    if came_with.series > (3, 0):
        older = (came_with.series[0], came_with.series[1] - 1) if came_with.series[1] else (came_with.series[0] - 1, 19)
        assert stand(f"{older[0]}.{older[1]}.99", advisory) is Standing.NOT_AFFECTED
    assert stand(f"{came_with}-rc1", advisory) is not Standing.NOT_AFFECTED


@pytest.mark.parametrize(
    ("release", "cve", "standing"),
    [
        ("6.1.176", "CVE-2026-53359", Standing.VULNERABLE),
        ("6.1.177", "CVE-2026-53359", Standing.FIXED),
        ("6.1.188", "CVE-2026-64561", Standing.VULNERABLE),  # no fix listed for 6.1
        ("5.4.300", "CVE-2026-53359", Standing.VULNERABLE),
        ("7.0.12", "CVE-2026-53359", Standing.VULNERABLE),  # a series that ended before the fix
        ("5.8.18", "CVE-2026-64561", Standing.NOT_AFFECTED),
        ("2.6.35.14", "CVE-2026-53359", Standing.NOT_AFFECTED),
        ("2.6.36", "CVE-2026-53359", Standing.VULNERABLE),
        ("7.2.0-rc4", "CVE-2026-64561", Standing.VULNERABLE),
        ("7.2.0-rc5", "CVE-2026-64561", Standing.FIXED),
        ("7.2.0", "CVE-2026-64561", Standing.FIXED),
        ("6.12.110", "CVE-2026-89932", Standing.FIXED),
        ("no version", "CVE-2026-89932", Standing.UNKNOWN),
        ("5.14.0-362.24.1.el9_3.x86_64", "CVE-2026-53359", Standing.UNKNOWN),
        ("5.14.0-362.24.1.el9_3.x86_64", "CVE-2026-89931", Standing.UNKNOWN),  # 5.14 is older than the flaw: no matter
        ("6.1.79-99.167.amzn2023.x86_64", "CVE-2026-53359", Standing.UNKNOWN),
        ("6.1.190-99.167.amzn2023.x86_64", "CVE-2026-53359", Standing.FIXED),
        ("6.1.79-99.167.amzn2023.x86_64", "CVE-2026-89931", Standing.NOT_AFFECTED),
        ("6.12.95+deb13-amd64", "CVE-2026-53359", Standing.FIXED),
        ("6.12.94+deb13-amd64", "CVE-2026-53359", Standing.UNKNOWN),
    ],
)
def test_standing(release: str, cve: str, standing: Standing) -> None:
    assert stand(release, ADVISORIES[cve]) is standing


def test_a_changelog_that_names_the_cve_settles_what_a_vendor_s_number_leaves_open() -> None:
    advisory = ADVISORIES["CVE-2026-53359"]
    named = {"CVE-2026-53359"}
    assert stand("5.14.0-362.24.1.el9_3.x86_64", advisory, named_fixed=named) is Standing.FIXED
    assert stand("6.12.94+deb13-amd64", advisory, named_fixed=named) is Standing.FIXED
    assert stand("6.12.94+deb13-amd64", advisory, named_fixed={"CVE-2026-64561"}) is Standing.UNKNOWN
    # A changelog is a package's, and an upstream kernel is in none.
    assert stand("6.12.94", advisory, named_fixed=named) is Standing.VULNERABLE


@pytest.mark.parametrize(
    ("release", "banner", "signature", "basis", "version", "vendor"),
    [
        ("6.1.176", "", "", Basis.UPSTREAM, "6.1.176", ""),
        ("6.12.0-rc3", "", "", Basis.UPSTREAM, "6.12-rc3", ""),
        ("6.1.0-18-amd64", DEBIAN_12, "", Basis.VENDOR, "6.1.76", "Debian"),
        (
            "6.17-rc3-amd64",
            "Linux version 6.17-rc3-amd64 () Debian 6.17~rc3-1~exp1 (2025)",
            "",
            Basis.VENDOR,
            "6.17-rc3",
            "Debian",
        ),
        ("6.1.0-18-amd64", "", "", Basis.OPAQUE, "6.1", "Debian"),
        ("6.12.94+deb13-amd64", "", "", Basis.VENDOR, "6.12.94", "Debian"),
        ("5.15.0-91-generic", "", "Ubuntu 5.15.0-91.101-generic 5.15.131", Basis.VENDOR, "5.15.131", "Ubuntu"),
        ("5.15.0-91-generic", "", "", Basis.OPAQUE, "5.15", "Ubuntu"),
        ("6.8.0-1015-azure", "", "nonsense", Basis.OPAQUE, "6.8", "Ubuntu"),
        ("5.14.0-362.24.1.el9_3.x86_64", "", "", Basis.OPAQUE, "5.14", "Red Hat or a rebuild of it"),
        ("5.15.0-200.131.27.el9uek.x86_64", "", "", Basis.OPAQUE, "5.15", "Oracle (UEK)"),
        ("6.4.0-150600.23.7-default", "", "", Basis.OPAQUE, "6.4", "SUSE"),
        ("5.14.21-150500.55.44-default", "", "", Basis.OPAQUE, "5.14.21", "SUSE"),
        ("6.17.2-1-default", "", "", Basis.VENDOR, "6.17.2", "openSUSE"),
        ("6.1.79-99.167.amzn2023.x86_64", "", "", Basis.VENDOR, "6.1.79", "Amazon Linux"),
        ("6.17.5-200.fc42.x86_64", "", "", Basis.VENDOR, "6.17.5", "Fedora"),
        ("6.8.12-4-pve", "", "", Basis.VENDOR, "6.8.12", "Proxmox"),
        ("6.12.5-arch1-1", "", "", Basis.VENDOR, "6.12.5", "Arch Linux"),
        ("6.12.95-0-lts", "", "", Basis.VENDOR, "6.12.95", "Alpine Linux"),
        ("5.15.153.1-microsoft-standard-WSL2", "", "", Basis.OPAQUE, None, "its vendor"),
        ("6.18.44-fc-v657", "", "", Basis.VENDOR, "6.18.44", "its vendor"),
        ("6.12.5+", "", "", Basis.VENDOR, "6.12.5", "its vendor"),
        ("", "", "", Basis.OPAQUE, None, "its vendor"),
    ],
)
def test_identify_release(
    release: str, banner: str, signature: str, basis: Basis, version: str | None, vendor: str
) -> None:
    assert identify_release(release, banner=banner, signature=signature) == Release(
        text=release, version=parse_version(version) if version else None, basis=basis, vendor=vendor
    )


def test_a_release_is_named_with_what_it_is_on_where_its_number_hides_that() -> None:
    assert identify_release("6.1.0-18-amd64", banner=DEBIAN_12).title == "6.1.0-18-amd64 (on 6.1.76)"
    assert identify_release("6.12.94+deb13-amd64").title == "6.12.94+deb13-amd64"


def test_the_releases_that_carry_every_fix_are_those_of_the_facts() -> None:
    for release in ("6.6.157", "6.12.110", "6.18.51", "7.2.5", "7.3-rc1"):
        judgements = assess_release(identify_release(release), ADVISORIES.values())
        open_ones = {it.advisory.id for it in judgements if it.standing is Standing.VULNERABLE}
        harmful = {cve for cve in open_ones if ADVISORIES[cve].harm == "host" and ADVISORIES[cve].vendor != "arm64"}
        assert harmful == set(), release


def test_the_table_is_as_script_advisories_would_write_it() -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert render_table(parse_table(text, "table.json")) == text


def _row(**changes: Any) -> str:
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["advisories"]
    row = {**rows[0], **changes}
    return json.dumps({"schema": "nestctl.advisories/2", "as_of": "2026-11-25", "advisories": [row]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "is not of the schema"),
        ('{"schema": "nestctl.advisories/2"}', "has the keys"),
        ('{"schema": "nestctl.advisories/2", "as_of": "today", "advisories": []}', "'as_of' is 'today'"),
        ('{"schema": "nestctl.advisories/2", "as_of": "2026-11-25", "advisories": [3]}', "too few or too many"),
        (_row(colour="red"), r"too few or too many: \['colour'\]"),
        (_row(id="CVE-26-1"), "is no number of a CVE"),
        (_row(what=" "), "'what' is ' ' and should be text that is not empty"),
        (_row(name=3), "'name' is 3 and should be text"),
        (_row(fixed="6.1.1"), "'fixed' is '6.1.1' and should be a list of versions"),
        (_row(fixed=["6.1.x"]), "should be a version of the kernel"),
        (_row(fixed=[6.1]), "should be a version of the kernel"),
        (_row(fixed=["6.1.2", "6.1.1"]), "in rising order"),
        (_row(fixed=["6.1.1", "6.1.2"]), "of different series"),
        (_row(mainline=None, fixed=["6.1.1"]), "'mainline' is None"),
        (_row(vendor="via"), "'vendor' is 'via' and should be one of"),
        (_row(reach=1), "'reach' is 1 and should be text"),
        (_row(has_public_exploit=1), "'has_public_exploit' is 1 and should be true or false"),
    ],
)
def test_a_wrong_table_is_refused_with_row_and_column(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_table(text, "table.json")


def test_a_cve_twice_is_refused() -> None:
    document = json.loads(_row())
    document["advisories"] *= 2
    with pytest.raises(UsageError, match="has a CVE twice"):
        parse_table(json.dumps(document), "table.json")
