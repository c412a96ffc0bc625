"""Where guests are made, and from what: machines as places for disks, and images as they are found on them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from nestctl.image.store import IMPORTED_DISK
from nestctl.model.lab import Guest

# Inside a guest made from an image: its own kernel, and the image itself on a disk that is attached read-only.
# Not where a nestctl that runs in the guest keeps its own labs.
GUEST_DIRECTORY = PurePosixPath("/var/lib/nestctl/guests")
_GUEST_KERNEL = PurePosixPath("/boot/vmlinuz")
_GUEST_INITRD = PurePosixPath("/boot/initrd")
_DEVICES = PurePosixPath("/dev/disk/by-id")
_OWN_BASE = "nestctl-base"

# Where the kernels of other images are put there.
_GUEST_IMAGES = GUEST_DIRECTORY.with_name("images")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A machine that runs guests, as far as planning has to know it.

    `is_emulated` is about its guests' CPUs; `is_slow` also when KVM runs them and the machine itself is emulated.
    `firmware` ('bios' or 'efi') starts a guest from its disk; when empty, its kernel is started directly.
    """

    directory: PurePosixPath
    kernel: PurePosixPath
    initrd: PurePosixPath
    base: PurePosixPath
    base_is_block: bool
    is_emulated: bool
    is_slow: bool
    firmware: str = ""

    @property
    def is_kernel_copied(self) -> bool:
        """Tell whether the kernel has to be taken out of the image first: the machine is made from another one."""
        return not self.firmware and self.kernel.is_relative_to(_GUEST_IMAGES)

    @property
    def base_format(self) -> str:
        """The format of the image, also where it is attached as a disk (see nestctl.image.store)."""
        return "qcow2" if self.firmware else "raw"


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """An image of this machine's: what names its content (see `Image.identity`), and how it is started."""

    identity: str
    directory: PurePosixPath
    firmware: str = ""

    @property
    def disk(self) -> PurePosixPath:
        """The file of its disk on the machine that has the image."""
        return self.directory / _disk_name(self.firmware)


@dataclass(frozen=True, kw_only=True)
class Base:
    """An image that is attached to a guest, so that guests inside it can be made from it."""

    serial: str
    path: PurePosixPath
    is_block: bool


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where guests are made: the image of the guest they are in (or the lab's), and what place that is for them.

    With `is_adopted` that guest was made by somebody else, and not from the image: all images are files in it.
    """

    image: ImageFacts
    place: Place
    is_adopted: bool = False


def host_place(directory: Path, image: Path, *, is_emulated: bool, is_slow: bool, firmware: str = "") -> Place:
    """Describe this machine as a place for guests: `directory` for their disks, `image` with the files of the image."""
    return Place(
        directory=PurePosixPath(directory),
        kernel=PurePosixPath(image / "vmlinuz"),
        initrd=PurePosixPath(image / "initrd"),
        base=PurePosixPath(image / _disk_name(firmware)),
        base_is_block=False,
        is_emulated=is_emulated,
        is_slow=is_slow,
        firmware=firmware,
    )


def place_inside(lab: str, outer: Place) -> Place:
    """Describe a guest as a place for guests that are made from the same image as it."""
    return replace(
        outer,
        directory=GUEST_DIRECTORY / lab,
        kernel=_GUEST_KERNEL,
        initrd=_GUEST_INITRD,
        base=_DEVICES / f"virtio-{_OWN_BASE}",
        base_is_block=True,
        is_emulated=False,
    )


def place_inside_adopted(lab: str, host: Place) -> Place:
    """Describe a guest that somebody else made as a place for guests; their images are files there."""
    return replace(place_inside(lab, host), base_is_block=False, firmware="")


def place_of(image: ImageFacts, outer: Origin, level: int) -> Place:
    """Say where a guest's image and its kernel are on the machine that runs it; `level` is the guest's."""
    if image.identity == outer.image.identity and not outer.is_adopted:
        return outer.place
    files = image.directory if level == 1 else guest_image_directory(image)
    return replace(
        outer.place,
        kernel=files / "vmlinuz",
        initrd=files / "initrd",
        base=_base_path(image, outer, level),
        firmware=image.firmware,
    )


def list_bases(
    guest: Guest, image: ImageFacts, outer: Origin, level: int, images: Mapping[str, ImageFacts]
) -> Iterator[Base]:
    """Yield a hypervisor's own image, and the others that guests inside it, at any depth, are made from."""
    for it in dict.fromkeys((image, *_images_inside(guest, images))):
        serial = _OWN_BASE if it == image else _serial(it)
        yield Base(serial=serial, path=_base_path(it, outer, level), is_block=outer.place.base_is_block)


def guest_image_directory(image: ImageFacts) -> PurePosixPath:
    """Say where the files of an image are in a guest that is not made from it."""
    return _GUEST_IMAGES / image.identity[:12]


def list_images_inside(guest: Guest, image: ImageFacts, images: Mapping[str, ImageFacts]) -> tuple[ImageFacts, ...]:
    """List the images that guests inside a guest are made from, at any depth; `image` is theirs that name none."""
    own = (image for inner in guest.guests.values() if not inner.image)
    return tuple(dict.fromkeys((*own, *_images_inside(guest, images))))


def _base_path(image: ImageFacts, outer: Origin, level: int) -> PurePosixPath:
    if outer.is_adopted:
        return guest_image_directory(image) / _disk_name(image.firmware)
    if image.identity == outer.image.identity:
        return outer.place.base
    return image.disk if level == 1 else _DEVICES / f"virtio-{_serial(image)}"


def _images_inside(guest: Guest, images: Mapping[str, ImageFacts]) -> Iterator[ImageFacts]:
    for inner in guest.guests.values():
        if inner.image:
            yield images[inner.image]
        yield from _images_inside(inner, images)


def _disk_name(firmware: str) -> str:
    return IMPORTED_DISK if firmware else "disk.raw"


def _serial(image: ImageFacts) -> str:
    return f"base-{image.identity[:12]}"  # virtio-blk's serial numbers have at most 20 characters
