"""The child process of `common.video.worker`: answers requests on its standard input until that is closed.

A request is one line of JSON. An answer is one line of JSON and, after it, the bytes of the frames. Nothing
is
pickled: what comes out of a process that has opened a hostile file is only ever read as numbers.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.video import decode, decord, images
from common.video.clip import VideoReadError

Answer: TypeAlias = tuple[dict[str, Any], NDArray[np.uint8] | None]
Operation: TypeAlias = Callable[[dict[str, Any]], Answer]
# Beyond the deadline: the parent's kill comes first, the kernel's only where the parent is gone.
SPARE_CPU_SECONDS = 30


def probe(request: dict[str, Any]) -> Answer:
    """`decode.probe`; the times as a list."""
    info = decode.probe(request["path"], backend=request["backend"])
    return info._replace(seconds=info.seconds.tolist())._asdict(), None


def read(request: dict[str, Any]) -> Answer:
    """`decode.read`, or decord itself, since this process is the one that may be killed."""
    path, wanted = request["path"], np.array(request["indices"], np.int64)
    if request["backend"] == "decord" and isinstance(path, str) and not images.is_images(path):
        return {"bad_packets": 0, "corrupt_frames": 0}, decord.read(Path(path), wanted, request["num_frames"])
    clip = decode.read(path, wanted)
    return {"bad_packets": clip.bad_packets, "corrupt_frames": clip.corrupt_frames}, clip.frames


OPERATIONS: dict[str, Operation] = {"probe": probe, "read": read}


def serve(operations: Mapping[str, Operation] = OPERATIONS) -> None:
    """Answers requests until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    idle_bytes = _address_space()
    _answer(answers, {"ready": True}, None)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit(idle_bytes + request["memory_bytes"], request["deadline_seconds"])
        try:
            header, frames = operations[request["operation"]](request)
        except VideoReadError as error:
            header, frames = {"refused": error.reason}, None
        except MemoryError:
            reason = f"decoding needs more than memory_bytes={request['memory_bytes']}"
            header, frames = {"refused": reason, "spent": True}, None
        _answer(answers, header, frames)


def _answer(answers: BinaryIO, header: dict[str, Any], frames: NDArray[np.uint8] | None) -> None:
    if frames is not None:
        frames = np.ascontiguousarray(frames)
        header["shape"] = frames.shape
    answers.write(json.dumps(header).encode() + b"\n")
    if frames is not None:
        answers.write(frames.data)
    answers.flush()


def _address_space() -> int:
    """Bytes of address space in use (Linux; 0 elsewhere, where the limit then counts the libraries too)."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 0


def _limit(memory_bytes: int, deadline_seconds: float) -> None:
    """Bounds what the next request may take. The kernel enforces both, also when the parent has died."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + deadline_seconds) + SPARE_CPU_SECONDS
    for kind, wish in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, seconds)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (wish if hard == resource.RLIM_INFINITY else min(wish, hard), hard))


if __name__ == "__main__":
    serve()
