"""Video-ChatGPT as a LightningModule: what is built, what trains, what is logged."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from common.encoders.clip import ClipPatches
from common.encoders.pooling import spatio_temporal
from common.metrics.accuracy import GroupedAccuracy
from common.metrics.interval import Estimate, macro
from common.optim import parameter_groups
from common.types import Build
from projects.video_chatgpt.data import ChatBatch, VideoChat
from projects.video_chatgpt.loss import global_mean, per_sample, token_losses
from projects.video_chatgpt.model import VideoLanguageModel


class VideoChatGPT(LightningModule):
    """Video-ChatGPT (arXiv:2306.05424): a projector, two boundary rows, and by choice the language model learn."""

    model: VideoLanguageModel

    def __init__(
        self,
        *,
        language_model: Build[Any],
        encoder: Build[ClipPatches],
        tokenizer: Build[Any],
        feature_width: int,
        temporal: int,
        train_language_model: bool,
        adapter: Build[list[str]] | None,
        optimizer: Build[Optimizer],
        lr: float,
        language_model_lr: float | None,
        weight_decay: float,
        schedule: Build[LRScheduler],
        loss_per: str = "token",
        max_new_tokens: int = 64,
    ) -> None:
        """
        Args:
            language_model: recipe of the decoder.
            encoder: recipe of the vision tower; built only when a batch brings pixels instead of features.
            tokenizer: recipe of the tokenizer, to read answers.
            feature_width: D of the features.
            temporal: temporal tokens T.
            train_language_model: whether the decoder learns too, all of it.
            adapter: recipe of low-rank adapters in the decoder (`common.lora.add_lora`), instead of all of it.
            optimizer: recipe of the optimizer, called with parameter groups.
            lr: of the projector and the boundary rows.
            language_model_lr: of the decoder, if it learns.
            weight_decay: for matrices; vectors are not decayed.
            schedule: recipe of the schedule, called with the optimizer and the number of steps.
            loss_per: "token" or "sample".
            max_new_tokens: longest generated answer.
        """
        super().__init__()
        if train_language_model and adapter is not None:
            raise ValueError("model.train_language_model=true trains the whole decoder; leave model.adapter out")
        if (train_language_model or adapter is not None) == (language_model_lr is None):
            raise ValueError("model.language_model_lr belongs to a decoder that learns, whole or by an adapter, alone")
        self.recipes = {"language_model": language_model, "encoder": encoder, "tokenizer": tokenizer}
        self.feature_width, self.temporal = feature_width, temporal
        self.train_language_model, self.adapter = train_language_model, adapter
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.lr, self.language_model_lr, self.weight_decay = lr, language_model_lr, weight_decay
        self.loss_per, self.max_new_tokens = loss_per, max_new_tokens
        self._frozen: dict[str, Any] = {}  # outside the module tree: never trained, saved or wrapped
        self._reports: dict[str, dict[str, Estimate]] = {}

    def configure_model(self) -> None:
        if hasattr(self, "model"):
            return
        language_model = self.recipes["language_model"]().requires_grad_(self.train_language_model)
        if self.adapter is not None:
            self.adapter(language_model)
        if self.language_model_lr is not None:
            language_model.train()
        self.model = VideoLanguageModel(language_model=language_model, feature_width=self.feature_width)

    def configure_optimizers(self) -> Any:
        bridge = [*self.model.projector.parameters(), self.model.boundary]
        parts: dict[str, tuple[Any, float]] = {"projector": (bridge, self.lr)}
        if self.language_model_lr is not None:
            parts["language_model"] = (self.model.language_model.parameters(), self.language_model_lr)
        optimizer = self.make_optimizer(parameter_groups(parts, weight_decay=self.weight_decay))
        schedule = self.make_schedule(optimizer, steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # From a batch to a number

    def features(self, batch: ChatBatch) -> Tensor:
        """Cached features, or those of the batch's pixels, rounded to the dtype of the cache: (B, N, D)."""
        if batch.features is not None:
            return batch.features
        assert batch.pixels is not None
        assert batch.num_frames is not None
        patches = self._encoder(batch.pixels.device)(batch.pixels)
        counts = batch.num_frames.tolist()
        pooled = [
            spatio_temporal(clip[:count], temporal=self.temporal) for clip, count in zip(patches, counts, strict=True)
        ]
        return torch.stack(pooled).half()

    def _encoder(self, device: torch.device) -> ClipPatches:
        if "encoder" not in self._frozen:
            self._frozen["encoder"] = self.recipes["encoder"]().to(device)
        encoder: ClipPatches = self._frozen["encoder"]
        return encoder

    def logits(self, batch: ChatBatch) -> Tensor:
        """Logits of the target tokens, float32 (K, V)."""
        embeddings = self.model.embed(batch.ids, batch.visual_start, self.features(batch))
        return self.model.target_logits(embeddings, batch.target_places)

    def training_step(self, batch: ChatBatch, batch_idx: int) -> Tensor:
        losses = token_losses(self.logits(batch), batch.targets)
        return global_mean(losses, batch.target_rows, len(batch.ids), batch.normalizer, per=self.loss_per)

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        self._start_scores(self._rows("val"))

    def validation_step(self, batch: ChatBatch, batch_idx: int) -> None:
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        loss, estimates = self._scores()
        self.log("val/loss", loss, logger=False)
        for group, estimate in estimates.items():
            self.log(f"val/exact/{group}", estimate.value, logger=False)

    def on_test_epoch_start(self) -> None:
        self._reports = {}
        self._view = ""

    def test_step(self, batch: ChatBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        view = self._views()[dataloader_idx]
        if batch_idx == 0:
            self._finish_view()
            self._view = view
            self._start_scores(self._rows(f"test/{view}"))
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        self._finish_view()

    def report(self) -> Mapping[str, Mapping[str, Estimate | float]]:
        """Accuracy by view and group of the last test, and what guessing would reach."""
        rows = self._rows(f"test/{self._views()[0]}")
        chance = rows.chance()
        table: dict[str, Mapping[str, Estimate | float]] = dict(self._reports)
        if chance:
            table["chance"] = chance | {"macro": sum(chance.values()) / len(chance)}
        return table

    def _start_scores(self, rows: VideoChat) -> None:
        self._kinds = rows.kinds
        self._accuracy = GroupedAccuracy(rows.kinds).to(self.device)
        self._loss = MeanMetric().to(self.device)

    def _score(self, batch: ChatBatch) -> None:
        """A greedy answer equals the truth exactly when every target is the most likely token after the true ones."""
        logits = self.logits(batch)
        self._loss.update(token_losses(logits, batch.targets))
        wrong = per_sample((logits.argmax(dim=-1) != batch.targets).float(), batch.target_rows, len(batch.ids))
        self._accuracy.update(wrong == 0, batch.membership)

    def _scores(self) -> tuple[Tensor, dict[str, Estimate]]:
        estimates = self._accuracy.compute()
        kinds = [estimates[kind] for kind in self._kinds if kind in estimates]
        return self._loss.compute(), estimates | {"macro": macro(kinds)}

    def _finish_view(self) -> None:
        if self._view:
            self._reports[self._view] = self._scores()[1]
        self._view = ""

    def _views(self) -> list[str]:
        return list(self.trainer.datamodule.test_recipes)  # type: ignore[attr-defined]

    def _rows(self, split: str) -> VideoChat:
        rows = self.trainer.datamodule.rows(split)  # type: ignore[attr-defined]
        assert isinstance(rows, VideoChat)
        return rows

    # Answers

    def predict_step(self, batch: ChatBatch, batch_idx: int) -> list[dict[str, str | None]]:
        rows = self._rows("predict")
        features = self.features(batch)
        answers = []
        for number, row in enumerate(batch.rows.tolist()):
            ids, visual_start = rows.prompt(row)
            generated = self.model.generate(
                ids.to(self.device),
                visual_start.to(self.device),
                features[number : number + 1],
                max_new_tokens=self.max_new_tokens,
                eos=rows.tokenizer.eos_token_id,
            )
            text = str(rows.tokenizer.decode(generated[0], skip_special_tokens=True)).strip()
            conversation = rows.conversations[row]
            question, truth = conversation.turns[-1]
            named = {"id": conversation.id, "video": conversation.video, "question": question}
            answers.append(named | {"answer": truth, "pred": text})  # the published names: `answer` is the truth
        return answers
