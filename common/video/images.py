"""Images as videos: GIFs and other animated images, one image, a folder or a list of images (Pillow)."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from common.video.clip import (
    Clip,
    Indices,
    Source,
    VideoInfo,
    VideoReadError,
    assemble,
    choose,
    mean_fps,
    name_of,
)

SUFFIXES = frozenset({".gif", ".png", ".apng", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
FOLDER_FPS = 1.0  # images in a folder carry no times: one a second, so that an index is also its time
DEFAULT_MILLISECONDS = 100  # of a GIF frame that states 0, as browsers show it


def is_images(source: Source) -> bool:
    """Whether a source is for this module: a folder, a list of images, or a file with an image's suffix."""
    if isinstance(source, str | Path):
        path = Path(source)
        return path.is_dir() or (path.suffix.lower() in SUFFIXES and path.is_file())
    return all(Path(item).suffix.lower() in SUFFIXES for item in source)


def probe(source: Source) -> VideoInfo:
    """Facts of the images; height and width are those of the first."""
    files = _files(source)
    return _probe_animation(files[0]) if len(files) == 1 else _probe_files(files)


def read(source: Source, indices: Indices) -> Clip:
    """Pictures by number; see `common.video.decode.read`."""
    files = _files(source)
    info = probe(source)
    wanted = choose(name_of(source), indices, info)
    numbers = set(wanted.tolist())
    if len(files) == 1:
        frames = _read_animation(files[0], numbers)
    else:
        frames = {i: _read_image(files[i]) for i in sorted(numbers)}
    return assemble(name_of(source), wanted, frames, info)


def decode(name: Path, data: bytes) -> NDArray[np.uint8]:
    """One image whose content is at hand (a member of an archive), as `read` gives it: uint8 (H, W, 3).

    Args:
        name: to give in messages.
        data: the content.

    Raises:
        VideoReadError: it is damaged, or no image.
    """
    with opened(name, data) as image:
        return _rgb(image)


def _files(source: Source) -> list[Path]:
    """Image files of a source, in order: a list as given, a folder by name with numbers compared by value."""
    if not isinstance(source, str | Path):
        files = [Path(item) for item in source]
    elif Path(source).is_dir():
        found = (f for f in Path(source).iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
        files = sorted(found, key=_by_number)
    else:
        files = [Path(source)]
    if not files:
        raise VideoReadError(name_of(source), f"no images in it (looked for {', '.join(sorted(SUFFIXES))})")
    return files


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _probe_files(files: list[Path]) -> VideoInfo:
    height, width, _ = _read_image(files[0]).shape
    kind = files[0].suffix.lower().lstrip(".")
    seconds = np.arange(len(files)) / FOLDER_FPS
    return VideoInfo(len(files), seconds, FOLDER_FPS, height, width, kind, "images", 0)


def _probe_animation(path: Path) -> VideoInfo:
    with opened(path) as image:
        kind = (image.format or "").lower()
        shown = [frame.info.get("duration", 0) or DEFAULT_MILLISECONDS for frame in ImageSequence.Iterator(image)]
        image.seek(0)
        height, width, _ = _rgb(image).shape
    seconds = np.cumsum([0.0, *shown[:-1]]) / 1000
    return VideoInfo(len(shown), seconds, mean_fps(seconds), height, width, kind, kind, 0)


def _read_animation(path: Path, numbers: set[int]) -> dict[int, NDArray[np.uint8]]:
    with opened(path) as image:  # in order: a GIF frame is drawn over those before it
        return {i: _rgb(frame) for i, frame in enumerate(ImageSequence.Iterator(image)) if i in numbers}


def _read_image(path: Path) -> NDArray[np.uint8]:
    with opened(path) as image:
        return _rgb(image)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), upright by the EXIF tag; what is transparent becomes black."""
    turned = ImageOps.exif_transpose(image)
    if turned.has_transparency_data:
        turned = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, (0, 0, 0, 255)), turned)
    return np.array(turned.convert("RGB"), dtype=np.uint8)


@contextmanager
def opened(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """An image file; Pillow's errors, also those that appear only while decoding, become a VideoReadError.

    Args:
        path: the file, or the name to give in messages where its content comes as `data`.
        data: the content, where it is at hand.
    """
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as image:
            yield image
    except FileNotFoundError as error:
        raise VideoReadError(path, "no such file") from error
    except UnidentifiedImageError as error:
        raise VideoReadError(path, "not an image in any format that Pillow knows; fetch it again") from error
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise VideoReadError(path, f"damaged image: {error}") from error
