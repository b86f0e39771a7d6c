"""The preparation task that makes a table of clips from any list of videos and captions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projects.text_to_video.clip_table import Holdout, write_table
from projects.text_to_video.limits import Limits
from projects.text_to_video.pairs import Pairs


def make_video_table(
    *,
    source: Pairs,
    folder: str,
    limits: Limits,
    holdout: Mapping[str, float],
    seed: int,
    probe: bool,
    max_missing: float,
) -> dict[str, Any]:
    """Writes the table of the clips that are within the limits and on disk.

    Args:
        source: where videos and captions are listed.
        folder: for `clips.jsonl`, `clips.json` and `missing.jsonl`.
        limits: which clips are taken.
        holdout: shares of "val" and "test", for clips without a split of their own.
        seed: of the hold-out.
        probe: find out length, rate and size of the clips, whose files are opened for it.
        max_missing: greatest share that may be missing.

    Returns:
        Counts; see `write_table`.

    Raises:
        ValueError: the list cannot be read, two rows are about one video, or too much is missing.
    """
    return write_table(
        source.clips(),
        folder=Path(folder),
        media=source.media,
        limits=limits,
        holdout=Holdout(holdout, seed=seed),
        source=source.settings(),
        probe=probe,
        max_missing=max_missing,
    )
