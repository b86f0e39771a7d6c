"""Decodes in a process that can be killed: for untrusted files, and for decord.

A file that hangs the decoder, crashes it or makes it ask for too much memory costs one `VideoReadError`; the
next file gets a fresh process. The process is kept between calls, so a call costs a round trip and a copy of
the frames.
"""

import atexit
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.video import decord
from common.video.clip import Clip, Indices, Source, VideoInfo, VideoReadError, choose, name_of

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "common.video.child")
START_SECONDS = 120.0  # for Python and its libraries to load, on a slow shared disk
BASE_SECONDS = 30.0
DEADLINE_FACTOR = 10.0
PIXELS_PER_SECOND = 5e7  # one slow core, H.264; a third to a tenth of what is usual
MEMORY_BYTES = 4 << 30
HEADER_BYTES = 1 << 26  # longest header that is read: presentation times of about three million frames


class Worker:
    """One decoding process, started at the first request and again after each that killed it.

    Args:
        command: the program that serves requests, see `common.video.child`.
    """

    def __init__(self, *, command: Sequence[str] = COMMAND) -> None:
        self.command = tuple(command)
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def request(
        self, operation: str, path: Source, *, deadline_seconds: float, memory_bytes: int, **details: Any
    ) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        """Sends one request and waits for its answer, at most `deadline_seconds`.

        Returns:
            The answer's header, and its frames, uint8 (T, H, W, 3), if it has any.

        Raises:
            VideoReadError: the child refuses the file, hangs, crashes, or runs out of memory.
        """
        where = str(path) if isinstance(path, str | Path) else [str(item) for item in path]
        limits = {"deadline_seconds": deadline_seconds, "memory_bytes": memory_bytes}
        message = {"operation": operation, "path": where, **limits, **details}
        with self._lock:
            if self.process is None or self.process.poll() is not None:
                self._start()
            header, frames = self._exchange(message, name_of(path), deadline_seconds, memory_bytes)
            if "spent" in header:  # out of memory: who knows in which state its libraries are
                self.close()
        if "refused" in header:
            raise VideoReadError(name_of(path), str(header["refused"]))
        return header, frames

    def close(self) -> None:
        """Kills the process, if there is one. In a fork's copy, whose process is the parent's, nothing."""
        if self.process is None or os.getpid() != self._owner:
            return
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process = None

    def _start(self) -> None:
        self.close()
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        # subprocess and not multiprocessing: a data loader's workers are daemons, which may have no such
        # children.
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._exchange(None, "the decoding process", START_SECONDS, MEMORY_BYTES)

    def _exchange(
        self, message: dict[str, Any] | None, name: str, deadline_seconds: float, memory_bytes: int
    ) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        """Writes a message and reads the answer; a timer's kill ends the reading when it takes too long."""
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert isinstance(process.stdout, io.BufferedReader)
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(deadline_seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            if message is not None:
                process.stdin.write(json.dumps(message).encode() + b"\n")
                process.stdin.flush()
            return _receive(process.stdout, memory_bytes)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            reason = f"no result after {deadline_seconds:g} s" if late.is_set() else _death(process.wait())
            self.close()
            raise VideoReadError(name, f"{reason}; the decoding process was given up") from error
        except BaseException:  # an answer half read would be taken for the next one's
            self.close()
            raise
        finally:
            timer.cancel()


def _receive(pipe: io.BufferedReader, memory_bytes: int) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    line = pipe.readline(HEADER_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError
    header: dict[str, Any] = json.loads(line)
    if "shape" not in header:
        return header, None
    shape = tuple(int(n) for n in header["shape"])
    if len(shape) != 4 or min(shape) < 1 or int(np.prod(shape, dtype=object)) > memory_bytes:
        raise EOFError  # a process that says so is not in order
    frames = np.empty(shape, np.uint8)
    rest = frames.reshape(-1).data
    while rest:
        count = pipe.readinto(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return header, frames


def _death(code: int) -> str:
    """Why a process ended that should not have."""
    if code >= 0:
        return f"decoding ended its process with code {code}"
    cause = {signal.SIGKILL: " (killed, probably for want of memory)", signal.SIGXCPU: " (out of time)"}
    return f"decoding crashed its process: {signal.Signals(-code).name}{cause.get(signal.Signals(-code), '')}"


_workers: dict[int, Worker] = {}


def worker() -> Worker:
    """The worker of this process; one that a fork has copied is the parent's and is left alone."""
    pid = os.getpid()
    if pid not in _workers:
        _workers[pid] = Worker()
        atexit.register(_workers[pid].close)
    return _workers[pid]


def expected_seconds(info: VideoInfo, indices: NDArray[np.int64]) -> float:
    """A generous guess of how long decoding takes up to the last of the frames asked for."""
    return (int(indices.max()) + 1) * info.height * info.width / PIXELS_PER_SECOND


def read_isolated(
    path: Source,
    indices: Indices,
    *,
    backend: str = "pyav",
    deadline_seconds: float | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Clip:
    """`common.video.decode.read` in a process that is killed when it does not behave.

    Args:
        path: as for `decode.read`.
        indices: as for `decode.read`; a function is called here, not in the other process.
        backend: "pyav" or "decord".
        deadline_seconds: for each of the two steps, the look at the file and the decoding. None for 30 s, and
            for the decoding 10 times its expected time on top.
        memory_bytes: address space that decoding may take beyond what the idle process has (enforced on
            Linux).

    Raises:
        VideoReadError: the file cannot be read, hangs or crashes its decoder, or needs too much memory or
        time. ValueError: decord is asked for and not installed.
    """
    if backend == "decord":
        decord.require()
    name = name_of(path)
    helper = worker()
    base = BASE_SECONDS if deadline_seconds is None else deadline_seconds
    facts, _ = helper.request("probe", path, backend=backend, deadline_seconds=base, memory_bytes=memory_bytes)
    info = VideoInfo(**{**facts, "seconds": np.array(facts["seconds"], np.float64)})
    wanted = choose(name, indices, info)
    if deadline_seconds is None:
        base += DEADLINE_FACTOR * expected_seconds(info, wanted)
    answer, frames = helper.request(
        "read",
        path,
        backend=backend,
        deadline_seconds=base,
        memory_bytes=memory_bytes,
        indices=wanted.tolist(),
        num_frames=info.num_frames,
    )
    assert frames is not None
    return Clip(frames, wanted, info.seconds[wanted], int(answer["bad_packets"]), int(answer["corrupt_frames"]))
