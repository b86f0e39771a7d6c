"""Captioned clips as batches of latents, and what is drawn for each."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.latent.vae import LatentCodec
from common.types import Pick
from projects.text_to_video.clip_frames import Crop, clip_frames
from projects.text_to_video.clip_lists import clip_lists
from projects.text_to_video.draws import ClipDraws, draw, stack
from projects.text_to_video.video_latents import VideoLatents, latent_settings, open_video_latents

log = logging.getLogger(__name__)
NULL = ""  # the caption of the branches without one


class Clip(NamedTuple):
    """One captioned clip.

    Attributes:
        id: its name, also in the cache.
        caption: what it shows.
        video: path relative to the media; "" where only its latents are there.
        frames: how many it has at the frame rate of training.
    """

    id: str
    caption: str
    video: str
    frames: int


class ClipBatch(NamedTuple):
    """B clips of F frames.

    Attributes:
        rows: their numbers in the data set, int64 (B,).
        latents: unscaled (B, F, C, h, w), or (B, F, 2 C, h, w) with the log-variance behind the mean; None where
            `frames` are to be encoded.
        frames: uint8 (B, F, 3, H, W), 0..255; None with `latents`.
        prompts: captions, those that are hidden already replaced by the null one.
        draws: random numbers.
        normalizer: what the sum of the losses is divided by.
    """

    rows: Tensor
    latents: Tensor | None
    frames: Tensor | None
    prompts: tuple[str, ...]
    draws: ClipDraws
    normalizer: float


class Sample(NamedTuple):
    """One clip that was read."""

    pick: Pick
    values: Tensor


class Clips(Dataset[Sample]):
    """Captioned clips of one split and one size."""

    def __init__(
        self,
        *,
        latents: str | None,
        table: str | None,
        split: str,
        media: str | None,
        frames: int,
        fps: float,
        size: list[int],
        crop: Crop,
        latent: list[int],
        steps: int,
        targets: int,
        text_dropout: float,
        context_dropout: float,
        seed: int,
        strata: int = 1,
        backend: str = "pyav",
        novel: bool | None = None,
        objects: int | None = None,
        count: int | None = None,
    ) -> None:
        """
        Args:
            latents: folder of the split (`prepare task=video_latents`); None decodes and encodes on the fly.
            table: of clips (`prepare task=openvid`, `task=video_table`), read where there is no cache.
            split: of the table; also tells the draws of splits apart.
            media: folder of the clips; None for where the table says.
            frames: F; shorter clips are left out, and counted.
            fps: frames a second.
            size: H, W of the frames.
            crop: how frames are brought to it, see `clip_frames`.
            latent: C, h, w of a latent.
            steps: timesteps that are drawn from.
            targets: m, frames of a clip that a step learns, for kinds that learn some of them.
            text_dropout: share of clips that lose their caption.
            context_dropout: share of clips that lose their other frames.
            seed: of what is drawn.
            strata: see `draws.draw`; the global batch for timesteps that cover it evenly.
            backend: video reader.
            novel: only rows that show what training never shows (true), or only the others (false).
            objects: only captions of the built-in world that name so many objects.
            count: the first rows only.

        Raises:
            ValueError: no rows, or a cache of another frame rate, length or size.
        """
        self.split, self.backend = split, backend
        self.media = Path()
        self.cache: VideoLatents | None = None
        self.length, self.fps, self.size, self.crop = frames, fps, (size[0], size[1]), crop
        self.shape = (frames, *latent)
        self.steps, self.targets, self.seed, self.strata = steps, targets, seed, strata
        self.text_dropout, self.context_dropout = text_dropout, context_dropout
        rows, source = self._cached(latents) if latents is not None else self._listed(table, media)
        chosen = [row for row in rows if novel in (None, row.get("novel", False))]
        chosen = [row for row in chosen if objects in (None, row["caption"].count(" moves "))]
        clips = [Clip(row["id"], row["caption"], row["video"], row.get("frames", frames)) for row in chosen]
        self.clips = [clip for clip in clips if clip.frames >= frames][:count]
        if short := sum(clip.frames < frames for clip in clips):
            log.info("%s: %d of %d clips are shorter than %d frames and left out", source, short, len(clips), frames)
        if not self.clips:
            raise ValueError(f"{source} has no clips of {frames} frames with split={split}, novel={novel}")

    def _cached(self, latents: str) -> tuple[list[dict[str, Any]], str]:
        """Rows of the clips whose latents are there."""
        height, width = self.size
        settings = {"fps": self.fps, "height": height, "width": width, "frames": self.length, "crop": self.crop}
        self.cache = open_video_latents(latents, settings=settings)
        return self.cache.rows, latents

    def _listed(self, table: str | None, media: str | None) -> tuple[list[dict[str, Any]], str]:
        """Rows of the clips that are to be decoded; how long they are is found out then."""
        if table is None:
            raise ValueError(f"data.{self.split}: without latents give table, to decode and encode on the fly")
        splits, self.media = clip_lists(table, media)
        listed = splits.get(self.split, [])
        rows = [{**each.columns, "id": each.id, "video": each.video, "caption": each.caption} for each in listed]
        return rows, table

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, pick: Pick) -> Sample:
        clip = self.clips[pick.row]
        if self.cache is not None:
            return Sample(pick, self.cache[clip.id][: self.length])
        path = self.media / clip.video
        frames = clip_frames(
            path, fps=self.fps, frames=self.length, size=self.size, crop=self.crop, backend=self.backend
        )
        if len(frames) < self.length:
            raise ValueError(
                f"{path} has {len(frames)} frames at {self.fps} a second, {self.length} are asked for; take it out of "
                "the table (task=openvid filters by seconds) or read from the cache, which knows lengths"
            )
        return Sample(pick, frames)

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """All are alike."""
        return None

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """Each counts once."""
        return None

    @property
    def fingerprint(self) -> str:
        """Changes when the rows do."""
        text = json.dumps([*self.clips, self.shape])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def refuse_other_codec(self, codec: LatentCodec) -> None:
        """Raises StaleCacheError unless the latents are of this autoencoder."""
        if self.cache is not None:
            open_video_latents(self.cache.folder, settings=latent_settings(codec))

    def collate(self, samples: list[Sample]) -> ClipBatch:
        """Clips of one micro-batch to a batch."""
        draws = stack([self._draw(pick) for pick, _ in samples])
        kept = draws.keep_text.tolist()
        values = torch.stack([each for _, each in samples])
        return ClipBatch(
            rows=torch.tensor([pick.row for pick, _ in samples]),
            latents=None if self.cache is None else values,
            frames=values if self.cache is None else None,
            prompts=tuple(
                self.clips[pick.row].caption if keep else NULL for (pick, _), keep in zip(samples, kept, strict=True)
            ),
            draws=draws,
            normalizer=samples[0].pick.normalizer,
        )

    def _draw(self, pick: Pick) -> ClipDraws:
        return draw(
            self.seed,
            self.split,
            pick.position,
            shape=self.shape,
            steps=self.steps,
            targets=self.targets,
            text_dropout=self.text_dropout,
            context_dropout=self.context_dropout,
            strata=self.strata,
        )


def example(*, rows: int, frames: int, latent: list[int], steps: int, targets: int) -> ClipBatch:
    """A batch of the usual shape that needs no data: for estimates of memory and time."""
    shape = (frames, *latent)
    draws = [
        draw(0, "example", row, shape=shape, steps=steps, targets=targets, text_dropout=0.0, context_dropout=0.0)
        for row in range(rows)
    ]
    return ClipBatch(
        rows=torch.arange(rows),
        latents=torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0)).bfloat16(),
        frames=None,
        prompts=(NULL,) * rows,
        draws=stack(draws),
        normalizer=float(rows),
    )
