"""Intel's VMX without an Intel CPU: Bochs emulates a Skylake-X with VMX and EPT, instruction by instruction.

QEMU's TCG has SVM and no VMX. Bochs boots from a CD with GRUB, as its BIOS knows no other way to a kernel; what the
guest prints goes to a file through its serial port.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
import tty
from contextlib import ExitStack
from pathlib import Path

from nestctl.image.store import Image
from tests.needs import missing, need_program

CPU_MODEL = "corei7_skylake_x"
_BIOS = Path("/usr/share/bochs/BIOS-bochs-latest")
_VGA_BIOS = Path("/usr/share/vgabios/vgabios.bin")

_GRUB = Path("/usr/lib/grub/i386-pc")  # named, because GRUB for EFI may be installed, too, and has other modules

# What GRUB needs to read a kernel from a CD, and no more: its BIOS calls are slow there.
_GRUB_MODULES = "linux normal iso9660 biosdisk"
_GRUB_CFG = "set timeout=0\nlinux /vmlinuz {line}\ninitrd /initramfs\nboot\n"
_BOOT_LINE = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off"

_SCREEN = re.compile(rb'connected to screen "(\S+)"')

_CONFIGURATION = """\
display_library: term
romimage: file={bios}
vgaromimage: file={vga_bios}
cpu: model={cpu}, count=1, ips=50000000, reset_on_triple_fault=0
clock: sync=none, time0=utc
memory: guest={memory_mib}, host={memory_mib}
ata0-master: type=cdrom, path={cd}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={serial}
log: {log}
panic: action=fatal
error: action=ignore
info: action=ignore
"""


def build_cd(image: Image, initramfs: Path, work: Path) -> Path:
    """Make a CD that boots the image's kernel with an initramfs."""
    tree = work / "cd"
    (tree / "boot/grub").mkdir(parents=True)
    os.link(initramfs, tree / "initramfs")
    (tree / "vmlinuz").write_bytes(image.kernel.read_bytes())
    (tree / "boot/grub/grub.cfg").write_text(_GRUB_CFG.format(line=_BOOT_LINE))
    need_program("xorriso", "xorriso")
    need_program("mformat", "mtools")
    if not _GRUB.is_dir():
        missing("GRUB for BIOS is not installed (package 'grub-pc-bin')")
    maker = need_program("grub-mkrescue", "grub-common")
    target = work / "cd.iso"
    small = (f"--install-modules={_GRUB_MODULES}", "--fonts=", "--locales=", "--themes=")
    subprocess.run((maker, f"--directory={_GRUB}", "--output", target, *small, tree), check=True, capture_output=True)
    return target


def boot(cd: Path, work: Path, *, until: str, timeout_s: float, memory_mib: int = 512) -> str:
    """Boot a CD in Bochs until its serial port has printed a line that matches `until`, and return all it printed."""
    bochs = need_program("bochs", "bochs")
    if not (_BIOS.exists() and _VGA_BIOS.exists()):
        missing("the BIOS images are not installed (packages 'bochsbios' and 'vgabios')")
    serial, log = work / "serial", work / "log"
    configuration = work / "bochsrc"
    configuration.write_text(
        _CONFIGURATION.format(
            bios=_BIOS, vga_bios=_VGA_BIOS, cpu=CPU_MODEL, memory_mib=memory_mib, cd=cd, serial=serial, log=log
        )
    )
    # Debian's Bochs is built with its debugger, which waits for a command: 'c' continues.
    (work / "commands").write_text("c\n")
    # It wants a terminal, and makes another to draw its screen on. What comes there has to be read, or it would wait.
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        (bochs, "-q", "-f", configuration, "-rc", work / "commands"),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(its_end)
    try:
        return _read_until(serial, terminal, process, until=until, timeout_s=timeout_s, log=log)
    finally:
        process.kill()
        process.wait(timeout=60)
        os.close(terminal)


def _read_until(
    serial: Path, terminal: int, process: subprocess.Popen[bytes], *, until: str, timeout_s: float, log: Path
) -> str:
    end_s = time.monotonic() + timeout_s
    printed = b""
    with ExitStack() as opened:
        ends = [terminal]
        while True:
            readable, _, _ = select.select(ends, [], [], 0.2)
            try:
                read = {end: os.read(end, 1 << 16) for end in readable}
            except OSError:  # it has closed its end
                process.wait(timeout=60)
            else:
                printed += read.get(terminal, b"")
            if len(ends) == 1 and (screen := _SCREEN.search(printed)):
                ends.append(os.open(screen.group(1), os.O_RDWR | os.O_NOCTTY))
                opened.callback(os.close, ends[-1])
                tty.setraw(ends[-1])
            console = serial.read_text(errors="replace") if serial.exists() else ""
            if re.search(until, console, re.MULTILINE):
                return console
            said = f"{console[-4000:]}\n{printed[-4000:].decode(errors='replace')}"
            assert process.poll() is None, f"Bochs ended with {process.returncode}:\n{said}\n{_tail(log)}"
            assert time.monotonic() < end_s, f"Bochs did not come so far in {timeout_s:.0f} s:\n{said}\n{_tail(log)}"


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:] if log.exists() else ""
