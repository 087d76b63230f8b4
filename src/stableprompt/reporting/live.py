"""The page of a run while it goes on: one address on this machine's loopback interface.

Nothing but the page is served. Requests are answered only under the names of the loopback
interface, so that a web site whose name is made to point here (DNS rebinding) reads nothing.
Other users of the same machine can open the address, as with any such server.
"""

import hashlib
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from stableprompt.errors import RunError
from stableprompt.reporting.page import page, policy
from stableprompt.reporting.reading import SHOWN_FILES, read_run

HOST: Final = "127.0.0.1"
_PATIENCE_SECONDS: Final = 10.0


def version_of(folders: Sequence[Path]) -> str:
    """Differs where a file that a page is made from does: from names, sizes and times."""
    digest = hashlib.sha256()
    for folder in folders:
        for name in SHOWN_FILES:
            try:
                found = (folder / name).stat()
                told = f"{name} {found.st_size} {found.st_mtime_ns} {found.st_ino}"
            except OSError:
                told = name
            digest.update(told.encode("utf-8") + b"\n")
    return f'"{digest.hexdigest()[:32]}"'


class LiveServer(ThreadingHTTPServer):
    """Serves the page of these run folders.

    Args:
        folders: One run, or several side by side.
        port: 0 takes a free one.

    Raises:
        RunError: a folder is none of a run, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], port: int = 0) -> None:
        for folder in folders:
            read_run(folder)
        self.folders = tuple(folders)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise RunError(
                f"port {port} of {HOST} cannot be used ({error.strerror}); name another with --port"
            ) from error
        self.names = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        """What a request may call this server."""

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle of an answer is nobody's mistake."""


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    server_version = "stableprompt"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE_SECONDS

    def do_GET(self) -> None:
        """Answer with the page, or with 304 where the browser has it."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """The same without the page."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if self.headers.get("Host", "").lower() not in self.server.names:
            self._send(HTTPStatus.FORBIDDEN, b"open the address that stableprompt watch printed\n")
            return
        if self.path.partition("?")[0] != "/":
            self._send(HTTPStatus.NOT_FOUND, b"there is one page here: /\n")
            return
        version = version_of(self.server.folders)  # before reading: never newer than what is read
        if self.headers.get("If-None-Match") == version:
            self._send(HTTPStatus.NOT_MODIFIED, b"", version=version)
            return
        try:
            html = page([read_run(folder) for folder in self.server.folders], live=True)
        except RunError as error:  # the folder was taken away meanwhile
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
            return
        self._send(HTTPStatus.OK, html.encode("utf-8"), version=version, with_body=with_body)

    def _send(
        self, status: HTTPStatus, body: bytes, *, version: str = "", with_body: bool = True
    ) -> None:
        html = status is HTTPStatus.OK
        self.send_response(status)
        self.send_header("Content-Type", f"text/{'html' if html else 'plain'}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Content-Security-Policy", f"{policy(live=True)}; frame-ancestors 'none'")
        if version:
            self.send_header("ETag", version)
        self.end_headers()
        if with_body and status is not HTTPStatus.NOT_MODIFIED and self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal belongs to the person."""
