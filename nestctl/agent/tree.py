"""Read files, names and links below a root, and remember what was read.

What a `Tree` remembers is a recording, and a `RecordedTree` answers from one: collectors that ask the same get the
same, so a machine is judged elsewhere by the code that judged it at home. A collector that needs only a part of a file
passes `keep`, which cuts the rest away before anyone, the recording included, sees it.

Paths are relative to the root ('proc/cpuinfo'). Everything that is not there or cannot be read raises OSError.
"""

from __future__ import annotations

import base64
import errno
import os
from typing import Any, Callable, Dict, Mapping

# A path is remembered with one of: {"text": str}, {"base64": str} (bytes that are no UTF-8), {"link": target},
# {"error": "EACCES"}, {"names": [...]} (a directory), {"node": True} (something that is there and was not read).
Entry = Dict[str, Any]

LARGEST_FILE = 1 << 20  # bytes; /proc/cpuinfo of 512 CPUs is about 800 KiB
MOST_NAMES = 1 << 16  # /proc of a machine with that many processes; pid_max is 4,194,304 at most


class Tree:
    """The machine below `root`, with everything that was asked of it in `seen`."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self.seen: dict[str, Entry] = {}

    def read(self, path: str, *, limit: int = LARGEST_FILE, keep: Callable[[bytes], bytes] | None = None) -> bytes:
        """Return what a file says. One of more than `limit` bytes raises OSError (EFBIG)."""
        try:
            content = self._content(path, limit + 1)
            if len(content) > limit:
                raise _error(errno.EFBIG, path)
        except OSError as error:
            self._note_error(path, error)
            raise
        if keep:
            content = keep(content)
        try:
            self.seen[path] = {"text": content.decode("utf-8")}
        except UnicodeDecodeError:
            self.seen[path] = {"base64": base64.b64encode(content).decode("ascii")}
        return content

    def text(self, path: str, *, limit: int = LARGEST_FILE, keep: Callable[[str], str] | None = None) -> str:
        """Return what a file says as text; bytes that are no UTF-8 become U+FFFD."""
        keep_bytes = (lambda raw: keep(raw.decode("utf-8", "replace")).encode("utf-8")) if keep else None
        return self.read(path, limit=limit, keep=keep_bytes).decode("utf-8", "replace")

    def word(self, path: str) -> str:
        """Return the text of a file that holds one value, without the end of its line."""
        return self.text(path, limit=4096).strip("\0 \t\r\n")

    def names(self, path: str, wanted: Callable[[str], bool] = bool) -> list[str]:
        """Return the names in a directory that are wanted, sorted."""
        try:
            found = self._names(path)
            if len(found) > MOST_NAMES:
                raise _error(errno.EFBIG, path)
        except OSError as error:
            self._note_error(path, error)
            raise
        chosen = sorted(name for name in found if wanted(name))
        self.seen[path] = {"names": chosen}
        return chosen

    def links(self, path: str, wanted: Callable[[str], bool]) -> dict[str, str]:
        """Return the links in a directory whose targets are wanted, {name: target}; only those are remembered."""
        found: dict[str, str] = {}
        try:
            names = self._names(path)
        except OSError as error:
            self._note_error(path, error)
            raise
        for name in names:
            try:
                target = self._link(f"{path}/{name}")
            except OSError:
                continue  # no link, or gone in the meantime
            if wanted(target):
                found[name] = target
                self.seen[f"{path}/{name}"] = {"link": target}
        return found

    def exists(self, path: str) -> bool:
        """Say whether something is there, whatever it is."""
        is_there = self._is_there(path)
        if is_there:
            self.seen.setdefault(path, {"node": True})
        return is_there

    def _note_error(self, path: str, error: OSError) -> None:
        self.seen[path] = {"error": errno.errorcode.get(error.errno or 0, "EIO")}

    def _where(self, path: str) -> str:
        return os.path.join(self._root, path)  # noqa: PTH118 - a thousand of them; pathlib takes longer than the read

    def _content(self, path: str, size: int) -> bytes:
        # O_NONBLOCK: should it be a FIFO that nobody writes to, there is an answer all the same.
        descriptor = os.open(self._where(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            parts: list[bytes] = []
            while size > 0:
                part = os.read(descriptor, size)
                if not part:
                    break
                parts.append(part)
                size -= len(part)
            return b"".join(parts)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._where(path)) from None
        finally:
            os.close(descriptor)

    def _names(self, path: str) -> list[str]:
        return os.listdir(self._where(path))  # noqa: PTH208

    def _link(self, path: str) -> str:
        return os.readlink(self._where(path))

    def _is_there(self, path: str) -> bool:
        return os.path.lexists(self._where(path))


class RecordedTree(Tree):
    """A machine that was recorded: `entries` is what a `Tree` had seen there."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        super().__init__()
        self._entries = entries
        self._children: dict[str, set[str]] = {}
        for path, entry in entries.items():
            if entry.get("error") != "ENOENT":
                self._add_to_parents(path)

    def _add_to_parents(self, path: str) -> None:
        while "/" in path:
            path, _, name = path.rpartition("/")
            siblings = self._children.setdefault(path, set())
            if name in siblings:
                return
            siblings.add(name)

    def _entry(self, path: str) -> Entry:
        """Return what is known of a path; raises the OSError that was met there, ENOENT when nobody asked."""
        entry = self._entries.get(path, {} if path in self._children else {"error": "ENOENT"})
        if "error" in entry:
            raise _error(getattr(errno, str(entry["error"]), errno.EIO), path)
        return entry

    def _content(self, path: str, size: int) -> bytes:
        entry = self._entry(path)
        if "text" in entry:
            return str(entry["text"]).encode("utf-8", "surrogatepass")[:size]
        if "base64" in entry:
            return base64.b64decode(str(entry["base64"]))[:size]
        raise _error(errno.EISDIR if path in self._children or "names" in entry else errno.EACCES, path)

    def _names(self, path: str) -> list[str]:
        entry = self._entry(path)
        if path not in self._children and "names" not in entry:
            raise _error(errno.ENOTDIR, path)
        return sorted(self._children.get(path, ()))

    def _link(self, path: str) -> str:
        entry = self._entry(path)
        if "link" not in entry:
            raise _error(errno.EINVAL, path)
        return str(entry["link"])

    def _is_there(self, path: str) -> bool:
        return path in self._children or self._entries.get(path, {"error": "ENOENT"}).get("error") != "ENOENT"


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), "/" + path)
