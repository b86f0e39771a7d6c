"""Rows of edits as batches: latents from the cache, or frames to encode; and what is drawn for each."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.encoders.text import ClipText
from common.latent.vae import LatentCodec, Posterior
from common.types import Pick
from projects.pix2pix_video.draws import Draws, draw, stack
from projects.pix2pix_video.frames import Crop, EditFrames
from projects.pix2pix_video.latents import NULL, load_all, open_latents, open_text, settings_of, text_settings_of
from projects.pix2pix_video.rows import EditRow


class EditBatch(NamedTuple):
    """B rows.

    Attributes:
        rows: their numbers in the data set, int64 (B,).
        latents: float16 (B, T + 2, C, h, w) as the cache holds them, unscaled: modes of the history, mean and
            log-variance of the target; None where they are to be encoded.
        frames: uint8 (B, T + 1, 3, H, W), 0..255, history and target; None where the latents suffice.
        text: states of the instructions, (B, L, D), those that are hidden already replaced; None to encode `prompts`.
        null_text: states of the null instruction, (1, L, D); None with `text`.
        prompts: the instructions, those that are hidden already replaced.
        draws: random numbers.
        normalizer: what the sum of the losses is divided by.
    """

    rows: Tensor
    latents: Tensor | None
    frames: Tensor | None
    text: Tensor | None
    null_text: Tensor | None
    prompts: tuple[str, ...]
    draws: Draws
    normalizer: float


class Edits(Dataset[Pick]):
    """One split of a set of edits, for training or with pictures for evaluation."""

    def __init__(
        self,
        *,
        folder: str,
        split: str,
        media: str | None,
        size: int,
        crop: Crop,
        history: int,
        latent: list[int],
        latents: str | None,
        text: str | None,
        steps: int,
        dropout: float,
        seed: int,
        pictures: bool,
        novel: bool | None = None,
    ) -> None:
        """
        Args:
            folder: of the set (`prepare task=edit_frames`).
            split: "train", "val" or "test".
            media: folder of the frames; None for where the set says.
            size: side of the frames in pixels.
            crop: "squash" or "centre".
            history: T.
            latent: C, h, w of a latent.
            latents: cache of latents (`prepare task=edit_latents`); None encodes on the fly.
            text: table of states of the instructions, of the same task; None encodes on the fly.
            steps: timesteps that are drawn from.
            dropout: share of samples that lose their instruction, as many their history, and as many both.
            seed: of what is drawn.
            pictures: whether a batch brings frames also where latents are cached, as scores on pictures need.
            novel: only rows that show what training never shows (true), or only the others (false).

        Raises:
            ValueError: no rows, a cache that lacks some, or one of another size.
            StaleCacheError: a cache of another size, crop or history.
        """
        self.frames = EditFrames(folder=folder, split=split, media=media, size=size, history=history, crop=crop)
        self.numbers = [number for number, row in enumerate(self.frames.rows) if novel in (None, row.novel)]
        if not self.numbers:
            raise ValueError(f"split {split} of {folder} has no rows with novel={novel}")
        self.latent, self.steps, self.dropout, self.seed = tuple(latent), steps, dropout, seed
        self.split, self.pictures = split, pictures
        self.history = history
        rows = [self.frames.rows[number] for number in self.numbers]
        self.prompts = [row.instruction for row in rows]
        self.cache, self.latents = None, None
        if latents is not None:
            self.cache = open_latents(Path(latents) / split, settings={"size": size, "crop": crop, "history": history})
            self.latents = load_all(self.cache, [row.id for row in rows])
            if tuple(self.latents.shape[2:]) != self.latent:
                raise ValueError(
                    f"data.{split}.latent={list(self.latent)}, and {latents} holds latents of "
                    f"{list(self.latents.shape[2:])}; set it to that"
                )
        self.table = None if text is None else open_text(Path(text), settings={})
        self._states: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, pick: Pick) -> Pick:
        return pick  # a batch is gathered at once in `collate`, without a tensor for each row

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        return None

    @property
    def weights(self) -> NDArray[np.float64] | None:
        return None

    @property
    def fingerprint(self) -> str:
        return f"{self.frames.fingerprint}/{len(self)}"

    def name(self, number: int) -> str:
        """Id of a row, for messages."""
        return self.frames.rows[self.numbers[number]].id

    def chosen(self, rows: Tensor) -> list[EditRow]:
        """What the set says of rows, by their numbers, int64 (B,)."""
        return [self.frames.rows[self.numbers[row]] for row in rows.tolist()]

    def refuse_other_codec(self, codec: LatentCodec) -> None:
        """Raises StaleCacheError unless the latents are of this autoencoder and of these rows."""
        if self.cache is not None:
            settings = settings_of(
                codec,
                size=self.frames.size,
                crop=self.frames.crop,
                history=self.history,
                rows=self.frames.fingerprint,
            )
            open_latents(self.cache.folder, settings=settings)

    def refuse_other_text(self, encoder: ClipText) -> None:
        """Raises StaleCacheError unless the states of the instructions are of this text encoder."""
        if self.table is not None:
            open_text(self.table.folder, settings=text_settings_of(encoder))

    def collate(self, samples: list[Pick]) -> EditBatch:
        """Picks of one micro-batch to a batch."""
        rows = torch.tensor([pick.row for pick in samples])
        draws = stack([self._draw(pick) for pick in samples])
        kept = draws.keep_text.tolist()
        prompts = tuple(self.prompts[pick.row] if keep else NULL for pick, keep in zip(samples, kept, strict=True))
        frames = None
        if self.latents is None or self.pictures:
            frames = torch.stack([self.frames.pixels(self.numbers[pick.row]) for pick in samples])
        return EditBatch(
            rows=rows,
            latents=None if self.latents is None else self.latents[rows],
            frames=frames,
            text=None if self.table is None else torch.stack([self._state(prompt) for prompt in prompts]),
            null_text=None if self.table is None else self._state(NULL)[None],
            prompts=prompts,
            draws=draws,
            normalizer=samples[0].normalizer,
        )

    def _draw(self, pick: Pick) -> Draws:
        return draw(self.seed, self.split, pick.position, shape=self.latent, steps=self.steps, dropout=self.dropout)

    def _state(self, prompt: str) -> Tensor:
        assert self.table is not None
        if prompt not in self._states:
            if prompt not in self.table:
                raise ValueError(
                    f'the instruction "{prompt}" is not in {self.table.folder}; make the cache again '
                    "(task=edit_latents) or set data.*.text=null"
                )
            self._states[prompt] = self.table[prompt]
        return self._states[prompt]


def posterior(latents: Tensor) -> tuple[Tensor, Posterior]:
    """The history (B, T, C, h, w) and the posterior of the target, float32, of what a cache holds."""
    return latents[:, :-2].float(), Posterior(latents[:, -2].float(), latents[:, -1].float())


def example(*, rows: int, history: int, latent: list[int], text: list[int] | None, steps: int) -> EditBatch:
    """A batch of the usual shape that needs no data: for estimates of memory and time.

    Args:
        rows: B.
        history: T.
        latent: C, h, w.
        text: L, D; None where the step encodes the prompts.
        steps: timesteps that are drawn from.
    """
    source = torch.Generator().manual_seed(0)
    shape = tuple(latent)
    draws = [draw(0, "example", row, shape=shape, steps=steps, dropout=0.0) for row in range(rows)]
    return EditBatch(
        rows=torch.arange(rows),
        latents=torch.randn(rows, history + 2, *shape, generator=source).half(),
        frames=None,
        text=None if text is None else torch.randn(rows, *text, generator=source).half(),
        null_text=None if text is None else torch.zeros(1, *text, dtype=torch.float16),
        prompts=(NULL,) * rows,
        draws=stack(draws),
        normalizer=float(rows),
    )
