"""Reads video files with decord, behind the checks without which it returns wrong frames in silence.

decord counts the packets of a container, also those that an edit list hides, and so numbers the frames of
clips cut without re-encoding wrongly; on some of them it never returns. It is called in a process of its own
only (`common.video.worker`), which can be killed.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.video import pyav
from common.video.clip import VideoInfo, VideoReadError

CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
CODECS_UNKNOWN = ("av1",)  # to the FFmpeg 4.1 that its wheels carry
REMEDY = "read it with video=pyav"
ANY_REPAIR = 1e-9  # share of frames that decord may quietly replace by others: none


def require() -> None:
    """Checks that decord is installed.

    Raises:
        ValueError: it is not, with the remedy.
    """
    if find_spec("decord") is None:
        raise ValueError(
            "video.backend=decord, but decord is not installed here (its wheels exist for x86-64 only): "
            "`pip install decord`, or use video=pyav"
        )


def probe(path: Path) -> VideoInfo:
    """Facts of a file on which decord can be trusted.

    Raises:
        VideoReadError: the file is broken, or decord would be wrong on it.
    """
    require()
    found = pyav.inspect(path)
    why = refusal(found)
    if why:
        raise VideoReadError(path, f"refused for decord: {why}; {REMEDY}")
    return found.info


def refusal(found: pyav.Inspection) -> str | None:
    """Why decord must not read a file, or None where it may."""
    info, index, mirrored = found
    cases = (
        (info.container not in CONTAINERS, f"it seeks wrongly in containers such as {info.container}"),
        (info.codec in CODECS_UNKNOWN, f"it cannot decode {info.codec}"),
        (index.missing_packets > 0, f"the file is cut off, {index.missing_packets} packets are missing"),
        (index.num_hidden > 0, f"it would count {index.num_hidden} hidden packets (a cut by stream copy)"),
        (index.num_open_groups > 0, f"it misnumbers frames around {index.num_open_groups} open groups of pictures"),
        (not index.exact, "the file has no usable presentation times"),
        (mirrored, "the picture is stored mirrored, and it would not turn it back"),
    )
    return next((reason for applies, reason in cases if applies), None)


def read(path: Path, wanted: NDArray[np.int64], num_frames: int) -> NDArray[np.uint8]:
    """Frames of a file that `probe` has let pass. May hang or crash: call it in a killable process.

    Args:
        path: the video file.
        wanted: int64 (T,), frame numbers.
        num_frames: frames that are shown, as `probe` counted them.

    Returns:
        uint8 (T, H, W, 3), RGB, native size.

    Raises:
        VideoReadError: decord fails, counts other frames, or has put repeats in place of broken frames.
    """
    import decord  # type: ignore[import-untyped,unused-ignore]  # not installed everywhere

    decord.logging.set_level(decord.logging.QUIET)
    unique, place = np.unique(wanted, return_inverse=True)  # unsorted indices cost it several times as much
    try:
        reader = decord.VideoReader(str(path), num_threads=1, fault_tol=ANY_REPAIR)
        counted = len(reader)
        frames = reader.get_batch(unique).asnumpy() if counted == num_frames else None
        del reader  # an open reader goes on decoding in the background
    except decord.DECORDLimitReachedError as error:
        raise VideoReadError(path, f"decord puts repeats in the place of frames; {REMEDY}") from error
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoReadError(path, f"decord: {str(error).strip().splitlines()[0]}; {REMEDY}") from error
    if frames is None:
        raise VideoReadError(path, f"decord counts {counted} frames where {num_frames} are shown; {REMEDY}")
    return np.asarray(frames[place], dtype=np.uint8)


def read_bare(path: Path, indices: Callable[[int], Sequence[int] | NDArray[np.int64]]) -> NDArray[np.uint8]:
    """Frames as a plain script reads them: decord in this process with its default threads, nothing checked.

    For comparisons of speed with such scripts only: on some files it returns other frames or never returns.

    Args:
        path: the video file.
        indices: gets the number of frames as decord counts it, and returns frame numbers.

    Returns:
        uint8 (T, H, W, 3), RGB, native size.
    """
    require()
    import decord  # not installed everywhere

    reader = decord.VideoReader(str(path))
    return np.asarray(reader.get_batch(list(indices(len(reader)))).asnumpy(), dtype=np.uint8)
