"""Which images a lab's guests are made from: found, checked against what the lab wants of them, had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from nestctl.deadline import Deadline
from nestctl.errors import PrerequisiteError, UsageError
from nestctl.image.build import ensure_image
from nestctl.image.recipe import Recipe, read_recipe
from nestctl.image.store import Image, images_directory, resolve_image, verify_image
from nestctl.lab.expand import Location
from nestctl.lab.level import Step
from nestctl.lab.parse import Complaint
from nestctl.lab.place import ImageFacts
from nestctl.model.lab import BUILT, Guest, Lab, walk_guests

_BUILD_TIMEOUT_S = 1800.0


def locate_image(reference: str) -> ImageFacts:
    """Say where an image is, or will be once it is built. Touches nothing. Raises `UsageError` when there is none."""
    if reference in {"", BUILT}:
        recipe = read_recipe()
        return ImageFacts(identity=recipe.digest, directory=PurePosixPath(images_directory() / recipe.name))
    image = resolve_image(reference)
    firmware = image.source.firmware if image.source else ""
    return ImageFacts(identity=image.identity, directory=PurePosixPath(image.directory), firmware=firmware)


def locate_images(lab: Lab) -> Mapping[str, ImageFacts]:
    """Say where every image is that the lab or a guest of it names, by what it is called there."""
    return {reference: locate_image(reference) for reference in _references(lab)}


def ensure_lab_images(lab: Lab, step: Step) -> None:
    """Have a lab's images there and whole: build the default one if it is missing, verify them in any case."""
    for reference in _references(lab):
        if reference not in {"", BUILT}:
            verify_image(resolve_image(reference))
            continue
        recipe = read_recipe()
        if not (images_directory() / recipe.name).exists():
            with step("Building the guest image (once; about a minute)", lab=lab.name):
                ensure_image(recipe, deadline=Deadline.after(_BUILD_TIMEOUT_S, "Building the image"))
        verify_image(resolve_image(recipe.name))


def check_images(lab: Lab) -> Iterator[Complaint]:
    """Yield what is wrong with the images that a lab names, and with what its guests want of them."""
    faults: dict[str, UsageError] = {}
    images: dict[str, Image | Recipe] = {}
    for reference in _references(lab):
        try:
            images[reference] = read_recipe() if reference in {"", BUILT} else resolve_image(reference)
        except UsageError as error:
            faults[reference] = error
        except PrerequisiteError:
            pass  # 'up' says it: no lab file can be right here
    if lab.image in faults:
        yield ("image",), _say(faults[lab.image]), faults[lab.image].hint
    for location, guest, reference in _walk(lab.guests, (), lab.image):
        if guest.image in faults:
            yield (*location, "image"), _say(faults[guest.image]), faults[guest.image].hint
        elif reference in images:
            image = images[reference]
            yield from _check_guest(location, guest, image if isinstance(image, Image) else None)


def _check_guest(location: Location, guest: Guest, image: Image | None) -> Iterator[Complaint]:
    source = image.source if image else None
    if source is None:
        if guest.seed.packages:
            hint = "Name an imported image as the guest's 'image'; see 'nestctl image import --help'."
            yield (*location, "seed", "packages", "0"), "needs an imported image: the built one has no source", hint
        return
    if guest.kernel_args:
        hint = "Have a command of its seed change the boot loader's configuration."
        yield (*location, "kernel_args"), "cannot be given to an imported image, which boots its kernel itself", hint
    if guest.disk_gib * 2**30 < source.virtual_bytes:
        needed = -(-source.virtual_bytes // 2**30)
        yield (*location, "disk_gib"), f"is less than the {needed} GiB that the image '{source.title}' has", ""


def _say(error: UsageError) -> str:
    return f"cannot be had: {error.message[0].lower()}{error.message[1:].rstrip('.')}"


def _references(lab: Lab) -> Iterator[str]:
    yield from dict.fromkeys((lab.image, *(guest.image for _, guest in walk_guests(lab.guests) if guest.image)))


def _walk(guests: Mapping[str, Guest], outer: Location, reference: str) -> Iterator[tuple[Location, Guest, str]]:
    for name, guest in guests.items():
        location = (*outer, "guests", name)
        yield location, guest, guest.image or reference
        yield from _walk(guest.guests, location, guest.image or reference)
