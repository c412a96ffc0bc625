from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.adapters.libvirt import Domain
from nestctl.errors import ExitCode, LabFileError, UsageError
from nestctl.lab.expiry import (
    NAMESPACE,
    Due,
    Expiry,
    LabExpiry,
    assess,
    extend,
    list_expiries,
    parse_expiry,
    render_expiry,
)
from nestctl.lab.parse import parse_lab
from nestctl.lab.render import render_domain
from nestctl.lab.timer import UNITS, install_units, render_unit, uninstall_units
from nestctl.model.duration import parse_duration
from tests.builders import lab_of_depth, plans_of
from tests.unit.cli.run import nestctl

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HALF_AN_HOUR = timedelta(minutes=30)


def in_(**time: float) -> datetime:
    return NOW + timedelta(**time)


def domain(lab: str, expiry: Expiry | None = None, *, is_running: bool = True) -> Domain:
    xml = render_domain(plans_of(lab_of_depth(1, lab))[0])
    if expiry:
        element = render_expiry(expiry).replace("<expiry", f"<expiry xmlns='{NAMESPACE}'")
        xml = xml.replace("</metadata>", f"{element}</metadata>")
    return Domain(name=f"{lab}-l1", is_running=is_running, xml=xml, live_xml=xml if is_running else "")


@given(st.datetimes(timezones=st.just(UTC)), st.sampled_from(["stop", "delete"]))
def test_what_is_written_is_read(at: datetime, action: str) -> None:
    expiry = Expiry(at=at.replace(microsecond=0), action=action)
    element = render_expiry(expiry).replace("<expiry", f"<expiry xmlns='{NAMESPACE}'")
    assert parse_expiry(f"<domain><metadata>{element}</metadata></domain>") == expiry


@pytest.mark.parametrize(
    "attributes", ["", "at='soon' action='stop'", "at='2026-03-01T12:00:00' action='stop'", "at='2026-03-01T12:00:00Z'"]
)
def test_what_somebody_has_damaged_never_ends_a_lab(attributes: str) -> None:
    xml = f"<domain><metadata><expiry xmlns='{NAMESPACE}' {attributes}/></metadata></domain>"
    assert parse_expiry(xml) is None


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("90m", timedelta(minutes=90)),
        ("3h", timedelta(hours=3)),
        ("14d", timedelta(days=14)),
        ("45s", timedelta(seconds=45)),
        ("1.5h", timedelta(minutes=90)),
        ("0.05d", timedelta(minutes=72)),
    ],
)
def test_times_are_read(text: str, time: timedelta) -> None:
    assert parse_duration(text) == time


@pytest.mark.parametrize(
    "text", ["", "0h", "0.0h", "0.00h", "3", "h", "-1h", "1.h", ".5h", "3 h", "3h ", "3h\n", "3w", "nan", "999999h"]
)
def test_other_times_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="is no time: write a number and s, m, h or d"):
        parse_duration(text)


def test_a_lab_file_says_how_long() -> None:
    lab = parse_lab("name: demo\nttl: 1.5h\non_expiry: delete\nguests: {l1: {}}\n", "lab.yaml")
    assert (lab.ttl, lab.on_expiry) == ("1.5h", "delete")
    with pytest.raises(LabFileError, match=r"lab.yaml:2: 'ttl' is no time: write a number"):
        parse_lab("name: demo\nttl: soon\nguests: {l1: {}}\n", "lab.yaml")
    with pytest.raises(LabFileError, match=r"lab.yaml:2: 'on_expiry' is wrong: .*'stop' or 'delete'"):
        parse_lab("name: demo\non_expiry: explode\nguests: {l1: {}}\n", "lab.yaml")


