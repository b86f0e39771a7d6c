"""What the model is told of each clip: the caption of its source, or the one that was rewritten."""

from collections.abc import Sequence

from projects.text_to_video.captions import REMEDY, CaptionError, key_of, read_captions

NAMED = 5  # ids that an error names


def told(
    ids: Sequence[str], captions: Sequence[str], *, rewritten: str | None, keep_originals: bool, key: str
) -> list[str]:
    """Captions of clips.

    Args:
        ids: of the clips.
        captions: of their source, one each.
        rewritten: folder of the captions that take their place (`prepare task=recaption`); None leaves those of the
            source.
        keep_originals: whether a clip without a rewritten caption keeps its own.
        key: of the configuration that `rewritten` is from, for the message.

    Raises:
        CaptionError: clips have no rewritten caption, or the folder has none at all or is damaged.
    """
    if rewritten is None:
        return list(captions)
    new = read_captions(rewritten)
    keys = [key_of(caption) for caption in captions]
    lacking = [name for name, each in zip(ids, keys, strict=True) if each not in new]
    if lacking and not keep_originals:
        raise CaptionError(
            f"{key}={rewritten}: {len(lacking)} of {len(ids)} clips have no rewritten caption, first "
            f"{', '.join(lacking[:NAMED])}; {REMEDY} (it goes on where it stopped), or let them keep their own by "
            f"{key.rpartition('.')[0]}.keep_originals=true"
        )
    return [new.get(each, caption) for each, caption in zip(keys, captions, strict=True)]
