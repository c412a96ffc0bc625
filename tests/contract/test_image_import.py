"""Images from a web server on this machine, good and bad, and from files; nothing is faked but their content."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import random
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestctl.adapters import http
from nestctl.adapters.process import LocalShell
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, UnreachableError, UsageError
from nestctl.image import download
from nestctl.image.download import downloads_directory, list_partial
from nestctl.image.store import images_directory, list_images, resolve_image
from tests.contract.file_server import Files, serve
from tests.needs import need_program
from tests.unit.cli.run import nestctl

pytestmark = pytest.mark.slow


def disk(seed: int = 1, size: int = 3 << 20) -> bytes:
    """A raw disk with a boot sector and something in it."""
    head = b"\xfa".ljust(446, b"\0") + struct.pack("<4xB11x", 0x83).ljust(64, b"\0") + b"\x55\xaa"
    return head + random.Random(seed).randbytes(size - len(head))  # noqa: S311


DISK = disk()
SHA256, SHA512 = hashlib.sha256(DISK).hexdigest(), hashlib.sha512(DISK).hexdigest()


@pytest.fixture(autouse=True)
def _qemu_img() -> None:
    need_program("qemu-img", "qemu-utils")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setenv("no_proxy", "*")
    with serve(Files(contents={"/v/cloud.img": DISK})) as it:
        yield it


def imported(*words: str, code: int = 0) -> str:
    completed = nestctl("image", "import", *words)
    assert completed.returncode == code, completed.stderr
    assert "Traceback" not in completed.stderr
    return completed.stdout + completed.stderr


def content_of(name: str) -> bytes:
    """What a guest made from an image would find on its disk."""
    raw = resolve_image(name).directory.parent / "raw"
    command = ("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(resolve_image(name).disk), str(raw))
    LocalShell().run(command, deadline=Deadline.after(30, "qemu-img")).expect_success()
    content = raw.read_bytes()
    raw.unlink()
    return content


def expect_clean() -> None:
    """Nothing half-made is in the store, nothing of the download is left."""
    assert list(downloads_directory().glob("*")) == []
    if images_directory().exists():
        assert {it.name for it in images_directory().iterdir()} == {".lock", *(it.name for it in list_images())}


def test_an_image_is_imported_with_its_checksum_and_found_by_its_name(files: Files) -> None:
    said = imported(f"{files.url}/v/cloud.img", "--checksum", f"sha256:{SHA256}", "--name", "cloud-1")
    assert f"cloud-1-{SHA256[:12]}" in said
    image = resolve_image(f"cloud-1@sha256:{SHA256}")
    assert content_of("cloud-1") == DISK
    assert resolve_image(f"cloud-1@sha512:{SHA512}") == resolve_image("cloud-1") == image
    assert image.source
    assert (image.source.firmware, image.source.virtual_bytes) == ("bios", len(DISK))
    assert nestctl("image", "verify", "cloud-1").returncode == 0
    expect_clean()
    before = len(files.requests)
    assert "is there already" in imported(
        f"{files.url}/v/cloud.img", "--checksum", f"sha256:{SHA256}", "--name", "cloud-1"
    )
    assert len(files.requests) == before


@pytest.mark.parametrize(
    "listed", [f"{SHA256} *cloud.img\n", f"SHA512 (cloud.img) = {SHA512}\n"], ids=["SHA256SUMS", "CHECKSUM"]
)
def test_the_vendors_list_is_taken_from_a_server_or_a_file(files: Files, tmp_path: Path, listed: str) -> None:
    files.contents["/v/SUMS"] = listed.encode()
    said = imported(f"{files.url}/v/cloud.img", "--checksum-file", f"{files.url}/v/SUMS")
    assert "comes unencrypted" in said
    (tmp_path / "SUMS").write_text(listed)
    again = imported(f"{files.url}/v/cloud.img", "--checksum-file", str(tmp_path / "SUMS"), "--name", "other")
    assert "unencrypted" not in again
    assert [it.source.title for it in list_images() if it.source] == ["cloud", "other"]


def test_without_a_checksum_it_is_refused_unless_told_so(files: Files) -> None:
    said = imported(f"{files.url}/v/cloud.img", code=2)
    assert f"--checksum-file {files.url}/v/SHA256SUMS" in said
    assert files.requests == []
    assert "nothing says that this is the vendor's image" in imported(f"{files.url}/v/cloud.img", "--no-verify")
    assert "(unchecked)" in nestctl("image", "list").stdout
    assert "exclude each other" in imported("x", "--no-verify", "--checksum", f"sha256:{SHA256}", code=2)


def test_another_checksum_is_an_error_and_nothing_stays(files: Files) -> None:
    said = imported(f"{files.url}/v/cloud.img", "--checksum", f"sha256:{'0' * 64}", code=4)
    assert f"its checksum is sha256:{SHA256}, not sha256:{'0' * 64}" in said
    assert list_images() == ()
    expect_clean()


@pytest.mark.parametrize("cuts", [[1 << 20], [1 << 20, 0, 500_000], [10]])
def test_a_transfer_that_breaks_off_goes_on(files: Files, cuts: list[int]) -> None:
    files.cuts = list(cuts)
    imported(f"{files.url}/v/cloud.img", "--checksum", f"sha256:{SHA256}")
    assert content_of("cloud") == DISK
    ranges = [asked for _, asked in files.requests]
    assert ranges[:2] == ["", f"bytes={cuts[0]}-"]
    assert len(ranges) == 1 + len(cuts)


@pytest.mark.parametrize("change", [{"has_ranges": False}, {"has_tags": False}], ids=["no ranges", "no tags"])
def test_a_server_that_cannot_go_on_sends_it_all_again(files: Files, change: dict[str, bool]) -> None:
    files.cuts = [1 << 20]
    for name, value in change.items():
        setattr(files, name, value)
    imported(f"{files.url}/v/cloud.img", "--checksum", f"sha256:{SHA256}")
    assert content_of("cloud") == DISK


def test_a_server_that_always_promises_more_is_given_up(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_FIRST_PAUSE_S", 0.001)
    files.lie = 100
    with pytest.raises(UnreachableError, match=f"broke off after {len(DISK)} bytes of the {len(DISK) + 100}"):
        download.fetch(f"{files.url}/v/cloud.img", "cloud", lambda *_: None)
    assert [it.title for it in list_partial()] == ["cloud"]
    # Every second request is for the part that was promised, which there is not.
    assert len(files.requests) <= 2 * download._TRIES + 1


def test_a_length_that_is_too_short_is_found_by_the_checksum(files: Files) -> None:
    files.lie = -1000
    assert "is not the image that was wanted" in imported(
        f"{files.url}/v/cloud.img", "--checksum", f"sha256:{SHA256}", code=4
    )
    expect_clean()


def test_a_busy_server_is_asked_again(files: Files) -> None:
    files.cuts = [1000]
    imported(f"{files.url}/v/cloud.img", "--checksum", f"sha256:{SHA256}")
    files.statuses = [503]
    assert "503" in imported(f"{files.url}/v/cloud.img", "--no-verify", "--name", "busy", code=3)
    expect_clean()


def test_a_file_that_has_changed_meanwhile_is_not_glued_to_its_old_part(files: Files) -> None:
    files.cuts = [1 << 20]
    url, first = f"{files.url}/v/cloud.img", True
    original = http.open_url

    def change_then_open(*words: str, **options: object) -> object:
        nonlocal first
        if not first:
            files.contents["/v/cloud.img"] = disk(2)
        first = False
        return original(*words, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "open_url", change_then_open)
        partial = download.fetch(url, "cloud", lambda *_: None)
    assert partial.data.read_bytes() == disk(2)


def test_redirects_are_followed_but_not_out_of_encryption(files: Files) -> None:
    files.redirects = {
        "/latest": "/v/cloud.img",
        "/round": "/round",
        "/file": "file:///etc/passwd",
        "/ftp": "ftp://a/b",
    }
    imported(f"{files.url}/latest", "--checksum", f"sha256:{SHA256}", "--name", "moved")
    assert content_of("moved") == DISK
    assert "302" in imported(f"{files.url}/round", "--no-verify", code=4)
    assert "302" in imported(f"{files.url}/file", "--no-verify", code=4)
    assert "is no URL that can be fetched" in imported(f"{files.url}/ftp", "--no-verify", code=2)
    expect_clean()


def test_a_redirect_from_https_to_http_is_refused() -> None:
    """Asked of the handler itself: a server with a certificate would only be asked for its certificate."""
    import urllib.request
    from http.client import HTTPMessage
    from io import BytesIO

    request = urllib.request.Request("https://vendor.example/cloud.img")
    redirect = (request, BytesIO(), 302, "Found", HTTPMessage())
    assert http._Redirects().redirect_request(*redirect, "https://mirror.example/a")
    with pytest.raises(FailedError, match="from an encrypted connection to one that is not"):
        http._Redirects().redirect_request(*redirect, "http://mirror.example/a")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{url}/v/none.img"], 2, "There is no file"),
        (["http://127.0.0.1:1/cloud.img"], 3, "does not answer: Connection refused."),
        (["ftp://example.org/cloud.img"], 2, "is no URL that can be fetched"),
        (["http://[/cloud.img"], 2, "is no URL"),
        (["/nonexistent/cloud.img"], 2, "cannot be read: No such file"),
        (["/"], 2, "has no name"),
        (["{url}/v/cloud.img", "--name", "A B"], 2, "is no name of an image"),
        (["{url}/v/page.html"], 2, "no disk image but a web page"),
    ],
)
def test_what_cannot_be_imported_is_said(files: Files, words: list[str], code: int, said: str) -> None:
    files.contents["/v/page.html"] = b"<html>Sorry</html>"
    assert said in imported(*(it.format(url=files.url) for it in words), "--no-verify", code=code)
    assert list_images() == ()
    expect_clean()


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress], ids=["gz", "xz", "bz2"])
def test_a_packed_image_is_unpacked_and_checked_as_the_vendor_has_it(files: Files, pack: object) -> None:
    packed = pack(DISK)  # type: ignore[operator]
    files.contents["/v/cloud.raw.xz"] = packed
    imported(f"{files.url}/v/cloud.raw.xz", "--checksum", f"sha256:{hashlib.sha256(packed).hexdigest()}")
    assert content_of("cloud") == DISK
    files.contents["/v/half.raw.xz"] = packed[:-2000]
    assert "cannot be unpacked" in imported(f"{files.url}/v/half.raw.xz", "--no-verify", code=2)
    files.contents["/v/bad.raw.xz"] = packed[:5000] + bytes(5000) + packed[10000:]
    assert "cannot be unpacked" in imported(f"{files.url}/v/bad.raw.xz", "--no-verify", code=2)
    expect_clean()


def test_a_qcow2_is_made_anew_and_one_with_a_backing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(DISK)
    for words in (
        ("convert", "-f", "raw", "-O", "qcow2", str(tmp_path / "raw"), str(tmp_path / "cloud.img")),
        ("create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", str(tmp_path / "evil.img"), "1M"),
    ):
        LocalShell().run(("qemu-img", *words), deadline=Deadline.after(30, "qemu-img")).expect_success()
    imported(str(tmp_path / "cloud.img"), "--no-verify")
    assert content_of("cloud") == DISK
    assert "has a backing file" in imported(str(tmp_path / "evil.img"), "--no-verify", code=2)
    expect_clean()


def test_an_interrupted_download_is_listed_goes_on_and_can_be_removed(files: Files) -> None:
    files.slowness = (200_000, 0.1)
    url = f"{files.url}/v/cloud.img"

    def interrupt() -> None:
        command = ["env", "--default-signal=INT", sys.executable, "-m", "nestctl", "image", "import", url]
        with subprocess.Popen(
            [*command, "--checksum", f"sha256:{SHA256}"], stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr
            end = Deadline.after(30, "The beginning of the download")
            for _ in end.poll(0.01):
                if any(it.received_bytes for it in list_partial()):
                    break
            process.send_signal(signal.SIGINT)
            assert "interrupted" in process.stderr.read()
        assert process.returncode == 130

    interrupt()
    (partial,) = json.loads(nestctl("image", "list", "--json").stdout)["partial"]
    assert 0 < partial["received_bytes"] < partial["total_bytes"] == len(DISK)
    assert "(partial)" in nestctl("image", "list").stdout
    assert "removed what was downloaded" in nestctl("image", "rm", "cloud").stdout
    expect_clean()
    interrupt()
    received = list_partial()[0].received_bytes
    files.slowness = (1 << 20, 0.0)
    imported(url, "--checksum", f"sha256:{SHA256}")
    assert files.requests[-1] == ("/v/cloud.img", f"bytes={received}-")
    assert content_of("cloud") == DISK
    expect_clean()


def test_two_imports_at_once_fetch_it_once(files: Files) -> None:
    files.slowness = (300_000, 0.02)
    words = (f"{files.url}/v/cloud.img", "--checksum", f"sha256:{SHA256}")
    threads = [threading.Thread(target=imported, args=words) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files.requests == [("/v/cloud.img", "")]
    assert len(list_images()) == 1
    expect_clean()


def test_of_two_versions_the_last_one_is_meant_and_a_pin_means_its_own(tmp_path: Path) -> None:
    other = hashlib.sha256(disk(2)).hexdigest()
    for content in (DISK, disk(2)):
        (tmp_path / "cloud.img").write_bytes(content)
        imported(str(tmp_path / "cloud.img"), "--no-verify")
    created = {it.source.sha256: it for it in list_images() if it.source}
    document = json.loads((created[SHA256].directory / "image.json").read_text())
    document["created"] = "2020-01-01T00:00:00+00:00"
    (created[SHA256].directory / "image.json").write_text(json.dumps(document))
    assert resolve_image("cloud").directory == created[other].directory
    assert resolve_image(f"cloud@sha256:{SHA256}").directory == created[SHA256].directory
    with pytest.raises(UsageError, match="is not the one that is wanted") as raised:
        resolve_image(f"cloud@sha256:{'1' * 64}")
    assert f"--name cloud --checksum sha256:{'1' * 64}" in raised.value.hint
    with pytest.raises(UsageError, match="There is no image 'clown'") as raised:
        resolve_image("clown")
    assert "nestctl image import FILE|URL --name clown" in raised.value.hint
    assert nestctl("image", "rm", "cloud").returncode == 2
    assert len(list_images()) == 2
