"""How a guest's QEMU is set up where its speed depends on it, in libvirt's own terms; 'bench tune' tries these out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Cpu = Annotated[int, Field(ge=0, le=8191)]


class Tuning(BaseModel):
    """Settings of one guest; what is not given is left to QEMU. They take effect when the guest is started."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    disk_cache: Annotated[
        Literal["none", "writeback", "writethrough", "directsync", "unsafe"] | None,
        Field(
            description="How its disks use the page cache of the machine that runs it. QEMU's own is 'writeback'; "
            "'unsafe' ignores flushes, and loses data when that machine loses power."
        ),
    ] = None
    disk_io: Annotated[
        Literal["threads", "native", "io_uring"] | None,
        Field(
            description="How QEMU reads and writes its disks: by threads of its own (its default), by Linux AIO "
            "('native', with a disk_cache of 'none' or 'directsync'), or by io_uring."
        ),
    ] = None
    disk_iothread: Annotated[
        bool, Field(description="Whether its disks are served by a thread of their own, not by QEMU's main loop.")
    ] = False
    huge_pages: Annotated[
        bool,
        Field(
            description="Whether its memory is huge pages that are reserved on the machine that runs it "
            "(vm.nr_hugepages); there have to be enough."
        ),
    ] = False
    vcpu_pins: Annotated[
        tuple[Cpu, ...],
        Field(
            strict=False,
            max_length=255,
            description="CPUs of the machine that runs it, one for each vCPU in their order, which runs on no other.",
        ),
    ] = ()
    emulator_pins: Annotated[
        tuple[Cpu, ...],
        Field(
            strict=False,
            max_length=255,
            description="CPUs of that machine for all threads of QEMU's that are no vCPUs.",
        ),
    ] = ()

    @property
    def is_empty(self) -> bool:
        """Tell whether QEMU is set up as it is without tuning."""
        return self == Tuning()

    @property
    def has_pins(self) -> bool:
        """Tell whether any thread of QEMU's is pinned."""
        return bool(self.vcpu_pins or self.emulator_pins)

    @property
    def emulator_cpuset(self) -> str:
        """Write the emulator's CPUs as libvirt does: '0,2'."""
        return ",".join(map(str, self.emulator_pins))

    def given(self) -> dict[str, Any]:
        """Return what is given, by name, as values of JSON's."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @model_validator(mode="after")
    def _native_goes_past_the_cache(self) -> Self:
        if self.disk_io == "native" and self.disk_cache not in {"none", "directsync"}:
            raise ValueError("a disk_io of 'native' needs a disk_cache of 'none' or 'directsync'")
        return self