@pytest.mark.parametrize(
    ("at", "action", "is_running", "due"),
    [
        (in_(hours=1), "stop", True, Due.NOTHING),
        (in_(minutes=30), "stop", True, Due.WARN),
        (in_(minutes=10), "stop", False, Due.NOTHING),
        (NOW, "stop", True, Due.STOP),
        (in_(days=-9), "stop", True, Due.STOP),
        (in_(days=-9), "stop", False, Due.NOTHING),
        (NOW, "delete", True, Due.DELETE),
        (in_(days=-9), "delete", False, Due.DELETE),
        (in_(seconds=1), "delete", True, Due.WARN),
    ],
)
def test_what_is_due(at: datetime, action: str, is_running: bool, due: Due) -> None:
    lab = LabExpiry(lab="demo", expiry=Expiry(at=at, action=action), is_running=is_running)
    assert assess(lab, NOW, HALF_AN_HOUR) is due


def test_a_lab_without_an_end_has_none() -> None:
    lab = LabExpiry(lab="demo", expiry=None, is_running=True)
    assert assess(lab, NOW, HALF_AN_HOUR) is Due.NOTHING


def test_a_lab_ends_with_the_first_of_its_guests_and_others_are_not_ours() -> None:
    soon, later = (Expiry(at=in_(hours=hours), action="stop") for hours in (1, 2))
    stranger = Domain(name="x", is_running=True, xml="<domain/>", live_xml="")
    labs = list_expiries(
        [domain("b", later, is_running=False), stranger, domain("b", soon), domain("a"), domain("b"), domain("c", soon)]
    )
    assert labs == (
        LabExpiry(lab="a", expiry=None, is_running=True),
        LabExpiry(lab="b", expiry=soon, is_running=True),
        LabExpiry(lab="c", expiry=soon, is_running=True),
    )


def test_an_end_is_put_off_from_when_it_is_or_from_now() -> None:
    hour = timedelta(hours=1)
    assert extend(Expiry(at=in_(hours=2), action="delete"), NOW, hour) == Expiry(at=in_(hours=3), action="delete")
    assert extend(Expiry(at=in_(hours=-2), action="stop"), NOW, hour) == Expiry(at=in_(hours=1), action="stop")
    assert extend(None, NOW, hour) == Expiry(at=in_(hours=1), action="stop")


class TestTimer:
    def test_systemd_takes_the_units(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "a %place for $5/nestctl"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        monkeypatch.setenv("NESTCTL_STATE", "/my $labs/100%")
        paths = install_units(tmp_path / "units", program, "qemu:///system")
        assert [path.name for path in paths] == list(UNITS)
        if not (verifier := shutil.which("systemd-analyze")):
            pytest.skip("systemd-analyze is not installed (package 'systemd')")
        command = (verifier, "verify", "--man=no", *map(str, paths))
        verified = subprocess.run(command, capture_output=True, text=True, check=False)
        ours = [line for line in verified.stderr.splitlines() if "nestctl" in line]
        assert (verified.returncode, ours) == (0, [])

    def test_the_service_has_the_settings_of_whoever_installed_it(self) -> None:
        text = render_unit(UNITS[0], Path("/opt/n/nestctl"), "qemu:///session", {"NESTCTL_STATE": '/s "x" 5%'})
        assert 'ExecStart="/opt/n/nestctl" "expire" "--connect" "qemu:///session"\n' in text
        assert 'Environment="NESTCTL_STATE=/s \\"x\\" 5%%"\n' in text
        assert "@" not in text

    def test_a_dollar_is_doubled_where_systemd_would_read_it(self) -> None:
        text = render_unit(UNITS[0], Path("/$x/nestctl"), "qemu:///embed?root=/a$b", {"NESTCTL_STATE": "/my $labs"})
        assert 'ExecStart="/$x/nestctl" "expire" "--connect" "qemu:///embed?root=/a$$b"\n' in text
        assert 'Environment="NESTCTL_STATE=/my $labs"\n' in text

    def test_units_are_removed_again(self, tmp_path: Path) -> None:
        install_units(tmp_path, Path("/n"), None)
        assert uninstall_units(tmp_path)
        assert not uninstall_units(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_wrong_uses_are_usage_errors(self) -> None:
        both = nestctl("expire", "--install", "--uninstall")
        assert both.returncode == ExitCode.USAGE
        assert "are opposites" in both.stderr
        assert nestctl("expire", "--warn", "soon").returncode == ExitCode.USAGE
