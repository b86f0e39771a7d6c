"""A web server on this machine's loopback that does what each test tells it, and stands for the public internet."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.net.download import Downloader

PUBLIC = "93.184.215.14"  # any address that is_public
CLIP = bytes(range(256)) * 4096  # 1 MiB
Reply = Callable[[Any], None]


class Server:
    """Answers the n-th request for a path by the n-th of its replies, and all later ones by the last."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, list[Reply]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_closing = self.closing

            def do_GET(self) -> None:
                self.close_connection = True
                with contextlib.suppress(ConnectionError, ssl.SSLError):  # the client has seen enough
                    outer._reply(self)(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *args: None  # type: ignore[method-assign]  # a client that hangs up early
        if context is not None:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def _reply(self, handler: Any) -> Reply:
        with self._lock:
            self.requests.append((handler.path, dict(handler.headers)))
            number = self._counts.get(handler.path, 0)
            self._counts[handler.path] = number + 1
        replies = self.pages.get(handler.path, [status(404)])
        return replies[min(number, len(replies) - 1)]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def asked(self, path: str) -> int:
        return self._counts.get(path, 0)

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class World:
    """Names and connections of a small internet: every public address leads to the server."""

    def __init__(self, server: Server, names: dict[str, Sequence[Sequence[str]]] | None = None) -> None:
        self.server, self.names = server, names or {}
        self.looked_up: list[str] = []
        self.dialled: list[str] = []

    def resolve(self, host: str, port: int) -> list[str]:
        """The n-th answer for a name, the last for ever; a public address for a name that is not listed."""
        answers = self.names.get(host, [[PUBLIC]])
        number = self.looked_up.count(host)
        self.looked_up.append(host)
        return list(answers[min(number, len(answers) - 1)])

    def dial(self, address: str, port: int, seconds: float) -> socket.socket:
        self.dialled.append(address)
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=seconds)

    def downloader(self, **settings: Any) -> Downloader:
        quick = {"first_wait": 0.01, "retries": 2, "resolve": self.resolve, "dial": self.dial}
        return Downloader(**{**quick, **settings})


def status(code: int, **headers: str) -> Reply:
    def reply(handler: Any) -> None:
        handler.send_response(code)
        _send_headers(handler, {"Content-Length": "0", **headers})

    return reply


def redirect(to: str, code: int = 302) -> Reply:
    return status(code, Location=to)


def file(
    data: bytes = CLIP,
    *,
    kind: str | None = "video/mp4",
    etag: str | None = '"one"',
    ranges: bool = True,
    length: bool = True,
    cut: int | None = None,
    before: Callable[[Any], None] | None = None,
    **headers: str,
) -> Reply:
    """A file; the connection ends before the byte `cut`, and `before` is called when all up to it is sent."""

    def reply(handler: Any) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        same = handler.headers.get("If-Range") in (etag, headers.get("Last_Modified"))
        start = int(wanted[1]) if ranges and wanted and same else 0
        if start and start >= len(data):
            return status(416)(handler)
        handler.send_response(206 if start else 200)
        own = {"Content-Type": kind, "ETag": etag, "Content-Length": str(len(data) - start) if length else None}
        own["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}" if start else None
        _send_headers(handler, {**own, **headers})
        handler.wfile.write(data[start:cut])
        if before is not None:
            before(handler)
        return None

    return reply


def drip(head: bytes) -> Reply:
    """`head`, and then a byte now and then, for as long as somebody listens."""

    def reply(handler: Any) -> None:
        handler.wfile.write(head)
        while not handler.server_closing.wait(0.02):
            handler.wfile.write(b"x")

    return reply


def silence(handler: Any) -> None:
    handler.server_closing.wait()


def _send_headers(handler: Any, headers: dict[str, str | None]) -> None:
    for name, value in headers.items():
        if value is not None:
            handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
