"""Package sources as machines really have them, and the digest that names what they give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nestctl.errors import PrerequisiteError
from nestctl.image.recipe import (
    Recipe,
    Source,
    digest_tree,
    parse_os_release,
    parse_sources,
    read_recipe,
    select_sources,
)

# Debian 12's installer, with its CD-ROM line, and a third party's repository below.
ONE_LINE = """\
# deb cdrom:[Debian GNU/Linux 12.0.0 _Bookworm_ - Official amd64 NETINST]/ bookworm main

deb http://mirror.example/debian/ bookworm main non-free-firmware
deb-src http://mirror.example/debian/ bookworm main non-free-firmware
deb http://security.debian.org/debian-security bookworm-security main  # security
deb   http://mirror.example/debian/\tbookworm-updates main contrib
deb [arch=amd64 signed-by=/etc/apt/keyrings/vendor.gpg] https://download.vendor.example/linux/debian bookworm stable
deb [ signed-by=/usr/share/keyrings/debian-archive-keyring.gpg arch=amd64 ] http://mirror.example/debian bookworm main
deb http://mirror.example/debian bookworm-backports main
deb http://incomplete.example/ bookworm
deb
"""

# Debian's container images and Ubuntu 24.04 and later.
DEB822 = """\
Types: deb
# http://snapshot.example/archive/debian/20250101T000000Z
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
uris: http://mirror.example/debian-security
suites: bookworm-security
components: main contrib

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://vendor.example/debian
Suites: ./

"""

WITH_KEY = """\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS/xcRfwEQWzr
 -----END PGP PUBLIC KEY BLOCK-----
