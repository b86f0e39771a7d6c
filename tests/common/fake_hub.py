"""A Hugging Face Hub of the size of one repository: enough of its HTTP interface for an upload, over real sockets."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

TOKEN = "a-token-of-the-test"
LARGE = (".safetensors", ".bin")  # as the .gitattributes of a new repository on the Hub say
OBJECT = re.compile(r"/storage/([0-9a-f]{64})")


class Answer(NamedTuple):
    """Status, JSON or text, and headers."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = MappingProxyType({})


class Asked(NamedTuple):
    """One request that arrived."""

    method: str
    path: str
    body: bytes


@dataclass
class FakeHub:
    """What the server holds, what it was asked, and which answers it gives before the true ones."""

    private: bool = True
    exists: bool = False
    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # of the repository, committed
    objects: dict[str, bytes] = field(default_factory=dict)  # large ones by sha256, committed or not
    commits: list[list[dict[str, Any]]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    troubles: list[tuple[str, Answer]] = field(default_factory=list)  # (part of a path, answer), each used once

    def count(self, method: str, part: str) -> int:
        return sum(each.method == method and part in each.path for each in self.asked)

    def answer(self, asked: Asked, token: str | None) -> Answer:
        self.asked.append(asked)
        for trouble in self.troubles:
            if trouble[0] in asked.path:
                self.troubles.remove(trouble)
                return trouble[1]
        stored = OBJECT.fullmatch(asked.path)
        if stored:
            return self.store(stored.group(1), asked.body)
        if token != f"Bearer {TOKEN}":
            return Answer(401, {"error": "Invalid username or password."})
        routes: dict[str, Callable[[bytes], Answer]] = {
            "/api/repos/create": self.create,
            "/api/validate-yaml": lambda body: Answer(body={"errors": [], "warnings": []}),
            "/api/models/me/it": self.info,
            "/api/models/me/it/revision/main": self.info,
            "/api/models/me/it/preupload/main": self.preupload,
            "/me/it.git/info/lfs/objects/batch": self.batch,
            "/api/models/me/it/commit/main": self.commit,
        }
        route = routes.get(asked.path)
        return route(asked.body) if route else Answer(404, {"error": f"no {asked.path}"})

    def create(self, body: bytes) -> Answer:
        wanted = json.loads(body)
        if self.exists:
            return Answer(409, {"error": "You already created this model repo", "url": f"{self.address}/me/it"})
        self.exists, self.private = True, wanted["visibility"] == "private"
        return Answer(body={"url": f"{self.address}/me/it"})

    def info(self, body: bytes) -> Answer:
        return Answer(body={"id": "me/it", "private": self.private, "sha": "0" * 40, "siblings": [], "tags": []})

    def preupload(self, body: bytes) -> Answer:
        files = []
        for each in json.loads(body)["files"]:
            large = each["path"].endswith(LARGE)
            held = self.files.get(each["path"])
            oid = None
            if held is not None:
                git = hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()
                oid = hashlib.sha256(held).hexdigest() if large else git
            mode = "lfs" if large else "regular"
            files.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer(body={"files": files})

    def batch(self, body: bytes) -> Answer:
        objects = []
        for each in json.loads(body)["objects"]:
            entry = dict(each)
            if each["oid"] not in self.objects:
                entry["actions"] = {"upload": {"href": f"{self.address}/storage/{each['oid']}"}}
            objects.append(entry)
        return Answer(body={"transfer": "basic", "objects": objects})

    def store(self, oid: str, body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return Answer(400, "not the object of this name")
        self.objects[oid] = body
        return Answer()

    def commit(self, body: bytes) -> Answer:
        lines = [json.loads(line) for line in body.splitlines()]
        self.commits.append(lines)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]
        oid = f"{len(self.commits):040x}"
        return Answer(body={"commitUrl": f"{self.address}/me/it/commit/{oid}", "commitOid": oid, "success": True})


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub on a free port of this machine; at the end, nothing may have been deleted there."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert hub.count("DELETE", "") == 0
    assert {line["key"] for lines in hub.commits for line in lines} <= {"header", "file", "lfsFile"}  # no deletedFile


def handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    """Reads a request, and sends what the hub answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self._body()
            asked = Asked(self.command, self.path.partition("?")[0], body)
            status, content, headers = hub.answer(asked, self.headers.get("Authorization"))
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: Any) -> None:
            """Keeps quiet."""

    return Handler
