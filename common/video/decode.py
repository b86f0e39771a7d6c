"""The one door to pixels: video files, GIFs, folders of images, lists of images and single images.

`read` returns the frames that were asked for, or raises. It never returns a neighbour, a repeat or a blank in
place of a frame that cannot be decoded.
"""

from pathlib import Path

from common.video import decord, images, pyav
from common.video.clip import Clip, Indices, Source, VideoInfo, VideoReadError, name_of
from common.video.worker import read_isolated

__all__ = ["BACKENDS", "Clip", "VideoInfo", "VideoReadError", "probe", "read"]

BACKENDS = ("pyav", "decord")


def probe(path: Source, *, backend: str = "pyav") -> VideoInfo:
    """Finds out what a video holds: reads its packets and decodes one frame.

    Args:
        path: a video file, a GIF, an image, a folder of images (in the order of their names, numbers by
            value), or a list of image files (in the order given).
        backend: "pyav" or "decord"; the latter also checks whether decord can be trusted with the file.

    Raises:
        VideoReadError: the video cannot be read, or decord was asked for and would be wrong on it.
        ValueError: there is no such backend.
    """
    _check(backend)
    if images.is_images(path):
        return images.probe(path)
    file = _file(path)
    if backend == "pyav":
        return pyav.probe(file)
    return decord.probe(file)


def read(path: Source, indices: Indices, *, backend: str = "pyav") -> Clip:
    """Decodes frames at native size.

    Args:
        path: as for `probe`.
        indices: frame numbers from 0, in any order, repeats allowed (each is decoded once); or a function
            that gets the `VideoInfo` and returns them.
        backend: "pyav", or "decord": decoded in a process of its own that is killed when it hangs, and
            refused for files on which decord is known to return wrong frames. Images are read by Pillow with
            either.

    Raises:
        VideoReadError: the file cannot be read, an index is out of range, or an asked frame cannot be
        decoded. ValueError: there is no such backend.
    """
    _check(backend)
    if images.is_images(path):
        return images.read(path, indices)
    file = _file(path)
    if backend == "pyav":
        return pyav.read(file, indices)
    return read_isolated(file, indices, backend=backend)


def _check(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"video.backend={backend!r} is not one of {', '.join(BACKENDS)}")


def _file(path: Source) -> Path:
    if not isinstance(path, str | Path):
        raise VideoReadError(name_of(path), "a list may hold image files only; give a video file by itself")
    file = Path(path)
    if not file.exists():
        raise VideoReadError(path, "no such file")
    if not file.is_file():
        raise VideoReadError(path, "neither a file nor a folder of images")
    return file
