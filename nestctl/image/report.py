"""Show images to people and to programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nestctl.image.download import Partial
from nestctl.image.store import Image

if TYPE_CHECKING:
    from rich.table import Table


def render_images(images: Iterable[Image], partial: Iterable[Partial] = ()) -> dict[str, Any]:
    """Render images as the JSON document of the schema 'nestctl.images/1'. Sizes are bytes on disk.

    `partial` are downloads that are not whole yet.
    """
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
                "source": asdict(image.source) if image.source else None,
            }
            for image in images
        ],
        "partial": [
            {
                "name": it.title,
                "location": it.location,
                "received_bytes": it.received_bytes,
                "total_bytes": it.total_bytes,
                "directory": str(it.directory),
            }
            for it in partial
        ],
    }


def render_table(document: dict[str, Any]) -> Table:
    """Lay out what `render_images` gives."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("image", "made", "on disk", "from", "directory"):
        table.add_column(title, justify="right" if title == "on disk" else "left")
    for image in document["images"]:
        size = f"{image['allocated_bytes'] / 1e6:.0f} MB"
        source = image["source"]
        origin = source["location"] + ("" if source["checked_by"] else " (unchecked)") if source else image["kernel"]
        table.add_row(image["name"], image["created"], size, origin, image["directory"])
    for it in document["partial"]:
        total = f" of {it['total_bytes'] / 1e6:.0f}" if it["total_bytes"] else ""
        size = f"{it['received_bytes'] / 1e6:.0f}{total} MB"
        table.add_row(f"{it['name']} (partial)", "", size, it["location"], it["directory"])
    return table
