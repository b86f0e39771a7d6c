"""Pictures as batches: each is shown, and itself to be rebuilt; what clips have in common with them."""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.encoders.tower import ContrastiveTower
from common.latent.vae import LatentCodec
from common.types import Build, Pick
from projects.genhancer.batch import Batch, Sample, collate
from projects.genhancer.caches import latent_settings, open_embeddings, open_latents, tower_settings
from projects.genhancer.crops import Box, Crops, cut
from projects.genhancer.draws import choice_generator, draw
from projects.genhancer.media import Media, Shown
from projects.genhancer.media_check import unreadable as unreadable_rows
from projects.genhancer.sampling import Choice, Seconds

log = logging.getLogger(__name__)
NOTHING: NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)


class Images(Dataset[Sample]):
    """Pictures: each is shown, and itself to be rebuilt, in one and the same crop (K = 1, all at time 0)."""

    def __init__(
        self,
        *,
        media: Build[Media],
        split: str,
        size: int,
        target: int,
        latent: list[int],
        crops: Crops,
        latents: str | None,
        embeddings: str | None,
        pictures: bool,
        seed: int,
        count: int | None = None,
        unreadable: str | None = None,
    ) -> None:
        """
        Args:
            media: recipe of where the pictures come from.
            split: tells the draws of splits apart.
            size: side in pixels of what the tower is shown.
            target: side in pixels of what is rebuilt.
            latent: C, h, w of a latent.
            crops: which part of a picture is taken.
            latents: cache of the targets' latents (`prepare task=genhancer_latents`); None encodes on the fly.
            embeddings: cache of the class embeddings, of the same task; None runs the tower, as the second stage must.
            pictures: whether a batch brings pictures also where caches make them needless.
            seed: of what is drawn.
            count: the first rows only.
            unreadable: list of rows that are left out (`prepare task=media_check`); without one, a row that cannot be
                read is an error when it is wanted.

        Raises:
            ValueError: no rows, a list of other rows, or caches with crops that are drawn anew for each sample.
            StaleCacheError: a cache of other rows, crops or sizes.
        """
        self.media, self.split, self.seed, self.crops, self.pictures = media(), split, seed, crops, pictures
        self.size, self.target, self.latent = size, target, tuple(latent)
        self.numbers = list(range(len(self.media)))[:count]
        if unreadable is not None:
            bad = unreadable_rows(unreadable, self.media)
            self.numbers = [number for number in self.numbers if not bad or self.media.name(number) not in bad]
        if not self.numbers:
            raise ValueError(f"data.{split} has no rows")
        if crops.count is None and (latents is not None or embeddings is not None):
            raise ValueError(
                f"data.{split}.crops.count=null draws a new crop for each sample, and a cache holds some; set it to "
                "their number, or data.*.latents=null and data.*.embeddings=null"
            )
        settings = {"rows": self.media.fingerprint, **crops.settings()}
        self.latents = None if latents is None else open_latents(latents, {**settings, "size": target})
        self.embeddings = None if embeddings is None else open_embeddings(embeddings, {**settings, "size": size})
        self._leave_out_failed()

    def _leave_out_failed(self) -> None:
        """Leaves out what could not be read when a cache was made; the task has limited how much."""
        for cache in (self.latents, self.embeddings):
            if cache is not None and len(cache) < len(self.media):
                kept = [number for number in self.numbers if self.media.name(number) in cache]
                lost = len(self.numbers) - len(kept)
                log.info("data.%s: %d rows are not in %s and left out", self.split, lost, cache.folder)
                self.numbers = kept

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, pick: Pick) -> Sample:
        source = choice_generator(self.seed, self.split, pick.position, what="crop")
        name = self.name(pick.row)
        crop = None if self.crops.count is None else int(torch.randint(self.crops.count, (), generator=source))
        choice, shown = self._choose(pick)
        latents = None if self.latents is None else self.latents.of(name, crop, [choice.target])[0]
        embeddings = None if self.embeddings is None else self.embeddings.of(name, crop, choice.conditions)
        conditions = target = None
        if self.pictures or latents is None or embeddings is None:
            frames = self._frames(self.numbers[pick.row], choice, shown)
            height, width = frames.shape[1:3]
            if crop is None:
                box = self.crops.draw(height, width, source=source)
            else:
                box = self.crops.fixed(height, width, name=name, number=crop)
            conditions, target = self._cut(frames, box)
        return Sample(
            pick,
            conditions=conditions if self.pictures or embeddings is None else None,
            embeddings=embeddings,
            target=target if self.pictures or latents is None else None,
            latents=latents,
            times=torch.from_numpy(choice.times(shown.seconds)).float(),
        )

    def _choose(self, pick: Pick) -> tuple[Choice, Shown]:
        """Which frames; and what had to be looked at to tell."""
        return Choice((0,), 0), Shown(NOTHING, np.zeros(1))

    def _frames(self, number: int, choice: Choice, shown: Shown) -> NDArray[np.uint8]:
        """Conditions, then the target: uint8 (K + 1, H, W, 3), as they are stored."""
        wanted = [*choice.conditions, choice.target]
        if len(shown.frames):
            return shown.frames[wanted]
        return self.media.show(number, partial(_these, wanted)).frames

    def _cut(self, frames: NDArray[np.uint8], box: Box) -> tuple[Tensor, Tensor]:
        """One box of all frames: conditions and target, each at its size."""
        return cut(frames[:-1], box, size=self.size), cut(frames[-1:], box, size=self.target)[0]

    # What loaders and modules ask for

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
        """Changes when the rows do, or what is chosen of them."""
        text = repr([self.media.fingerprint, len(self), self.crops.settings(), self._choices()])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _choices(self) -> object:
        return "images"

    def name(self, number: int) -> str:
        """Of a row."""
        return self.media.name(self.numbers[number])

    def label(self, number: int) -> str | None:
        """What a row shows, where that is known."""
        return self.media.label(self.numbers[number])

    def refuse_other_codec(self, codec: LatentCodec) -> None:
        """Raises unless latents have the shape that was said, and cached ones are of this autoencoder.

        Raises:
            ValueError: the shape is another.
            StaleCacheError: cached latents are of another autoencoder.
        """
        shape = (codec.channels, self.target // codec.factor, self.target // codec.factor)
        if shape != self.latent:
            raise ValueError(
                f"data.{self.split}.latent={list(self.latent)}, and the autoencoder makes {list(shape)} of "
                f"{self.target} pixels; set it to that"
            )
        if self.latents is not None:
            open_latents(self.latents.folder, latent_settings(codec))

    def refuse_other_tower(self, tower: ContrastiveTower, *, learns: bool) -> None:
        """Raises unless cached embeddings are of this tower, and it stays as it is.

        Raises:
            ValueError: the tower learns, so that its embeddings change with every step.
            StaleCacheError: they are of another tower.
        """
        if tower.image_size != self.size:
            raise ValueError(f"data.{self.split}.size={self.size}, and the tower sees {tower.image_size} pixels")
        if self.embeddings is None:
            return
        if learns:
            raise ValueError(
                f"data.{self.split}.embeddings={self.embeddings.folder}: the tower learns in this stage, so that "
                f"embeddings must not come from a cache; set data.{self.split}.embeddings=null"
            )
        open_embeddings(self.embeddings.folder, tower_settings(tower))

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples of one micro-batch to a batch."""
        picks = [sample.pick for sample in samples]
        draws = [draw(self.seed, self.split, pick.position, shape=self.latent) for pick in picks]
        return collate(samples, draws)


def _these(wanted: Sequence[int], seconds: Seconds) -> Sequence[int]:
    return wanted
