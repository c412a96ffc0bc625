"""nestctl image: build, import, list, verify and remove guest images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nestctl.image.download import Partial
    from nestctl.image.store import Image

app = typer.Typer(help="Build, import, list, verify and remove guest images.", no_args_is_help=True)

_TIMEOUT_S = 1800.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[
    str, typer.Argument(metavar="IMAGE", help="An image of 'nestctl image list': its name, or the beginning of it.")
]


@app.command()
def build(json: Json = False) -> None:
    """Build the guest image from this machine's own package sources, unless it is there already."""
    from nestctl.console import step
    from nestctl.deadline import Deadline
    from nestctl.image.build import ensure_image, find_built
    from nestctl.image.recipe import read_recipe

    recipe = read_recipe()
    image = find_built(recipe)
    if image is None:
        with step(f"Building the image {recipe.name}"):
            image = ensure_image(recipe, deadline=Deadline.after(_TIMEOUT_S, "Building the image"))
    _print([image], json)


@app.command("import")
def import_(
    location: Annotated[
        str,
        typer.Argument(metavar="FILE|URL", help="A cloud image: qcow2 or raw, or either packed by xz, gzip, bzip2."),
    ],
    name: Annotated[
        str,
        typer.Option("--name", metavar="NAME", help="What lab files call it.", show_default="as the file is called"),
    ] = "",
    checksum: Annotated[
        str, typer.Option("--checksum", metavar="sha256:HEX", help="What its checksum has to be; 'sha512:HEX' as well.")
    ] = "",
    checksum_file: Annotated[
        str,
        typer.Option(
            "--checksum-file",
            metavar="FILE|URL",
            help="The vendor's list of checksums: SHA256SUMS, SHA512SUMS, Fedora's CHECKSUM.",
        ),
    ] = "",
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Import it although nothing says what its checksum is.")
    ] = False,
    json: Json = False,
) -> None:
    """Import a vendor's cloud image, unless it is there already. An interrupted download goes on where it was."""
    from nestctl.console import progress, say, step, warn
    from nestctl.image.importer import Show, Wanted, import_image

    wanted = Wanted(
        location=location, title=name, checksum=checksum, checksum_file=checksum_file, is_unchecked=no_verify
    )
    if no_verify:
        warn("nothing says that this is the vendor's image, nor that it came whole.")
    elif checksum_file.startswith("http://"):
        warn(f"'{checksum_file}' comes unencrypted: whoever can change the image on its way can change that, too.")
    image, is_new = import_image(wanted, Show(step=step, progress=progress))
    if not is_new:
        say(f"{image.name} is there already.")
    _print([image], json)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the images that are there, and downloads that were interrupted."""
    from nestctl.image.download import list_partial
    from nestctl.image.store import list_images

    _print(list_images(), json, list_partial())


@app.command()
def verify(name: Name, json: Json = False) -> None:
    """Check every file of an image against its SHA-256."""
    from nestctl.image.report import render_images
    from nestctl.image.store import find_image, verify_image

    image = find_image(name)
    verify_image(image, thoroughly=True)
    what = (
        f"sha256 of the imported file {image.source.sha256}" if image.source else f"sha256 of the disk {image.digest}"
    )
    text = f"{image.name}: every file is as it was {'imported' if image.source else 'built'} ({what})"
    _print_done(text, render_images((image,)), json)


@app.command()
def rm(name: Name, json: Json = False) -> None:
    """Remove an image, or an interrupted download. Guests whose disks are overlays on it cannot start any more."""
    from nestctl.deadline import Deadline
    from nestctl.errors import UsageError
    from nestctl.image.download import list_partial, lock_download, remove_download
    from nestctl.image.report import render_images
    from nestctl.image.store import find_image, remove_image

    try:
        image = find_image(name)
    except UsageError:
        partial = [it for it in list_partial() if name in (it.title, it.location)]
        if len(partial) != 1:
            raise
        (found,) = partial
        with lock_download(found.location, Deadline.after(1, f"The end of the import of '{found.location}'")):
            remove_download(found.location)
        _print_done(f"{found.title}: removed what was downloaded of it", render_images((), partial), json)
        return
    document = render_images((image,))
    remove_image(image, deadline=Deadline.after(_TIMEOUT_S, "Waiting for another nestctl that builds an image"))
    _print_done(f"{image.name}: removed", document, json)


def _print_done(text: str, document: dict[str, Any], json: bool) -> None:
    """Print what was done: a line, or the document of the images that it was done to."""
    from nestctl.console import print_json, print_result

    if json:
        print_json(document)
    else:
        print_result(text)


def _print(images: Iterable[Image], json: bool, partial: Iterable[Partial] = ()) -> None:
    from nestctl.console import print_json, print_result, print_rich
    from nestctl.image.report import render_images, render_table

    document = render_images(images, partial)
    if json:
        print_json(document)
    elif document["images"] or document["partial"]:
        print_rich(render_table(document))
    else:
        print_result("No image is there. Build one with 'nestctl image build', or import one: 'nestctl image import'.")