"""

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\n'
UBUNTU = "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n"

RECIPE = Recipe(
    distribution="debian",
    release="bookworm",
    architecture="amd64",
    sources=(Source(uri="http://mirror.example/debian", suite="bookworm", components=("main",)),),
    packages=("linux-image-cloud-amd64", "udev"),
    files_digest="0" * 64,
)


def selected(suffix: str, text: str) -> list[tuple[str, str, tuple[str, ...]]]:
    sources = select_sources(parse_sources(suffix, text), "bookworm")
    return [(source.uri, source.suite, source.components) for source in sources]


def machine(root: Path, os_release: str, sources: dict[str, str]) -> Path:
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    (root / "etc/os-release").write_text(os_release)
    for name, text in sources.items():
        (root / "etc/apt" / name).write_text(text)
    return root


def test_the_distributions_own_lines_are_kept_and_others_left_out() -> None:
    assert selected(".list", ONE_LINE) == [
        ("http://mirror.example/debian/", "bookworm", ("main",)),
        ("http://security.debian.org/debian-security", "bookworm-security", ("main",)),
        ("http://mirror.example/debian/", "bookworm-updates", ("main",)),
        ("http://mirror.example/debian", "bookworm", ("main",)),
    ]


def test_the_key_of_a_line_is_kept_wherever_it_stands() -> None:
    keys = [source.signed_by for source in parse_sources(".list", ONE_LINE) if source.signed_by]
    assert keys == ["/etc/apt/keyrings/vendor.gpg", "/usr/share/keyrings/debian-archive-keyring.gpg"]


def test_paragraphs_are_read_in_all_their_forms() -> None:
    assert selected(".sources", DEB822) == [
        ("http://mirror.example/debian", "bookworm", ("main",)),
        ("http://mirror.example/debian", "bookworm-updates", ("main",)),
        ("http://mirror.example/debian-security", "bookworm-security", ("main",)),
    ]


def test_a_key_given_in_full_does_not_spill_into_other_fields() -> None:
    (source,) = parse_sources(".sources", WITH_KEY)
    assert source == Source(uri="http://mirror.example/debian", suite="bookworm", components=("main",))


def test_a_source_is_written_as_apt_reads_it() -> None:
    source = Source(uri="http://m/debian", suite="bookworm", components=("main", "universe"))
    assert source.line == "deb http://m/debian bookworm main universe"
    assert replace(source, signed_by="/k.gpg").line == "deb [signed-by=/k.gpg] http://m/debian bookworm main universe"
    assert list(parse_sources(".list", replace(source, signed_by="/k.gpg").line)) == [
        replace(source, signed_by="/k.gpg")
    ]


def test_os_release_is_read_with_and_without_quotes() -> None:
    values = parse_os_release("# comment\nID=\"ubuntu\"\nNAME='Ubuntu'\nEMPTY=\nURL=http://x/?a=b\nno pair\n")
    assert values == {"ID": "ubuntu", "NAME": "Ubuntu", "EMPTY": "", "URL": "http://x/?a=b"}


def test_debian_is_read_from_both_kinds_of_files(tmp_path: Path) -> None:
    sources = {
        "sources.list": ONE_LINE,
        "sources.list.d/debian.sources": DEB822,
        "sources.list.d/old.list.save": "deb http://backup.example/ bookworm main\n",
    }
    recipe = read_recipe(machine(tmp_path, DEBIAN, sources))
    assert (recipe.distribution, recipe.release) == ("debian", "bookworm")
    assert recipe.packages[0] == "linux-image-cloud-amd64"
    assert len(recipe.sources) == 7


def test_ubuntu_has_its_own_kernel_and_universe(tmp_path: Path) -> None:
    text = "deb http://mirror.example/ubuntu noble main restricted universe multiverse\n"
    recipe = read_recipe(machine(tmp_path, UBUNTU, {"sources.list": text}))
    assert recipe.packages[0] == "linux-image-virtual"
    assert recipe.sources[0].components == ("main", "universe")


@pytest.mark.parametrize("os_release", ["ID=fedora\nVERSION_CODENAME=x\n", "ID=debian\n", ""])
def test_another_distribution_is_said(tmp_path: Path, os_release: str) -> None:
    with pytest.raises(PrerequisiteError, match="Images are built from Debian or Ubuntu packages"):
        read_recipe(machine(tmp_path, os_release, {"sources.list": ONE_LINE}))


def test_a_machine_without_its_distributions_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match="No package source for 'bookworm'") as raised:
        read_recipe(machine(tmp_path, DEBIAN, {"sources.list": "deb http://vendor.example/ bookworm stable\n"}))
    assert "sources.list" in raised.value.hint


def test_a_machine_without_os_release_is_said(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError):
        read_recipe(tmp_path)


def test_the_same_machine_gives_the_same_recipe(tmp_path: Path) -> None:
    root = machine(tmp_path, DEBIAN, {"sources.list": ONE_LINE})
    assert read_recipe(root) == read_recipe(root)
    assert read_recipe(root).digest == read_recipe(root).digest


def test_the_digest_is_stable() -> None:
    """A change here makes every user build their image again."""
    assert RECIPE.digest == "2288af7b6000cfa947739d7e2c356130a3ce0961a2a523f46dbd8468c20fc382"
    assert RECIPE.name == f"debian-bookworm-{RECIPE.digest[:12]}"


@pytest.mark.parametrize(
    "other",
    [
        replace(RECIPE, release="trixie"),
        replace(RECIPE, packages=("udev", "linux-image-cloud-amd64")),
        replace(RECIPE, files_digest="1" * 64),
        replace(RECIPE, disk_bytes=2 << 30),
        replace(RECIPE, sources=()),
    ],
    ids=["release", "order of packages", "files", "size", "sources"],
)
def test_the_digest_changes_with_everything(other: Recipe) -> None:
    assert other.digest != RECIPE.digest


def test_the_digest_of_a_tree_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_text("12")
    (tmp_path / "a/y").write_text("3")
    digests = [digest_tree(tmp_path)]
    assert digest_tree(tmp_path) == digests[0]
    (tmp_path / "a/x").write_text("1")
    digests.append(digest_tree(tmp_path))
    (tmp_path / "a/y").write_text("23")
    digests.append(digest_tree(tmp_path))
    (tmp_path / "a/y").rename(tmp_path / "a/z")
    digests.append(digest_tree(tmp_path))
    assert len(set(digests)) == 4
