"""Images that are in the store without having been built."""

from __future__ import annotations

from dataclasses import asdict

from nestctl.image.recipe import Recipe, Source
from nestctl.image.store import FILES, Image, Manifest, digest_file, images_directory, render_manifest

RECIPE = Recipe(
    distribution="debian",
    release="bookworm",
    architecture="amd64",
    sources=(Source(uri="http://mirror.example/debian", suite="bookworm", components=("main",)),),
    packages=("udev",),
    files_digest="0" * 64,
    disk_bytes=4096,
)


def put_image(recipe: Recipe = RECIPE) -> Image:
    """Put the image of a recipe into the store, with a line of text for each of its files."""
    directory = images_directory() / recipe.name
    directory.mkdir(parents=True)
    for name in FILES:
        (directory / name).write_text(f"{name} of {recipe.name}\n")
    manifest = Manifest(
        name=recipe.name,
        recipe_digest=recipe.digest,
        created="2026-01-01T00:00:00+00:00",
        sha256={name: digest_file(directory / name) for name in FILES},
        recipe=asdict(recipe),
        packages={"linux-image-6.1.0-9-cloud-amd64": "6.1.27-1", "udev": "252"},
    )
    (directory / "image.json").write_text(render_manifest(manifest))
    return Image(directory=directory, manifest=manifest)
