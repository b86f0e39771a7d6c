"""The published captions: one pickle of a dictionary from the name of a video to its new caption."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from common.data.cache import WHOLE
from common.encoders.turns import runs
from common.files import digest
from projects.text_to_video.caption_exchange import GROUP
from projects.text_to_video.caption_report import TextLimit, report
from projects.text_to_video.captions import CaptionError, Written, distinct, key_of, open_captions, read_written
from projects.text_to_video.clips import read_clips

log = logging.getLogger(__name__)
# What a pickle that is cut off or made up runs into.
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    MemoryError,
    RecursionError,
)


class PlainUnpickler(pickle.Unpickler):
    """Rebuilds dictionaries, lists, texts and numbers: no name that a pickle mentions is ever looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it calls {module}.{name}, which no dictionary of captions needs")

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError("it refers to something outside of it")


def read_caption_pickle(path: Path) -> dict[str, str]:
    """New captions by the name of the video, without running what a pickle could run.

    A caption may be a text, or a list that holds one.

    Raises:
        CaptionError: there is no such file, or it is no whole pickle of that kind.
    """
    if not path.is_file():
        raise CaptionError(f"{path} is not there; it is the file caption_dict.pkl that the recaptioning of 2024 wrote")
    try:
        with open(path, "rb") as file:
            content = PlainUnpickler(file).load()
    except _BROKEN as error:
        raise CaptionError(f"{path}: not a whole pickle of a dictionary of captions ({error})") from error
    if type(content) is not dict or not content:
        raise CaptionError(f"{path}: holds {type(content).__name__}, not captions by the name of the video")
    return dict(_entry(name, value, path) for name, value in content.items())


def import_published(
    *, table: str, output: str, captions: str, max_words: int, text: TextLimit, max_missing: float
) -> dict[str, Any]:
    """Brings the published captions of the clips of a table into a folder of their own.

    They are known by video there and by original caption here: of clips with the same original, the first in the table
    counts, and the others are counted as `differing`.

    Args:
        table: of clips, or its folder.
        output: folder for the captions.
        captions: the pickle.
        max_words: that a caption may have, for the report.
        text: what the captions must fit into, for the report.
        max_missing: greatest share of the different captions that may be without a published one.

    Returns:
        Counts, as of `recaption`, and `differing`.

    Raises:
        CaptionError: the pickle cannot be read, or too many are missing.
    """
    published = {PurePosixPath(name.replace("\\", "/")).name: value for name, value in _read(captions).items()}
    originals = distinct(clip.caption for clip in read_clips(table))
    found, differing = _by_key(table, published)
    missing = len(originals) - len(found)
    if missing > max_missing * len(originals):
        raise CaptionError(
            f"{missing} of {len(originals)} captions are not in {captions}, more than task.max_missing={max_missing}; "
            "make them with task=recaption, or allow more"
        )
    folder = Path(output)
    with open_captions(folder, settings={"engine": "published", "content": digest(Path(captions))}, part=WHOLE) as file:
        there = read_written(folder)
        new = [each for key, each in found.items() if key not in there]
        for group in runs(new, GROUP):
            file.append(group)
    figures = report(originals, folder, max_words=max_words, text=text)
    return {"written": len(new), "differing": differing, **figures}


def _read(path: str) -> Mapping[str, str]:
    return read_caption_pickle(Path(path))


def _by_key(table: str, published: Mapping[str, str]) -> tuple[dict[str, Written], int]:
    found: dict[str, Written] = {}
    differing = 0
    for clip in read_clips(table):
        caption = published.get(PurePosixPath(clip.video).name)
        if caption is not None:
            written = Written(key_of(clip.caption), " ".join(caption.split()))
            differing += found.setdefault(written.key, written) != written
    if differing:
        log.warning("%d clips share their original caption with one whose published caption differs", differing)
    return found, differing


def _entry(name: object, value: object, path: Path) -> tuple[str, str]:
    if type(value) is list and len(value) == 1:
        value = value[0]
    if type(name) is not str or type(value) is not str:
        raise CaptionError(f"{path}: the entry {name!r} is not a text by the name of a video")
    return name, value
