"""How a module's parameters are meant to be set, by modprobe.d and the boot line. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from nestctl.model.facts import Facts, Known


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One place that says what a parameter should be: a file, or 'the boot line'."""

    where: str
    text: str
    value: bool | None


def read_bool(text: str) -> bool | None:
    """Read a module's boolean as the kernel does (kstrtobool): by its first letter, 'on' and 'off' by the second."""
    word = text.strip().lower()
    if word[:1] in ("y", "t", "1") or word[:2] == "on":
        return True
    return False if word[:1] in ("n", "f", "0") or word[:2] == "of" else None


def find_intents(facts: Facts, module: str, parameter: str = "nested") -> tuple[Intent, ...]:
    """Return who sets a boolean of a module, in the order in which the kernel sees it: the last one wins.

    modprobe hands over the lines of its files, and then what the boot line says of the module (kmod, libkmod-config.c).
    A name alone ('options kvm_intel nested') means 1.
    """
    lines = [
        (setting.file, word)
        for setting in (facts.module_settings.value if isinstance(facts.module_settings, Known) else ())
        if setting.kind == "options" and setting.module == module
        for word in setting.text.split()
    ]
    lines += [
        ("the boot line", word.partition(".")[2])
        for word in (facts.boot_line.value if isinstance(facts.boot_line, Known) else ())
        if word.partition(".")[0].replace("-", "_") == module
    ]
    return tuple(
        Intent(where=where, text=word, value=read_bool(word.partition("=")[2] or "1"))
        for where, word in lines
        if word.partition("=")[0] == parameter
    )


def forbidding_lines(facts: Facts, module: str) -> tuple[str, ...]:
    """Return what keeps a module from being loaded: lines of modprobe.d, words of the boot line."""
    found = []
    if isinstance(facts.module_settings, Known):
        for setting in facts.module_settings.value:
            is_refused = setting.kind == "install" and setting.text.split()[:1] in (
                ["/bin/false"],
                ["/bin/true"],
                ["/usr/bin/false"],
                ["/usr/bin/true"],
                ["false"],
                ["true"],
            )
            if setting.module in (module, "kvm") and (setting.kind == "blacklist" or is_refused):
                found.append(f"{setting.file}: {setting.kind} {setting.module} {setting.text}".rstrip())
    if isinstance(facts.boot_line, Known):
        for word in facts.boot_line.value:
            name, _, value = word.partition("=")
            listed = {it.replace("-", "_") for it in value.split(",")}
            if name in ("module_blacklist", "modprobe.blacklist") and listed & {module, "kvm"}:
                found.append(f"the boot line: {word}")
    return tuple(found)
