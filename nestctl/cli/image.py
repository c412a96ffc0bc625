"""nestctl image: build, list, verify and remove guest images."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Build, list, verify and remove guest images.", no_args_is_help=True)

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


@app.command("list")
def list_(json: Json = False) -> None:
    """List the images that are there."""
    from nestctl.image.store import list_images

    _print(list_images(), json)


@app.command()
def verify(name: Name) -> None:
    """Check every file of an image against its SHA-256."""
    from nestctl.console import print_result
    from nestctl.image.store import find_image, verify_image

    image = find_image(name)
    verify_image(image, thoroughly=True)
    print_result(f"{image.name}: every file is as it was built (sha256 of the disk {image.digest})")


@app.command()
def rm(name: Name) -> None:
    """Remove an image. Guests whose disks are overlays on it cannot start any more."""
    from nestctl.console import print_result
    from nestctl.deadline import Deadline
    from nestctl.image.store import find_image, remove_image

    image = find_image(name)
    remove_image(image, deadline=Deadline.after(_TIMEOUT_S, "Waiting for another nestctl that builds an image"))
    print_result(f"{image.name}: removed")


def _print(images: object, json: bool) -> None:
    from nestctl.console import print_json, print_result, print_rich
    from nestctl.image.report import render_images, render_table

    documents = render_images(images)  # type: ignore[arg-type]
    if json:
        print_json(documents)
    elif documents["images"]:
        print_rich(render_table(documents["images"]))
    else:
        print_result("No image is there. Build one with 'nestctl image build'.")
