"""Web servers that behave badly, and a small hub: real ones, on this machine."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

BOMB = gzip.compress(b"\0" * 5_000_000)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def start(self, code: int = 200, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class Bad(Handler):
    """Answers by what the path says it should do wrong; `sent` counts bytes."""

    sent: ClassVar[dict[str, int]] = {}

    def do_HEAD(self) -> None:
        self.close_connection = True
        name = self.path.strip("/").partition(".")[0]
        self.start(**({} if name in ("endless", "trickle", "silent") else {"Content_Length": 1000}))

    def do_GET(self) -> None:
        self.close_connection = True
        name = self.path.strip("/").partition(".")[0]
        with suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, f"_{name}")()

    def _good(self) -> None:
        self.start(Content_Length=1000)
        self.wfile.write(b"g" * 1000)

    def _endless(self) -> None:
        self.start(Connection="close")
        while True:
            self.wfile.write(b"\0" * (1 << 16))
            self.sent["endless"] = self.sent.get("endless", 0) + (1 << 16)

    def _trickle(self) -> None:
        self.start(Connection="close")
        while True:
            self.wfile.write(b".")
            time.sleep(0.05)

    def _silent(self) -> None:
        self.start(Connection="close")
        time.sleep(60)

    def _headers(self) -> None:
        while True:  # one that never ends
            self.wfile.write(b"H")
            time.sleep(0.05)

    def _short(self) -> None:
        self.start(Content_Length=1000)
        self.wfile.write(b"s" * 400)

    def _huge(self) -> None:
        self.start(Content_Length=1 << 50)
        self.wfile.write(b"h" * 1000)

    def _more(self) -> None:  # than was said when it was asked for the size alone
        self.start(Content_Length=2_000_000)
        self.wfile.write(b"m" * 2_000_000)

    def _bomb(self) -> None:
        self.start(Content_Length=len(BOMB), Content_Encoding="gzip")
        self.wfile.write(BOMB)


def hub_of(files: dict[str, bytes], *, repo: str, commit: str, told: dict[str, int] | None = None) -> type[Handler]:
    """Return a hub with one model. It says that files have their sizes, or those `told`; `trickle.bin` never ends."""

    class Hub(Handler):
        asked: ClassVar[list[str]] = []

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            api = f"/api/models/{repo}"
            if path.startswith(f"{api}/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                return self._answer(200, json.dumps(tree).encode())
            if path.startswith(api):
                revision = path.removeprefix(api).removeprefix("/revision/")
                if revision == "gone":
                    return self._answer(404, b"{}", X_Error_Code="RevisionNotFound")
                sizes = {name: len(data) for name, data in files.items()} | (told or {})
                rows: list[dict[str, Any]] = [{"rfilename": name, "size": size} for name, size in sizes.items()]
                about = {"_id": "1", "id": repo, "sha": commit, "siblings": rows, "tags": [], "private": False}
                return self._answer(200, json.dumps(about).encode())
            name = path.removeprefix(f"/{repo}/resolve/{commit}/")
            if name not in files:
                return self._answer(404, b"", X_Error_Code="EntryNotFound")
            if self.command == "GET":
                self.asked.append(name)
            data = files[name]
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            return self._answer(200, data, X_Repo_Commit=commit, ETag=etag, slow=name == "trickle.bin")

        def _answer(self, code: int, data: bytes, slow: bool = False, **headers: str) -> None:
            self.start(code, Content_Length=len(data), **headers)
            if self.command == "GET":
                for i in range(0, len(data), 1 if slow else len(data) or 1):
                    self.wfile.write(data[i : i + 1] if slow else data)
                    time.sleep(0.05 if slow else 0)

    return Hub


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of this machine; yields the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
