from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestctl.errors import UsageError
from nestctl.image.checksums import Checksum, find_checksum, name_of, parse_checksum, parse_checksums

SHA256, SHA512 = hashlib.sha256(b"x").hexdigest(), hashlib.sha512(b"x").hexdigest()
OTHER = hashlib.sha256(b"y").hexdigest()

# As on the vendor's server, but for the digests: the layout is what is read.
FEDORA = f"""\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

# Fedora-Cloud-Base-Generic-41-1.4.x86_64.qcow2: 491716608 bytes
SHA256 (Fedora-Cloud-Base-Generic-41-1.4.x86_64.qcow2) = {SHA256}
# Fedora-Cloud-Base-UEFI-UKI-41-1.4.x86_64.qcow2: 526909440 bytes
SHA256 (Fedora-Cloud-Base-UEFI-UKI-41-1.4.x86_64.qcow2) = {OTHER}
-----BEGIN PGP SIGNATURE-----

iQIzBAEBCAAdFiEEOeEqSUfYOHg5s2fZL4hxKuQ5Hr4FAmcb0h0ACgkQL4hxKuQ5
Hr7xzg//UGzJ1V9Gh8y2b7R0ZrVhJw==
=abcd
-----END PGP SIGNATURE-----
"""
UBUNTU = f"{SHA256} *noble-server-cloudimg-amd64.img\n{OTHER} *noble-server-cloudimg-amd64.ova\n"
DEBIAN = f"{SHA512}  debian-12-genericcloud-amd64.qcow2\n"
ROCKY = f"# Rocky-9-GenericCloud.qcow2: 1 bytes\nSHA256 (Rocky-9-GenericCloud.qcow2) = {SHA256}\n"
ARCH = f"{SHA256}  ./Arch-Linux-x86_64-cloudimg.qcow2\n"


@pytest.mark.parametrize(
    ("text", "name", "digest"),
    [
        (FEDORA, "Fedora-Cloud-Base-Generic-41-1.4.x86_64.qcow2", SHA256),
        (FEDORA, "Fedora-Cloud-Base-UEFI-UKI-41-1.4.x86_64.qcow2", OTHER),
        (UBUNTU, "noble-server-cloudimg-amd64.img", SHA256),
        (DEBIAN, "debian-12-genericcloud-amd64.qcow2", SHA512),
        (ROCKY, "Rocky-9-GenericCloud.qcow2", SHA256),
        (ARCH, "Arch-Linux-x86_64-cloudimg.qcow2", SHA256),
        (f"{SHA256}\n", "whatever.img", SHA256),
        (f"{SHA256.upper()}  a b.img\r\n", "a b.img", SHA256),
        (f"{SHA256}  a.img\n{SHA512}  a.img\n", "a.img", SHA512),
        (f"{SHA256}  a.img\n{SHA256}  a.img\n", "a.img", SHA256),
        (f"SHA512 (a.img) = {SHA512}", "a.img", SHA512),
    ],
)
def test_vendors_lists_are_read(text: str, name: str, digest: str) -> None:
    assert find_checksum(text, name, "LIST").digest == digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (UBUNTU, "'LIST' has no SHA-256 or SHA-512 of 'a.img'; it has noble-server"),
        ("", "'LIST' has no SHA-256 or SHA-512 of 'a.img'."),
        (f"{'0' * 32}  a.img", "has no SHA-256"),
        (f"SHA256 (a.img) = {SHA512}", "has no SHA-256"),
        (f"{SHA256}  a.img.sig", "it has a.img.sig"),
        (f"{SHA256}  a.img\n{OTHER}  a.img\n", "two different checksums of 'a.img'"),
        (f"{SHA256}\n{OTHER}\n", "has no SHA-256"),
    ],
)
def test_what_is_not_listed_is_said(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_checksum(text, "a.img", "LIST")
    assert said in raised.value.message


@pytest.mark.parametrize("text", [f"sha256:{SHA256}", f" SHA256:{SHA256.upper()}", f"sha512:{SHA512}"])
def test_a_checksum_is_read_as_it_is_written(text: str) -> None:
    assert str(parse_checksum(text)) == text.strip().lower()


@pytest.mark.parametrize(
    "text", ["", SHA256, f"sha512:{SHA256}", "sha256:xyz", f"md5:{'0' * 32}", "sha256:" + "g" * 64]
)
def test_what_is_no_checksum_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no checksum"):
        parse_checksum(text)


def test_the_name_of_a_file_is_the_end_of_its_path() -> None:
    assert name_of("https://example.org/a/b%20c.img?x=1#y") == "b c.img"
    assert name_of("/var/tmp/b#c.img") == "b#c.img"
    assert name_of("https://example.org/") == ""


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ()=_.+-]{0,30}[A-Za-z0-9]", fullmatch=True)
CHECKSUMS = st.sampled_from(["sha256", "sha512"]).flatmap(
    lambda it: st.binary(max_size=9).map(lambda data: Checksum(algorithm=it, digest=hashlib.new(it, data).hexdigest()))
)


@given(st.lists(st.tuples(NAMES, CHECKSUMS, st.sampled_from(["gnu", "binary", "bsd"])), min_size=1, max_size=8))
def test_what_sha256sum_writes_is_read_back(entries: list[tuple[str, Checksum, str]]) -> None:
    forms = {"gnu": "{1.digest}  {0}", "binary": "{1.digest} *{0}", "bsd": "{2} ({0}) = {1.digest}"}
    text = "\n".join(forms[form].format(name, it, it.algorithm.upper()) for name, it, form in entries)
    assert list(parse_checksums(text)) == [(name, it) for name, it, _ in entries]


@given(st.text(max_size=300))
def test_nonsense_is_refused_and_nothing_worse(text: str) -> None:
    try:
        found = find_checksum(text, "a.img", "LIST")
    except UsageError:
        return
    assert len(found.digest) in {64, 128}
