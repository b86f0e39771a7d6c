"""GenHancer as a LightningModule: what is built, what trains in which stage, what is logged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from common.data.module import StreamData
from common.encoders.tower import ContrastiveTower
from common.export import Layout
from common.gradients import gradient_of, step_follows
from common.latent.vae import LatentCodec, Posterior
from common.metrics.interval import Estimate
from common.optim import parameter_groups
from common.parallel import shard
from common.random import generator
from common.types import Build
from projects.genhancer.adapters import unfreeze
from projects.genhancer.data import Batch
from projects.genhancer.distillation import Distillation
from projects.genhancer.guards import TowerGuard, refuse_detached
from projects.genhancer.layouts import LAYOUTS
from projects.genhancer.model import PATCHES, Reconstructor
from projects.genhancer.output import write_grids
from projects.genhancer.stages import ALL, ONLY, RECORD, check_keys, find_stage1, load_stage1, refuse_other_tower
from projects.genhancer.tower_scores import TowerScores
from projects.genhancer.vision import Seen, see, shuffled, vision_units


class GenHancer(LightningModule):
    """A denoiser rebuilds a frame from what CLIP sees (arXiv:2503.19480); in the second stage CLIP learns from it."""

    reconstructor: Reconstructor
    tower: ContrastiveTower  # of the second stage; in the first it is a frozen part

    def __init__(
        self,
        *,
        tower: Build[ContrastiveTower],
        vae: Build[LatentCodec],
        reconstructor: Build[Reconstructor],
        scores: Build[TowerScores],
        sampling: Mapping[str, Any],
        optimizer: Build[Optimizer],
        lr: float,
        tower_lr: float | None,
        weight_decay: float,
        schedule: Build[LRScheduler],
        adapters: Build[list[str]] | None = None,
        whole: bool = False,
        train: str = ALL,
        stage1: str | None = None,
        load_step: str | int = "last",
        distillation: Distillation | None = None,
        shuffle: bool = False,
        guard_steps: int = 5,
    ) -> None:
        """
        Args:
            tower: recipe of the CLIP or SigLIP.
            vae: recipe of the frozen autoencoder.
            reconstructor: recipe of projectors and denoiser.
            scores: recipe of the benchmarks of the tower.
            sampling: `steps`, `seed`, and `count`, the reconstructions of each picture that `generate` draws.
            optimizer: recipe of the optimizer, called with parameter groups.
            lr: of projectors and denoiser.
            tower_lr: of the vision tower; null in the first stage, where it is frozen.
            weight_decay: for matrices; vectors are not decayed.
            schedule: recipe of the schedule, called with the optimizer and the number of steps.
            adapters: recipe of low-rank adapters (`projects.genhancer.adapters.adapt`) for the vision tower: the second
                stage.
            whole: the vision tower learns whole instead: an ablation.
            train: in the second stage "all", or "only" the tower.
            stage1: run folder of the first stage; null in the first, or to do without one: an ablation. "random" stands
                for one in measurements.
            load_step: which of its checkpoints: "last", "best" or a number of steps.
            distillation: what holds class embeddings near those of the tower before its adapters.
            shuffle: each sample sees the conditions of another: a control, from which nothing can be learned.
            guard_steps: within so many steps a gradient must have reached the tower.

        Raises:
            ValueError: keys that contradict each other.
        """
        super().__init__()
        self.recipes: dict[str, Build[Any]] = {"tower": tower, "vae": vae, "reconstructor": reconstructor}
        self.adapters, self.whole, self.train_parts = adapters, whole, train
        self.stage1, self.load_step = stage1, load_step
        self.distillation, self.shuffle = distillation, shuffle
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.lr, self.tower_lr, self.weight_decay = lr, tower_lr, weight_decay
        check_keys(
            learns_tower=self.learns_tower,
            both=adapters is not None and whole,
            whole=whole,
            train=train,
            tower_lr=tower_lr,
            stage1=stage1,
            distillation=bool(distillation),
        )
        self.sampling_steps, self.sampling_seed = int(sampling["steps"]), int(sampling["seed"])
        self.sampled = int(sampling["count"])
        self._frozen: dict[str, Any] = {}  # outside the module tree: never trained, saved or wrapped
        self.scores = scores()
        self.guard = TowerGuard(steps=guard_steps)
        self.loss, self.drift = MeanMetric(), MeanMetric()
        self._report: dict[str, dict[str, Estimate | float]] = {}

    @staticmethod
    def layouts() -> Mapping[str, Layout]:
        """Forms that `launchers.export` can write beside `trained`."""
        return LAYOUTS

    @property
    def learns_tower(self) -> bool:
        """Whether this is the second stage."""
        return self.adapters is not None or self.whole

    # What is built

    def configure_model(self) -> None:
        if not hasattr(self, "reconstructor"):
            self.reconstructor = self.recipes["reconstructor"]()
            if self.learns_tower:
                self.tower = self._adapted(self.recipes["tower"]())
            if self.stage1 is not None and self.stage1 != "random":
                checkpoint = find_stage1(self.stage1, self.load_step)
                load_stage1(self, checkpoint, tower=self.seeing().identity)
            if self.train_parts == ONLY:
                self.reconstructor.requires_grad_(False)
        units = self.reconstructor.units() + (vision_units(self.tower) if self.learns_tower else [])
        shard(self, units=units)

    def _adapted(self, tower: ContrastiveTower) -> ContrastiveTower:
        if self.adapters is None:
            unfreeze(tower)
        else:
            self.adapters(tower)
        if self.distillation and any(each.requires_grad and each.ndim == 1 for each in tower.parameters()):
            raise ValueError(
                "model.distillation compares with the tower without its adapters, and biases would stay changed; set "
                "model.adapters.biases=false"
            )
        return tower.train(self.training)

    def configure_optimizers(self) -> Any:
        parts: dict[str, tuple[Any, float]] = {}
        if self.train_parts == ALL:
            parts["reconstructor"] = (self.reconstructor.parameters(), self.lr)
        if self.learns_tower:
            assert self.tower_lr is not None
            parts["tower"] = (self.tower.parameters(), self.tower_lr)
        optimizer = self.make_optimizer(parameter_groups(parts, weight_decay=self.weight_decay))
        schedule = self.make_schedule(optimizer, steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def codec(self) -> LatentCodec:
        """The autoencoder, built when it is first wanted."""
        codec: LatentCodec = self._part("vae")
        return codec

    def seeing(self) -> ContrastiveTower:
        """The tower: the one that learns, or the frozen one, built when it is first wanted."""
        tower: ContrastiveTower = self.tower if hasattr(self, "tower") else self._part("tower")
        return tower

    def _part(self, name: str) -> Any:
        if name not in self._frozen:
            self._frozen[name] = self.recipes[name]().to(self.device)
        return self._frozen[name]

    # From a batch to a number

    def see(self, batch: Batch) -> Seen:
        """What the tower makes of the conditions; gradients flow where it learns, and nowhere else."""
        return see(self.seeing, batch, learns=self.learns_tower, patches=self.reconstructor.condition == PATCHES)

    def latents(self, batch: Batch) -> Tensor:
        """Scaled latents of the targets, drawn from their posteriors, float32 (B, C, h, w).

        Encoded here, they are rounded to the dtype of the cache: the same numbers either way.
        """
        if batch.latents is not None:
            mean, logvar = batch.latents.float().chunk(2, dim=1)
        else:
            assert batch.target is not None
            mean, logvar = (part.half().float() for part in self.codec.encode(batch.target))
        return self.codec.scale(Posterior(mean, logvar).sample(batch.draws.posterior))

    def errors(self, batch: Batch, seen: Seen) -> Tensor:
        """Mean squared error of the flow of each sample, float32 (B,)."""
        if self.shuffle:
            seen = shuffled(seen)
        latents = self.latents(batch)
        return self.reconstructor.errors(seen.embeddings, batch.times, latents, batch.draws, patches=seen.patches)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        seen = self.see(batch)
        if self.learns_tower:
            refuse_detached(seen.embeddings)
        losses = self.errors(batch, seen)
        if self.distillation:
            losses = losses + self.distillation.weight * self.distillation.drift(self.tower, batch, seen)
        return losses.sum() / batch.normalizer

    def on_train_start(self) -> None:
        if self.learns_tower:
            self.guard.start()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.learns_tower and step_follows(self.trainer):
            self.guard.watch(gradient_of(each, self.trainer) for each in self._tower_parameters())

    def _tower_parameters(self) -> list[nn.Parameter]:
        return [each for each in self.tower.parameters() if each.requires_grad]

    # Evaluation

    def on_fit_start(self) -> None:
        self._refuse_caches("train", "val")
        if self.learns_tower:
            self.scores.benchmarks("val")

    def on_validation_epoch_start(self) -> None:
        self.loss.reset()
        self.drift.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        seen = self.see(batch)
        self.loss.update(self.errors(batch, seen))
        if self.distillation:
            self.drift.update(self.distillation.drift(self.tower, batch, seen))

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.loss.compute(), logger=False)
        if self.distillation:
            self.log("val/drift", self.drift.compute(), logger=False)
        if self.learns_tower:
            asked = self.scores.ask("val", self.tower, device=self.device)
            self.log_dict({f"val/{name}": value for name, value in asked.numbers().items()}, logger=False)

    def on_test_start(self) -> None:
        self._report = {}
        self.scores.benchmarks("test")
        self._losses = {view: MeanMetric().to(self.device) for view in self._data().test_recipes}
        self._refuse_caches(*(f"test/{view}" for view in self._losses))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        view = list(self._losses)[dataloader_idx]
        self._losses[view].update(self.errors(batch, self.see(batch)))

    def on_test_epoch_end(self) -> None:
        """The loss of each view; the first has the shares of the benchmarks too, whose groups are rows of their own."""
        asked = self.scores.ask("test", self.seeing(), device=self.device)
        self._report = {view: {"loss": float(loss.compute())} for view, loss in self._losses.items()}
        self._report[next(iter(self._report))] |= asked.whole()
        self._report |= asked.shares

    def report(self) -> Mapping[str, Mapping[str, Estimate | float]]:
        """Losses by view and benchmarks by measure and group, of the last test."""
        return self._report

    # Reconstruction

    def reconstruct(self, batch: Batch, *, names: Sequence[str]) -> Tensor:
        """Targets from what the tower sees of the conditions, by Euler steps.

        Args:
            batch: B samples.
            names: of them; the noise of a sample depends on its name and `sampling.seed` alone.

        Returns:
            uint8 (B, 3, H, W), 0..255.
        """
        seen = self.see(batch)
        channels, height, width = batch.draws.noise.shape[1:]
        latents = self.reconstructor.sample(
            seen.embeddings,
            batch.times,
            shape=(channels, height, width),
            steps=self.sampling_steps,
            generators=[generator(self.sampling_seed, "genhancer", "sample", name) for name in names],
            patches=seen.patches,
        )
        return self.codec.decode(self.codec.unscale(latents))

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, str]]:
        rows = self._data().rows("predict")
        names = [rows.name(number) for number in batch.rows.tolist()]
        tries = [self.reconstruct(batch, names=[f"{name}/{each}" for name in names]) for each in range(self.sampled)]
        assert batch.target is not None
        round_trips = self.codec.decode(self.codec.encode(batch.target).mean)
        folder = Path(self.trainer.default_root_dir) / "generated"
        return write_grids(folder, batch, names=names, round_trips=round_trips, rebuilt=tries)

    # Checkpoints and data

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes what the denoiser was trained beside."""
        checkpoint[RECORD] = {"tower": self.seeing().identity, "vae": self.codec.identity}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_other_tower(checkpoint, tower=self.seeing().identity, source="the checkpoint")

    def _data(self) -> StreamData:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _refuse_caches(self, *splits: str) -> None:
        """A cache of another autoencoder or tower is an error before the first step."""
        for split in splits:
            rows: Any = self._data().rows(split)
            rows.refuse_other_codec(self.codec)
            rows.refuse_other_tower(self.seeing(), learns=self.learns_tower)
