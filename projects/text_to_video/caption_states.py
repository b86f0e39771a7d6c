"""The preparation task that encodes captions once: a table apart from the latents, which new captions leave alone."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from common.data.cache import WHOLE, Cache, Part, Settings, StaleCacheError
from common.data.prompt_table import PromptTable
from common.disk import DiskSpaceError, human, shortage
from common.encoders.text import ClipText
from common.encoders.turns import one_thread, pick_devices
from common.types import Build
from projects.text_to_video.clip_lists import clip_lists
from projects.text_to_video.told import told

NULL = ""  # the caption of the branches without one
BYTES = 2  # of a stored number
TASK = "python -m launchers.prepare task=caption_states"


def caption_states(
    *,
    table: str,
    cache: str,
    text: Build[ClipText],
    captions_at_once: int,
    captions: str | None = None,
    keep_originals: bool = False,
    devices: str | Sequence[str] = "auto",
    shard: str | None = None,
) -> dict[str, float]:
    """States of all captions of a list of clips, by the caption itself: float16 (L, D), "" among them.

    Args:
        table: list of the clips, see `clip_lists`.
        cache: folder of the table; what is there already is kept.
        text: recipe of the text encoder.
        captions_at_once: captions in a batch.
        captions: folder of rewritten captions (`prepare task=recaption`), whose states are made then; None for those
            of the list.
        keep_originals: whether clips without a rewritten caption keep their own.
        devices: "auto", a name or a list of names, see `pick_devices`.
        shard: "i/n" makes only the i-th part of the shards, i = 0 .. n - 1, for n machines that share the folder.

    Returns:
        Counts of captions, and of shards made now and still missing.

    Raises:
        ValueError: a caption is too long for the encoder; it is named.
        CaptionError: clips have no rewritten caption.
        DiskSpaceError: the table does not fit on the disk.
        StaleCacheError: the folder holds the table of other captions or of another encoder.
    """
    lists, _ = clip_lists(table, ".")
    listed = [row for rows in lists.values() for row in rows]
    chosen = told(
        [row.id for row in listed],
        [row.caption for row in listed],
        rewritten=captions,
        keep_originals=keep_originals,
        key="task.captions",
    )
    distinct = sorted({NULL, *chosen})
    places, folder = pick_devices(devices), Path(cache)
    with one_thread():
        encoder = text()
        each = encoder.max_tokens * encoder.width * BYTES
        made = PromptTable(
            folder, encoder=encoder, prompts=distinct, part=WHOLE if shard is None else Part.parse(shard)
        )
        open_ones = sum(len(made.writer.shards[number]) for number in made.writer.missing())
        if problem := shortage(f"{open_ones} captions of {human(each)}", open_ones * each, folder):
            raise DiskSpaceError(f"{problem}; give task.cache on a larger disk, or encode captions in training")
        made.fill(places, at_once=captions_at_once)
    missing = len(made.writer.missing())
    if not missing:
        made.writer.finish(max_failed=0.0)
    return {"captions": len(distinct), "shards made": len(made.missing), "shards missing": missing}


def open_states(folder: str | Path, *, settings: Settings) -> Cache:
    """The table.

    Args:
        folder: of the table.
        settings: `common.data.prompt_table.text_settings_of` the run's encoder, or some of them.

    Raises:
        FileNotFoundError: there is no finished one.
        StaleCacheError: it is one of another text encoder; names both values.
    """
    try:
        table = Cache(Path(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no finished table of captions in {folder}; make it with {TASK}") from error
    refuse_other_states(table, settings)
    return table


def refuse_other_states(table: Cache, settings: Settings) -> None:
    """Raises StaleCacheError, with both values, unless a table is of the text encoder of these settings."""
    recorded = ("text_encoder_dtype",)  # how it was computed is told, not asked for
    try:
        table.refuse_other({key: settings[key] for key in settings if key not in recorded})
    except StaleCacheError as error:
        raise StaleCacheError(f"{error}; {TASK} with task.cache=<another folder> makes one for this run") from error


def refuse_lacking(table: Cache, captions: Iterable[str], *, key: str) -> None:
    """Refuses a table that lacks captions.

    Args:
        table: of states.
        captions: that are asked for; "" is always.
        key: of the configuration that the table is from, for the message.

    Raises:
        ValueError: some are not there; says how many, and names the first.
    """
    wanted = {NULL: None, **dict.fromkeys(captions)}
    lacking = [caption for caption in wanted if caption not in table]
    if lacking:
        raise ValueError(
            f"{key}={table.folder}: {len(lacking)} of {len(wanted)} captions are not in the table, first "
            f'"{lacking[0]}"; make one of the same captions (task.table, task.captions) by {TASK} '
            "task.cache=<another folder>, or encode them in training by setting the key to null"
        )
