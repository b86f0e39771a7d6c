"""InstructPix2Pix for video as a LightningModule: what is built, what trains, what is logged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from lightning import LightningModule
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from common.callbacks.pictures import Picture
from common.data.module import StreamData
from common.encoders.text import ClipText
from common.export import Layout
from common.latent.noise import NoiseSchedule, squared_errors
from common.latent.schedulers import sampler
from common.latent.unet import blocks
from common.latent.vae import LatentCodec, Posterior
from common.metrics.interval import Estimate
from common.optim import parameter_groups
from common.parallel import shard
from common.random import generator
from common.types import Build, Pick
from projects.pix2pix_video.data import EditBatch, Edits, posterior
from projects.pix2pix_video.latents import NULL
from projects.pix2pix_video.layouts import LAYOUTS
from projects.pix2pix_video.model import EditModel
from projects.pix2pix_video.requests import RequestBatch
from projects.pix2pix_video.roll_out import answer
from projects.pix2pix_video.sampling import Guidance, sample
from projects.pix2pix_video.scores import EditScores

LEARNED = "model.train_text_encoder=true learns what the table holds; set data.*.text=null"


class Pix2PixVideo(LightningModule):
    """The next frame from T frames and an instruction (arXiv:2211.09800, with T frames instead of one)."""

    model: EditModel

    def __init__(
        self,
        *,
        unet: Build[UNet2DConditionModel],
        vae: Build[LatentCodec],
        text_encoder: Build[ClipText],
        noise: Build[DDPMScheduler],
        sampling: Mapping[str, Any],
        train_text_encoder: bool,
        optimizer: Build[Optimizer],
        lr: float,
        text_encoder_lr: float | None,
        weight_decay: float,
        schedule: Build[LRScheduler],
        weighting: str = "plain",
        gamma: float = 5.0,
        sampled: int = 64,
        lpips: Build[nn.Module] | None = None,
        follow: bool = False,
        pictures: str | None = None,
    ) -> None:
        """
        Args:
            unet: recipe of the denoiser.
            vae: recipe of the frozen autoencoder.
            text_encoder: recipe of the text encoder.
            noise: recipe of the scheduler that the model learns with; says what is predicted.
            sampling: `scheduler` (name of a class of diffusers), `steps`, `seed`, and `guidance`, the arguments of
                `projects.pix2pix_video.sampling.Guidance`.
            train_text_encoder: whether the text encoder learns too; the data must not bring its states then.
            optimizer: recipe of the optimizer, called with parameter groups.
            lr: of the UNet.
            text_encoder_lr: of the text encoder, if it learns.
            weight_decay: for matrices; vectors are not decayed.
            schedule: recipe of the schedule, called with the optimizer and the number of steps.
            weighting: of the squared errors, see `common.latent.noise.NoiseSchedule.weight`.
            gamma: of min-SNR.
            sampled: first rows of the validation set that are sampled and scored as pictures; all give a loss.
            lpips: recipe of `common.metrics.lpips.Lpips`, to score with it too.
            follow: whether the instruction was followed is checked too; of the built-in edits alone.
            pictures: folder for the predictions and truths of a test as PNG, for `prepare task=picture_metrics`.
        """
        super().__init__()
        if train_text_encoder == (text_encoder_lr is None):
            raise ValueError("model.text_encoder_lr belongs to model.train_text_encoder=true, and to it alone")
        self.recipes = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
        self.train_text_encoder = train_text_encoder
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.lr, self.text_encoder_lr, self.weight_decay = lr, text_encoder_lr, weight_decay
        self.weighting, self.gamma, self.sampled = weighting, gamma, sampled
        self.scheduler = noise()
        self.noise = NoiseSchedule(self.scheduler)
        self.sampler = sampler(sampling["scheduler"], self.scheduler)
        self.sampling_steps, self.sampling_seed = int(sampling["steps"]), int(sampling["seed"])
        self.guidance = Guidance(**sampling["guidance"])
        self._frozen: dict[str, Any] = {}  # outside the module tree: never trained, saved or wrapped
        self.scores = EditScores(lpips=lpips, follow=follow, pictures=pictures)
        self.loss = MeanMetric()

    @staticmethod
    def layouts() -> Mapping[str, Layout]:
        """Forms that `launchers.export` can write beside `trained`."""
        return LAYOUTS

    def configure_model(self) -> None:
        if not hasattr(self, "model"):
            self.model = EditModel(unet=self.recipes["unet"]())
            self.text_encoder = self.recipes["text_encoder"](trained=True) if self.train_text_encoder else None
        shard(self, units=blocks(self.model.unet))

    def configure_optimizers(self) -> Any:
        parts: dict[str, tuple[Any, float]] = {"unet": (self.model.parameters(), self.lr)}
        if self.text_encoder is not None:
            assert self.text_encoder_lr is not None
            parts["text_encoder"] = (self.text_encoder.parameters(), self.text_encoder_lr)
        optimizer = self.make_optimizer(parameter_groups(parts, weight_decay=self.weight_decay))
        schedule = self.make_schedule(optimizer, steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Frozen parts

    @property
    def codec(self) -> LatentCodec:
        """The autoencoder, built when it is first wanted."""
        return self._part("vae")

    def _part(self, name: str) -> Any:
        if name not in self._frozen:
            self._frozen[name] = self.recipes[name]().to(self.device)
        return self._frozen[name]

    # From a batch to a number

    def latents(self, batch: EditBatch) -> tuple[Tensor, Posterior]:
        """Modes of the history (B, T, C, h, w) and the posterior of the target, unscaled, float32.

        Encoded here, they are rounded to the dtype of the cache: the same numbers either way.
        """
        if batch.latents is not None:
            return posterior(batch.latents)
        assert batch.frames is not None
        mean, logvar = self.codec.encode(batch.frames.flatten(0, 1))
        mean, logvar = (part.half().float().unflatten(0, batch.frames.shape[:2]) for part in (mean, logvar))
        return mean[:, :-1], Posterior(mean[:, -1], logvar[:, -1])

    def text(self, batch: EditBatch) -> tuple[Tensor, Tensor]:
        """States of the instructions (B, L, D) and of the null instruction (1, L, D), float32."""
        if batch.text is None:
            states = self._states([*batch.prompts, NULL])
            return states[:-1], states[-1:]
        if self.text_encoder is not None:
            raise ValueError(LEARNED)
        assert batch.null_text is not None
        return batch.text.float(), batch.null_text.float()

    def _states(self, prompts: Sequence[str]) -> Tensor:
        """States of prompts, float32 (B, L, D): of the text encoder that learns, or rounded as the table is."""
        if self.text_encoder is not None:
            states: Tensor = self.text_encoder(prompts)
            return states.float()
        frozen: Tensor = self._part("text_encoder")(prompts)
        return frozen.half().float()

    def errors(self, batch: EditBatch) -> Tensor:
        """Weighted squared error of each sample, float32 (B,)."""
        history, target = self.latents(batch)
        draws = batch.draws
        clean = self.codec.scale(target.sample(draws.posterior))
        noisy = self.noise.add_noise(clean, draws.noise, draws.timesteps)
        seen = history * draws.keep_history.view(-1, 1, 1, 1, 1)
        prediction = self.model(noisy, seen, draws.timesteps, self.text(batch)[0])
        errors = squared_errors(prediction, self.noise.target(clean, draws.noise, draws.timesteps))
        return errors * self.noise.weight(draws.timesteps, kind=self.weighting, gamma=self.gamma)

    def training_step(self, batch: EditBatch, batch_idx: int) -> Tensor:
        return self.errors(batch).sum() / batch.normalizer

    # Evaluation

    def on_fit_start(self) -> None:
        self._refuse_caches("train", "val")

    def on_validation_epoch_start(self) -> None:
        self.scores.start(["val"], self.device)
        self.loss.reset()

    def validation_step(self, batch: EditBatch, batch_idx: int) -> None:
        self.loss.update(self.errors(batch))
        self._score(batch, view="val", split="val", chosen=batch.rows < self.sampled)

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.loss.compute(), logger=False)
        self.log_dict({f"val/{name}": value for name, value in self.scores.finish().items()}, logger=False)

    def on_test_start(self) -> None:
        self._refuse_caches(*(f"test/{view}" for view in self._data().test_recipes))

    def on_test_epoch_start(self) -> None:
        self.scores.start(list(self._data().test_recipes), self.device)

    def test_step(self, batch: EditBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        view = list(self._data().test_recipes)[dataloader_idx]
        self._score(batch, view=view, split=f"test/{view}", chosen=torch.ones_like(batch.rows, dtype=torch.bool))

    def on_test_epoch_end(self) -> None:
        self.scores.finish()

    def report(self) -> Mapping[str, Mapping[str, Estimate | float]]:
        """Scores by view and column of the last test, beside copies of the last frame and round trips of the truth."""
        return self.scores.report()

    def _score(self, batch: EditBatch, *, view: str, split: str, chosen: Tensor) -> None:
        if not chosen.any():
            return
        assert batch.frames is not None
        rows, frames = self._rows(split).chosen(batch.rows[chosen]), batch.frames[chosen]
        history, target = self.latents(batch)
        text, null_text = self.text(batch)
        pred = self.predict(history[chosen], text[chosen], null_text, names=[row.id for row in rows])
        self.scores.update(
            view,
            rows=rows,
            pred=pred,
            truth=frames[:, -1],
            last=frames[:, -2],
            round_trip=self.codec.decode(target.mean[chosen]),
        )

    # Prediction

    def predict(self, history: Tensor, text: Tensor, null_text: Tensor, *, names: Sequence[str]) -> Tensor:
        """The next frame of each row.

        Args:
            history: unscaled modes, (B, T, C, h, w).
            text: states of the instructions, (B, L, D).
            null_text: of the null instruction, (1, L, D).
            names: of the rows; the noise of a row depends on its name and `sampling.seed` alone.

        Returns:
            uint8 (B, 3, H, W), 0..255.
        """
        latents = sample(
            self.model,
            history=history,
            text=text,
            null_text=null_text,
            scheduler=self.sampler,
            steps=self.sampling_steps,
            guidance=self.guidance,
            generators=[generator(self.sampling_seed, "pix2pix_video", "sample", name) for name in names],
        )
        return self.codec.decode(self.codec.unscale(latents))

    def predict_step(self, batch: RequestBatch, batch_idx: int) -> list[dict[str, str]]:
        states = self._states([*batch.prompts, NULL])

        def encode(frames: Tensor) -> Tensor:
            return self.codec.encode(frames.flatten(0, 1)).mean.unflatten(0, frames.shape[:2])

        def predict(history: Tensor, step: int) -> Tensor:
            names = [f"{name}/{step}" if step else name for name in batch.ids]
            return self.predict(history, states[:-1], states[-1:], names=names)

        return answer(batch, encode, predict, folder=Path(self.trainer.default_root_dir) / "generated")

    def predict_pictures(self, rows: Edits, numbers: Sequence[int]) -> list[Picture]:
        """Predictions of rows of a data set, for `common.callbacks.pictures`."""
        picks = [Pick(number, number, 1.0) for number in numbers]
        batch = move_data_to_device(rows.collate(picks), self.device)
        history, _ = self.latents(batch)
        text, null_text = self.text(batch)
        chosen = rows.chosen(batch.rows)
        preds = self.predict(history, text, null_text, names=[row.id for row in chosen])
        return [
            Picture(row.instruction, frames[:-1].cpu(), frames[-1].cpu(), pred.cpu())
            for row, frames, pred in zip(chosen, batch.frames, preds, strict=True)
        ]

    # Data

    def _data(self) -> StreamData:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _rows(self, split: str) -> Edits:
        rows = self._data().rows(split)
        assert isinstance(rows, Edits)
        return rows

    def _refuse_caches(self, *splits: str) -> None:
        """A cache of another autoencoder or text encoder is an error before the first step."""
        for split in splits:
            rows = self._rows(split)
            rows.refuse_other_codec(self.codec)
            if rows.table is not None:
                if self.train_text_encoder:
                    raise ValueError(LEARNED)
                rows.refuse_other_text(self._part("text_encoder"))
