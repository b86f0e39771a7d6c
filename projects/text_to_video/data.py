"""Captioned clips as batches of latents, and what is drawn for each."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.data.cache import Cache
from common.data.prompt_table import text_settings_of
from common.encoders.text import ClipText
from common.latent.vae import LatentCodec
from common.types import Pick
from projects.text_to_video.caption_check import refuse_long
from projects.text_to_video.caption_states import NULL, open_states, refuse_lacking, refuse_other_states
from projects.text_to_video.clip_frames import Crop, clip_frames
from projects.text_to_video.clip_lists import clip_lists
from projects.text_to_video.clip_rows import Clip, buckets_of, choose, latent_shape, refuse_sizes
from projects.text_to_video.draws import ClipDraws, draw, stack
from projects.text_to_video.video_latents import VideoLatents, latent_settings, open_video_latents


class ClipBatch(NamedTuple):
    """B clips of F frames, all of one size.

    Attributes:
        rows: their numbers in the data set, int64 (B,).
        latents: unscaled (B, F, C, h, w), or (B, F, 2 C, h, w) with the log-variance behind the mean; None where
            `frames` are to be encoded.
        frames: uint8 (B, F, 3, H, W), 0..255; None with `latents`.
        prompts: captions, those that are hidden already replaced by the null one.
        text: their states, float16 (B, L, D); None where they are to be encoded.
        draws: random numbers.
        normalizer: what the sum of the losses is divided by.
    """

    rows: Tensor
    latents: Tensor | None
    frames: Tensor | None
    prompts: tuple[str, ...]
    text: Tensor | None
    draws: ClipDraws
    normalizer: float


class Sample(NamedTuple):
    """One clip that was read."""

    pick: Pick
    values: Tensor


class Clips(Dataset[Sample]):
    """Captioned clips of one split, of one size or of several that are batched with their like."""

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
        shift: float = 1.0,
        captions: str | None = None,
        keep_originals: bool = False,
        states: str | None = None,
        buckets: list[list[int]] | None = None,
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
            frames: F; shorter clips are left out, and told.
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
            shift: see `draws.draw`; above 1 for times of more noise.
            captions: folder of rewritten captions (`prepare task=recaption`), in place of those of the source.
            keep_originals: whether clips without a rewritten caption keep their own; otherwise they are an error.
            states: table of states of the captions (`prepare task=caption_states`); None encodes captions in training.
            buckets: [height, width] or [height, width, frames] each, of those in the cache; a clip is taken into the
                longest of its size that it fills. None for the one of `size` and `frames`.
            backend: video reader.
            novel: only rows that show what training never shows (true), or only the others (false).
            objects: only captions of the built-in world that name so many objects.
            count: the first rows only.

        Raises:
            ValueError: no rows, a cache of another frame rate, length or size, or a table that lacks captions.
            CaptionError: clips have no rewritten caption.
        """
        self.split, self.backend = split, backend
        self.media = Path()
        self.cache: VideoLatents | None = None
        self.length, self.fps, self.size, self.crop = frames, fps, (size[0], size[1]), crop
        self.steps, self.targets, self.seed, self.strata, self.shift = steps, targets, seed, strata, shift
        self.text_dropout, self.context_dropout = text_dropout, context_dropout
        key = f"data.{split}"
        if shift <= 0:
            raise ValueError(f"{key}.shift={shift}: above 0; 1 leaves times as they are drawn")
        self.buckets = buckets_of(
            buckets, size=self.size, frames=frames, key=f"{key}.buckets", length=f"{key}.frames={frames}"
        )
        self.shapes = [latent_shape(each, size=self.size, latent=latent, key=f"{key}.buckets") for each in self.buckets]
        if latents is not None:
            rows, source = self._cached(latents, several=buckets is not None)
        elif len(self.buckets) == 1:
            rows, source = self._listed(table, media)
        else:
            raise ValueError(f"{key}.buckets needs {key}.latents: only the cache knows the sizes of clips")
        rows = [row for row in rows if novel in (None, row.get("novel", False))]
        rows = [row for row in rows if objects in (None, row["caption"].count(" moves "))]
        self.clips, self.bucket = choose(
            rows,
            self.buckets,
            source=source,
            others={} if self.cache is None else self.cache.others,
            captions=captions,
            keep_originals=keep_originals,
            count=count,
            split=split,
        )
        if not self.clips:
            told = ", ".join(each.name for each in self.buckets)
            raise ValueError(f"{source} has no clips of {told} with split={split}, novel={novel}")
        self._refuse_shapes()
        # What is known of captions is kept beside them.
        self.beside = Path(captions or latents or self._folder_of(table))
        self.states: Cache | None = None if states is None else open_states(states, settings={})
        if self.states is not None:
            refuse_lacking(self.states, (clip.caption for clip in self.clips), key=f"{key}.states")

    def _cached(self, latents: str, *, several: bool) -> tuple[list[dict[str, Any]], str]:
        """Rows of the clips whose latents are there."""
        height, width = self.size
        settings: dict[str, Any] = {"fps": self.fps, "crop": self.crop}
        if not several:
            settings |= {"height": height, "width": width, "frames": self.length}
        self.cache = open_video_latents(latents, settings=settings)
        if several:
            refuse_sizes(self.buckets, self.cache.buckets, source=latents, split=self.split)
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
            return Sample(pick, self.cache[clip.id][: self.shape_of(pick.row)[0]])
        path, [bucket] = self.media / clip.video, self.buckets
        size = (bucket.height, bucket.width)
        frames = clip_frames(path, fps=self.fps, frames=bucket.frames, size=size, crop=self.crop, backend=self.backend)
        if len(frames) < bucket.frames:
            raise ValueError(
                f"{path} has {len(frames)} frames at {self.fps} a second, {bucket.frames} are asked for; take it out "
                "of the table (task=openvid filters by seconds) or read from the cache, which knows lengths"
            )
        return Sample(pick, frames)

    def shape_of(self, row: int) -> tuple[int, ...]:
        """(F, C, h, w) of the latents of a row, as training takes them."""
        return self.shapes[self.bucket[row]]

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """Clips of different lengths are in different groups."""
        return None

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """The bucket of each row; None where there is one."""
        return None if len(self.buckets) == 1 else np.asarray(self.bucket, dtype=np.int64)

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """Each counts once."""
        return None

    @property
    def fingerprint(self) -> str:
        """Changes when the rows do."""
        rows: list[Any] = [clip[: Clip._fields.index("shown")] for clip in self.clips]
        text = json.dumps([*rows, *self.shapes, *(self.bucket if len(self.shapes) > 1 else [])])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def name(self, number: int) -> str:
        """Id of a row, for messages."""
        return self.clips[number].id

    def refuse_other_codec(self, codec: LatentCodec) -> None:
        """Raises StaleCacheError unless the latents are of this autoencoder."""
        if self.cache is not None:
            open_video_latents(self.cache.folder, settings=latent_settings(codec))

    def refuse_captions(self, encoder: ClipText) -> None:
        """Refuses captions that the text encoder cannot take, or states of another one.

        Args:
            encoder: of the run; it is enough that it has tokens.

        Raises:
            CaptionError: captions are too long.
            StaleCacheError: the table is of another text encoder.
        """
        if self.states is not None:
            refuse_other_states(self.states, text_settings_of(encoder))
            return
        first: dict[str, str] = {}
        for clip in self.clips:
            first.setdefault(clip.caption, clip.id)
        refuse_long(first, encoder, folder=self.beside, key=f"data.{self.split}")

    def states_of(self, captions: Sequence[str]) -> Tensor | None:
        """States of captions, float16 (B, L, D), from the table; None where there is none."""
        return None if self.states is None else torch.stack([self.states[caption] for caption in captions])

    def collate(self, samples: list[Sample]) -> ClipBatch:
        """Clips of one micro-batch to a batch."""
        draws = stack([self._draw(pick) for pick, _ in samples])
        kept = draws.keep_text.tolist()
        values = torch.stack([each for _, each in samples])
        prompts = tuple(
            self.clips[pick.row].caption if keep else NULL for (pick, _), keep in zip(samples, kept, strict=True)
        )
        return ClipBatch(
            rows=torch.tensor([pick.row for pick, _ in samples]),
            latents=None if self.cache is None else values,
            frames=values if self.cache is None else None,
            prompts=prompts,
            text=self.states_of(prompts),
            draws=draws,
            normalizer=samples[0].pick.normalizer,
        )

    def _draw(self, pick: Pick) -> ClipDraws:
        return draw(
            self.seed,
            self.split,
            pick.position,
            shape=self.shape_of(pick.row),
            steps=self.steps,
            targets=self.targets,
            text_dropout=self.text_dropout,
            context_dropout=self.context_dropout,
            strata=self.strata,
            shift=self.shift,
            sampled=self.cache is not None and bool(self.cache.settings.get("logvar")),
        )

    def _refuse_shapes(self) -> None:
        """One clip of each bucket tells whether `latent` is right."""
        if self.cache is None:
            return
        for number in sorted({*self.bucket}):
            clip = self.clips[self.bucket.index(number)]
            found, wanted = tuple(self.cache[clip.id].shape), self.shapes[number]
            stored = (wanted[1] * (2 if self.cache.settings.get("logvar") else 1), *wanted[2:])
            if found[1:] != stored or found[0] < wanted[0]:
                raise ValueError(
                    f"{self.cache.folder}: the latents of {clip.id} are {list(found)}, those of {list(wanted)} are "
                    f"asked for; set data.{self.split}.latent to [C, h, w] of latents at data.{self.split}.size"
                )

    @staticmethod
    def _folder_of(table: str | None) -> Path:
        assert table is not None  # without latents
        return Path(table) if Path(table).is_dir() else Path(table).parent


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
        text=None,
        draws=stack(draws),
        normalizer=float(rows),
    )
