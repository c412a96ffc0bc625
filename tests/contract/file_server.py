"""A web server that gives files as good servers do, and as bad ones do."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(kw_only=True)
class Files:
    """What is served and how; `requests` are the paths that were asked for, each with its Range."""

    contents: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    has_ranges: bool = True
    has_tags: bool = True
    # After how many bytes of its body an answer ends, one number an answer; the rest comes whole.
    cuts: list[int] = field(default_factory=list)
    # What is said of the length beyond the truth.
    lie: int = 0
    statuses: list[int] = field(default_factory=list)
    # Bytes a pause, and how long it is.
    slowness: tuple[int, float] = (1 << 20, 0.0)

    def tag(self, path: str) -> str:
        return f'"{hashlib.sha256(self.contents[path]).hexdigest()[:16]}"'


@contextmanager
def serve(files: Files) -> Iterator[Files]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _answer(self, files)

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(request: BaseHTTPRequestHandler, files: Files) -> None:
    request.close_connection = True
    asked = request.headers.get("Range", "")
    files.requests.append((request.path, asked))
    if files.statuses:
        request.send_error(files.statuses.pop(0))
        return
    if target := files.redirects.get(request.path):
        request.send_response(302)
        request.send_header("Location", target)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    if request.path not in files.contents:
        request.send_error(404)
        return
    body = files.contents[request.path]
    begin = 0
    if files.has_ranges and asked and request.headers.get("If-Range") == files.tag(request.path):
        begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(body):
            request.send_error(416)
            return
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
    else:
        request.send_response(200)
    if files.has_tags:
        request.send_header("ETag", files.tag(request.path))
    request.send_header("Content-Length", str(len(body) - begin + files.lie))
    request.end_headers()
    end = begin + files.cuts.pop(0) if files.cuts else len(body)
    size, pause_s = files.slowness
    try:
        for offset in range(begin, min(end, len(body)), size):
            request.wfile.write(body[offset : min(offset + size, end)])
            request.wfile.flush()
            time.sleep(pause_s)
    except (BrokenPipeError, ConnectionResetError):
        pass
