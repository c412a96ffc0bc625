"""Which images a lab's guests are made from: found, checked against what the lab wants of them, had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from nestctl.deadline import Deadline
from nestctl.errors import UsageError
from nestctl.image.build import ensure_image
from nestctl.image.recipe import read_recipe
from nestctl.image.store import Image, images_directory, resolve_image, verify_image
from nestctl.lab.expand import Location
from nestctl.lab.level import Step
from nestctl.lab.parse import Complaint
from nestctl.lab.place import ImageFacts
from nestctl.lab.profiles import find_profile, list_profiles
from nestctl.model.lab import BLANK, BUILT, Guest, Lab, walk_guests

_BUILD_TIMEOUT_S = 1800.0


def locate_image(reference: str) -> ImageFacts:
    """Say where an image is, or will be once it is built. Touches nothing. Raises `UsageError` when there is none."""
    if reference == BLANK:
        return ImageFacts(identity=BLANK, directory=PurePosixPath("/"), firmware="bios")
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
        if reference == BLANK:
            continue
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
    images: dict[str, Image | None] = {}
    for reference in _references(lab):
        try:
            images[reference] = None if reference in {"", BUILT, BLANK} else resolve_image(reference)
        except UsageError as error:
            faults[reference] = error
    if lab.image in faults:
        yield ("image",), _say(faults[lab.image]), faults[lab.image].hint
    for location, guest, reference in _walk(lab.guests, (), lab.image):
        if guest.image in faults:
            yield (*location, "image"), _say(faults[guest.image]), faults[guest.image].hint
        elif reference in images:
            yield from _check_guest(location, guest, images[reference])
            yield from _check_profile(location, guest, reference)


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


def _check_profile(location: Location, guest: Guest, reference: str) -> Iterator[Complaint]:
    try:
        profile = find_profile(guest.profile)
    except UsageError as error:
        yield (*location, "profile"), f"is unknown: {', '.join(list_profiles())} are there", error.hint
        return
    if guest.cdrom and not Path(guest.cdrom).is_file():
        yield (*location, "cdrom"), f"is not there: '{guest.cdrom}'", ""
    if profile.answers:
        if reference == BLANK:
            hint = f"Give the profile of the system that is installed: {', '.join(list_profiles())}."
            yield (*location, "image"), f"has nothing that answers by SSH, as the profile '{guest.profile}' does", hint
        return
    if reference in {"", BUILT}:
        hint = "Name an imported image, or 'image: blank' and the 'cdrom' to install from."
        yield (*location, "profile"), f"'{guest.profile}' is for another system than the built image has", hint
    if guest.guests:
        yield (*location, "guests"), f"cannot be made: nestctl does not log in to a guest of '{guest.profile}'", ""
    elif profile.nesting is not None and guest.nesting is not profile.nesting:
        wanted = str(profile.nesting).lower()
        yield (*location, "profile"), f"'{guest.profile}' goes with 'nesting: {wanted}', which has to be said", ""


def _say(error: UsageError) -> str:
    return f"cannot be had: {error.message[0].lower()}{error.message[1:].rstrip('.')}"


def _references(lab: Lab) -> Iterator[str]:
    yield from dict.fromkeys((lab.image, *(guest.image for _, guest in walk_guests(lab.guests) if guest.image)))


def _walk(guests: Mapping[str, Guest], outer: Location, reference: str) -> Iterator[tuple[Location, Guest, str]]:
    for name, guest in guests.items():
        location = (*outer, "guests", name)
        yield location, guest, guest.image or reference
        yield from _walk(guest.guests, location, guest.image or reference)
