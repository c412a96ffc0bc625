"""Show images to people and to programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nestctl.image.store import Image

if TYPE_CHECKING:
    from rich.table import Table


def render_images(images: Iterable[Image]) -> dict[str, Any]:
    """Render images as the JSON document of the schema 'nestctl.images/1'. Sizes are bytes on disk."""
    return {
        "schema": "nestctl.images/1",
        "images": [
            {
                "name": image.name,
                "created": image.manifest.created,
                "allocated_bytes": image.allocated_bytes,
                "directory": str(image.directory),
                "recipe_digest": image.manifest.recipe_digest,
                "sha256": dict(image.manifest.sha256),
                "kernel": next((v for k, v in image.manifest.packages.items() if k.startswith("linux-image-")), ""),
            }
            for image in images
        ],
    }


def render_table(images: Iterable[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("image", "built", "on disk", "kernel", "directory"):
        table.add_column(title, justify="right" if title == "on disk" else "left")
    for image in images:
        size = f"{image['allocated_bytes'] / 1e6:.0f} MB"
        table.add_row(image["name"], image["created"], size, image["kernel"], image["directory"])
    return table
