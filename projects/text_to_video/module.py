"""Text to video as a LightningModule: what is built, what trains, what is logged."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from common.callbacks.clips import SampledClip
from common.data.module import StreamData
from common.encoders.text import ClipText
from common.export import Layout
from common.latent.noise import NoiseSchedule
from common.latent.schedulers import sampler
from common.latent.vae import LatentCodec, Posterior
from common.metrics.interval import Estimate
from common.optim import parameter_groups
from common.parallel import shard
from common.random import generator
from common.types import Build, Pick
from projects.text_to_video.caption_states import NULL
from projects.text_to_video.data import ClipBatch, Clips
from projects.text_to_video.guidance import Guidance, refuse_context
from projects.text_to_video.layouts import LAYOUTS
from projects.text_to_video.output import write_clip
from projects.text_to_video.requests import RequestBatch
from projects.text_to_video.scores import ClipScores


class TextToVideo(LightningModule):
    """Clips from captions, in the latents of a frozen autoencoder, by one of several kinds of denoiser."""

    kind: Any

    def __init__(
        self,
        *,
        kind: Build[nn.Module],
        vae: Build[LatentCodec],
        text_encoder: Build[ClipText],
        noise: Build[DDPMScheduler],
        sampling: Mapping[str, Any],
        optimizer: Build[Optimizer],
        lr: float,
        weight_decay: float,
        schedule: Build[LRScheduler],
        weighting: str = "plain",
        gamma: float = 5.0,
        sampled: int = 8,
        world: bool = False,
        clip: Build[nn.Module] | None = None,
        decode_batch: int = 16,
    ) -> None:
        """
        Args:
            kind: recipe of the denoiser: distributed, frame by frame, in chunks, or joint.
            vae: recipe of the frozen autoencoder.
            text_encoder: recipe of the frozen text encoder.
            noise: recipe of the scheduler that the model learns with; says what is predicted.
            sampling: `scheduler` (name of a class of diffusers), `steps`, `seed`, and `guidance`, the arguments of
                `projects.text_to_video.guidance.Guidance`.
            optimizer: recipe of the optimizer, called with parameter groups.
            lr: of what trains.
            weight_decay: for matrices; vectors are not decayed.
            schedule: recipe of the schedule, called with the optimizer and the number of steps.
            weighting: of the squared errors, see `common.latent.noise.NoiseSchedule.weight`.
            gamma: of min-SNR.
            sampled: first clips of the validation set that are sampled and, in the built-in world, scored.
            world: whether captions are of the built-in world: a tracker then looks for what they say.
            clip: recipe of `common.encoders.clip_score.ClipSimilarity`, to score agreement with the caption too.
            decode_batch: frames that are decoded together.
        """
        super().__init__()
        self.recipes = {"kind": kind, "vae": vae, "text_encoder": text_encoder}
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.lr, self.weight_decay = lr, weight_decay
        self.weighting, self.gamma = weighting, gamma
        self.sampled, self.decode_batch = sampled, decode_batch
        self.scheduler = noise()
        self.noise = NoiseSchedule(self.scheduler)
        self.sampler = sampler(sampling["scheduler"], self.scheduler)
        self.sampling_steps, self.sampling_seed = int(sampling["steps"]), int(sampling["seed"])
        self.guidance = Guidance(**sampling["guidance"])
        refuse_context(self.guidance, kind=kind)
        self._frozen: dict[str, Any] = {}  # outside the module tree: never trained, saved or wrapped
        self.scores = ClipScores(world=world, clip=clip)
        self.loss = MeanMetric()

    @staticmethod
    def layouts() -> Mapping[str, Layout]:
        """Forms that `launchers.export` can write beside `trained`."""
        return LAYOUTS

    def configure_model(self) -> None:
        if not hasattr(self, "kind"):
            self.kind = self.recipes["kind"]()
        shard(self, units=self.kind.units())

    def configure_optimizers(self) -> Any:
        parts = {"kind": (self.kind.parameters(), self.lr)}
        optimizer = self.make_optimizer(parameter_groups(parts, weight_decay=self.weight_decay))
        schedule = self.make_schedule(optimizer, steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Frozen parts

    @property
    def codec(self) -> LatentCodec:
        """The autoencoder, built when it is first wanted."""
        codec: LatentCodec = self._part("vae")
        return codec

    def _part(self, name: str) -> Any:
        if name not in self._frozen:
            self._frozen[name] = self.recipes[name]().to(self.device)
        return self._frozen[name]

    # From a batch to a number

    def clean(self, batch: ClipBatch) -> Tensor:
        """Scaled latents, float32 (B, F, C, h, w): the means, or drawn from the posterior where there is one."""
        latents = batch.latents
        if latents is None:
            assert batch.frames is not None
            mean = self.codec.encode(batch.frames.flatten(0, 1)).mean.unflatten(0, batch.frames.shape[:2])
            latents = mean.bfloat16()  # as the cache is
        latents = latents.float()
        if latents.shape[2] == 2 * self.codec.channels:
            mean, logvar = latents.chunk(2, dim=2)
            latents = Posterior(mean, logvar).sample(batch.draws.posterior)
        return self.codec.scale(latents)

    def states(self, captions: Sequence[str]) -> Tensor:
        """States of captions, float32 (B, L, D), rounded as those of `prepare task=caption_states`."""
        states: Tensor = self._part("text_encoder")(list(captions))
        return states.half().float()

    def errors(self, batch: ClipBatch) -> Tensor:
        """Weighted squared error of each clip, float32 (B,)."""
        weigh = partial(self.noise.weight, kind=self.weighting, gamma=self.gamma)
        text = self.states(batch.prompts) if batch.text is None else batch.text.float()
        errors: Tensor = self.kind.errors(
            self.clean(batch), text=text, draws=batch.draws, noise=self.noise, weigh=weigh
        )
        return errors

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        return self.errors(batch).sum() / batch.normalizer

    # Evaluation

    def on_fit_start(self) -> None:
        self._refuse_files("train", "val")

    def _refuse_files(self, *splits: str) -> None:
        """Latents, states and captions that are not for this model are refused before the first batch."""
        tokens: Any = self.recipes["text_encoder"](tokens_only=True)
        for split in splits:
            rows = self._rows(split)
            rows.refuse_other_codec(self.codec)
            rows.refuse_captions(tokens)
            for shape in rows.shapes:
                self.kind.refuse_shape(shape)

    def on_validation_epoch_start(self) -> None:
        self.scores.start(["val"], self.device)
        self.loss.reset()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self.loss.update(self.errors(batch))
        if self.scores.wanted:
            self._score(batch, view="val", split="val", chosen=batch.rows < self.sampled)

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.loss.compute(), logger=False)
        self.log_dict({f"val/{name}": value for name, value in self.scores.finish().items()}, logger=False)

    def on_test_start(self) -> None:
        if not self.scores.wanted:
            raise ValueError(
                "a test needs model.clip (similarity) or model.world=true (captions of the built-in world)"
            )
        self._refuse_files(*(f"test/{view}" for view in self._data().test_recipes))

    def on_test_epoch_start(self) -> None:
        self.scores.start(list(self._data().test_recipes), self.device)

    def test_step(self, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        view = list(self._data().test_recipes)[dataloader_idx]
        self._score(batch, view=view, split=f"test/{view}", chosen=torch.ones_like(batch.rows, dtype=torch.bool))

    def on_test_epoch_end(self) -> None:
        self.scores.finish()

    def report(self) -> Mapping[str, Mapping[str, Estimate | float]]:
        """Share of the clips of the last test that show what their captions say, by view and attribute."""
        return self.scores.report()

    def _score(self, batch: ClipBatch, *, view: str, split: str, chosen: Tensor) -> None:
        data = self._rows(split)
        rows = [data.clips[number] for number in batch.rows[chosen].tolist()]
        if rows:
            ids, captions = [row.id for row in rows], [row.caption for row in rows]
            clips = self.generate(
                captions,
                names=ids,
                frames=batch.draws.noise.shape[1],
                shape=self._shape(batch),
                states=data.states_of([*captions, NULL]),
            )
            # The tracker reads captions as the built-in world writes them.
            shown = [row.shown for row in rows] if self.scores.world else captions
            self.scores.update(view, ids=ids, captions=shown, clips=clips)

    @staticmethod
    def _shape(batch: ClipBatch) -> tuple[int, ...]:
        return tuple(batch.draws.noise.shape[2:])

    # Generation

    def generate(
        self,
        captions: Sequence[str],
        *,
        names: Sequence[str],
        frames: int,
        shape: tuple[int, ...],
        first: Tensor | None = None,
        states: Tensor | None = None,
    ) -> Tensor:
        """Clips of captions.

        Args:
            captions: B of them.
            names: of the clips; the noise of a clip depends on its name and `sampling.seed` alone.
            frames: F.
            shape: C, h, w of a latent.
            first: first frames, uint8 (B, 3, H, W), where they are given.
            states: of the captions and, last, of the null one, (B + 1, L, D); None encodes them.

        Returns:
            uint8 (B, F, 3, H, W), 0..255.
        """
        states = self.states([*captions, NULL]) if states is None else states.to(self.device).float()
        latents = self.kind.sample(
            text=states[:-1],
            null_text=states[-1:],
            frames=frames,
            shape=shape,
            scheduler=self.sampler,
            steps=self.sampling_steps,
            guidance=self.guidance,
            generators=[generator(self.sampling_seed, "text_to_video", "sample", name) for name in names],
            first=None if first is None else self.codec.scale(self.codec.encode(first).mean),
        )
        return self._decoded(self.codec.unscale(latents).flatten(0, 1)).unflatten(0, (len(captions), frames))

    def _decoded(self, latents: Tensor) -> Tensor:
        """Pictures of unscaled latents (N, C, h, w): uint8 (N, 3, H, W), 0..255."""
        return torch.cat([self.codec.decode(part) for part in latents.split(self.decode_batch)])

    def predict_clips(self, rows: Clips, numbers: Sequence[int]) -> list[SampledClip]:
        """Samples of the captions of rows, one after the other, for `common.callbacks.clips`."""
        return [self._sampled(rows, number) for number in numbers]

    def _sampled(self, rows: Clips, number: int) -> SampledClip:
        """One row; where latents are cached, its truth is what the autoencoder makes of them."""
        clip, (frames, *shape) = rows.clips[number], rows.shape_of(number)
        states = rows.states_of([clip.caption, NULL])
        made = self.generate([clip.caption], names=[clip.id], frames=frames, shape=tuple(shape), states=states)[0]
        truth = rows[Pick(number, number, 1.0)].values
        if rows.cache is not None:
            truth = self._decoded(truth[:, : self.codec.channels].float().to(self.device))
        return SampledClip(clip.caption, truth.cpu(), made.cpu(), rows.fps)

    def predict_step(self, batch: RequestBatch, batch_idx: int) -> list[dict[str, str]]:
        clips = self.generate(batch.prompts, names=batch.ids, frames=batch.frames, shape=batch.shape, first=batch.first)
        folder = Path(self.trainer.default_root_dir) / "generated"
        return [
            {"id": name, "prompt": prompt, **write_clip(folder, name, clip, fps=batch.fps, file=file)}
            for name, prompt, file, clip in zip(batch.ids, batch.prompts, batch.files, clips, strict=True)
        ]

    # Data

    def _data(self) -> StreamData:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _rows(self, split: str) -> Clips:
        rows = self._data().rows(split)
        assert isinstance(rows, Clips)
        return rows
