"""The preparation task that draws some rows of a set on one page: history, target, instruction."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.files import atomic_write_bytes
from common.video.sample import uniform
from projects.pix2pix_video.frames import Crop, EditFrames

GAP, LINE = 4, 16  # pixels
PAPER, INK, FRAME = (255, 255, 255), (0, 0, 0), (200, 30, 30)


def write_sheet(
    *,
    folder: str,
    media: str | None,
    split: str,
    rows: int,
    frames: int,
    size: int,
    crop: Crop,
    seed: int,
    output: str,
) -> dict[str, int | str]:
    """Writes a page to look at.

    Args:
        folder: of the set.
        media: folder that its paths are relative to; null for the place where the set says that it lies.
        split: whose rows.
        rows: how many, drawn by the seed, in the order of the set.
        frames: of the history to show, at most; the oldest and the newest are among them.
        size: side of a frame in pixels.
        crop: "squash" or "centre", as in training.
        seed: of the draw, >= 0.
        output: the png.

    Returns:
        The file, the rows drawn, and how many the split has.
    """
    if rows < 1 or frames < 1:
        raise ValueError(f"task.rows={rows} and task.frames={frames} must be 1 or more")
    data = EditFrames(folder=folder, split=split, media=media, size=size, history=None, crop=crop)
    chosen = np.random.default_rng(seed).choice(len(data), size=min(rows, len(data)), replace=False)
    strips = [_strip(data, int(number), frames) for number in sorted(chosen)]
    page = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), PAPER)
    top = 0
    for strip in strips:
        page.paste(strip, (0, top))
        top += strip.height
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    atomic_write_bytes(Path(output), buffer.getvalue())
    return {"sheet": output, "rows": len(strips), "of": len(data)}


def _strip(data: EditFrames, number: int, most: int) -> Image.Image:
    """One row: its text, then frames of the history, then the target in a frame of its own colour."""
    row, pixels = data.rows[number], data.pixels(number)
    history = len(row.history)
    # Of one frame, the newest: it is the one that the target changes.
    shown = [history - 1] if most == 1 else [int(i) for i in uniform(history, min(history, most))]
    side = data.size
    strip = Image.new("RGB", ((len(shown) + 1) * (side + GAP) + 2 * GAP, side + 2 * LINE + 3 * GAP), PAPER)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(LINE - 4)
    draw.text((GAP, 0), f"{row.id}  {row.task}", fill=INK, font=font)
    draw.text((GAP, LINE), row.instruction, fill=FRAME, font=font)
    for place, index in enumerate([*shown, history]):
        left = GAP + place * (side + GAP) + (GAP if index == history else 0)
        corner = (left, 2 * LINE + GAP)
        strip.paste(Image.fromarray(pixels[index].permute(1, 2, 0).numpy()), corner)
        if index == history:
            draw.rectangle((left - 2, corner[1] - 2, left + side + 1, corner[1] + side + 1), outline=FRAME, width=2)
    return strip
