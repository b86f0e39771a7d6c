"""What steps are given: batches of pictures and of clips."""

import logging

from common.types import Build, Pick
from projects.genhancer.batch import Batch, Sample, example
from projects.genhancer.crops import Crops
from projects.genhancer.draws import choice_generator
from projects.genhancer.images import NOTHING, Images
from projects.genhancer.media import Media, Shown
from projects.genhancer.samplers import Sampler, View
from projects.genhancer.sampling import Choice, NoWindowError, guard

__all__ = ["Batch", "Clips", "Images", "Sample", "example"]

log = logging.getLogger(__name__)


class Clips(Images):
    """Clips: K frames of one are shown, another of its frames is to be rebuilt; one box for all of them."""

    def __init__(
        self,
        *,
        media: Build[Media],
        sampler: Sampler,
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
        samples: int | None = None,
        max_short: float = 0.0,
    ) -> None:
        """
        Args:
            media: recipe of where the clips come from.
            sampler: which frames of a clip are shown, and which is rebuilt.
            split, size, target, latent, crops, latents, embeddings, pictures, seed, unreadable: see `Images`.
            count: the first clips only.
            samples: of the whole run, steps times global batch, for a sampler whose choice changes in the run; None is
                the end of the run.
            max_short: greatest share of the clips that may have no window; they are left out. Of video files it is
                known only when they are read, and is an error then.

        Raises:
            ValueError: no rows, more short clips, or caches with crops that are drawn anew for each sample.
            StaleCacheError: a cache of other rows, crops or sizes.
        """
        super().__init__(
            media=media,
            split=split,
            size=size,
            target=target,
            latent=latent,
            crops=crops,
            latents=latents,
            embeddings=embeddings,
            pictures=pictures,
            seed=seed,
            count=count,
            unreadable=unreadable,
        )
        self.sampler, self.samples = sampler, samples
        if self.media.times_at_hand and not sampler.needs_frames:
            self._leave_out_short(max_short)

    def _leave_out_short(self, max_short: float) -> None:
        kept, short = [], []
        for number in self.numbers:
            views = [View(self.media.seconds(number), None, progress) for progress in self.sampler.phases]
            if all(self.sampler.candidates(view) for view in views):
                kept.append(number)
            else:
                short.append(self.media.name(number))
        if len(short) > max_short * len(self.numbers):
            raise ValueError(
                f"data.{self.split}: {len(short)} of {len(self.numbers)} clips have no window of "
                f"{self.sampler.settings()}, more than max_short={max_short:g}; the first is {short[0]}. Lower the "
                "step or the number of frames, or raise max_short to leave them out"
            )
        if short:
            log.info("data.%s: %d clips have no window and are left out", self.split, len(short))
        self.numbers = kept

    def _choose(self, pick: Pick) -> tuple[Choice, Shown]:
        number = self.numbers[pick.row]
        if self.sampler.needs_frames:
            shown = self.media.show(number, lambda seconds: range(len(seconds)))
        else:
            shown = Shown(NOTHING, self.media.seconds(number))
        view = View(shown.seconds, shown.frames, 1.0 if self.samples is None else pick.position / self.samples)
        source = choice_generator(self.seed, self.split, pick.position, what="frames")
        try:
            choice = self.sampler.pick(view, source=source)
        except NoWindowError as error:
            raise NoWindowError(
                f"{self.media.name(number)}: {error}; leave it out, or run task=clip_frames, which lists such clips"
            ) from error
        # Once more, for any sampler: the frame to be rebuilt must not be seen.
        return guard(choice, shown.seconds, min_gap=0.0), shown

    def _choices(self) -> object:
        return self.sampler.settings(), self.samples
