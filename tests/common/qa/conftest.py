"""A made-up benchmark in the published layouts, and a chat server on this machine's loopback."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """Replies to chat requests by `script` and keeps them."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script: Callable[[int, dict[str, Any]], Answer] = lambda number, body: self.says("{'score': 3}")
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(body)
                    outer.headers.append(dict(self.headers))
                    number = len(outer.requests)
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                try:
                    status, headers, payload = outer.script(number, body)
                finally:
                    with outer._lock:
                        outer._now -= 1
                self.send_response(status)
                for name, value in {"Content-Length": str(len(payload)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has given up
                    self.wfile.write(payload)

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @staticmethod
    def says(text: str | None, model: str = "judge-2026-01") -> Answer:
        answer = {"model": model, "choices": [{"message": {"role": "assistant", "content": text}}]}
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    @staticmethod
    def fails(status: int, text: str = "", **headers: str) -> Answer:
        return status, {name.replace("_", "-"): value for name, value in headers.items()}, text.encode()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


GENERIC = [
    {"video_name": "v_a", "Q": "What happens?", "A": "A dog runs after a ball."},
    {"video_name": "v_b", "Q": "What happens?", "A": "Two men play chess."},
    {"video_name": "v_a", "Q": "Where is it?", "A": "In a park."},
]
TEMPORAL = [{"video_name": "v_a", "Q": "What comes first?", "A": "The ball is thrown."}]
CONSISTENCY = [
    {"video_name": "v_b", "Q1": "What is played?", "Q2": "Which game do they play?", "A": "Chess"},
    {"video_name": "v_c", "Q1": "Who wins?", "Q2": "Which one is the winner?", "A": "The left man"},
]
ASKED = [
    {"video_name": "v_a", "question": "what runs", "question_id": "a_0"},
    {"video_name": "v_a", "question": "what colour is the ball", "question_id": "a_1"},
    {"video_name": "v_b", "question": "is it raining", "question_id": "b_0"},
    {"video_name": "v_c", "question": "how many men", "question_id": "c_0"},
]
ANSWERED = [  # in another order than the questions
    {"answer": "two", "question_id": "c_0", "type": 2},
    {"answer": "no", "question_id": "b_0", "type": 1},
    {"answer": "red", "question_id": "a_1", "type": 2},
    {"answer": "dog", "question_id": "a_0", "type": 1},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.fixture
def vcg_files(tmp_path: Path) -> dict[str, str]:
    """Arguments of `vcgbench`."""
    rows = {"generic": GENERIC, "temporal": TEMPORAL, "consistency": CONSISTENCY}
    return {name: write(tmp_path / f"{name}_qa.json", each) for name, each in rows.items()}


@pytest.fixture
def zero_shot_files(tmp_path: Path) -> dict[str, str]:
    """File arguments of `zero_shot`."""
    return {"questions": write(tmp_path / "test_q.json", ASKED), "answers": write(tmp_path / "test_a.json", ANSWERED)}
