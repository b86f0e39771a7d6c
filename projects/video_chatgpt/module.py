"""Video-ChatGPT as a LightningModule: what is built, what trains, what is logged."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.chat.answers import Asked, Line, answer_lines, answer_texts
from common.chat.decoder import target_logits
from common.chat.loss import global_mean, token_losses
from common.chat.request import Unreadable, question, record
from common.chat.samples import as_questions
from common.chat.scoring import Scoring
from common.data.conversations import Turn
from common.data.module import StreamData
from common.encoders.clip import ClipPatches
from common.encoders.pooling import spatio_temporal
from common.export import Layout
from common.metrics.interval import Estimate
from common.optim import parameter_groups
from common.parallel import shard
from common.text.language_model import blocks
from common.types import Build, Pick
from common.video.decode import VideoReadError
from projects.video_chatgpt.data import ChatBatch, Row, VideoChat
from projects.video_chatgpt.layouts import LAYOUTS
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
        self.scoring = Scoring()
        self._watched: tuple[str, Tensor] = ("", torch.empty(0))  # the video of a talk and its features

    @staticmethod
    def layouts() -> Mapping[str, Layout]:
        """Forms that `launchers.export` can write beside `trained`."""
        return LAYOUTS

    def configure_model(self) -> None:
        if not hasattr(self, "model"):
            self.model = self._build()
        shard(self, units=blocks(self.model.language_model))

    def _build(self) -> VideoLanguageModel:
        language_model = self.recipes["language_model"]().requires_grad_(self.train_language_model)
        if self.adapter is not None:
            self.adapter(language_model)
        if self.language_model_lr is not None:
            language_model.train()
        return VideoLanguageModel(language_model=language_model, feature_width=self.feature_width)

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

    def embeddings(self, batch: ChatBatch) -> Tensor:
        """Input embeddings of the language model: (B, L, width)."""
        return self.model.embed(batch.text.ids, batch.text.visual_start, self.features(batch))

    def logits(self, batch: ChatBatch) -> Tensor:
        """Logits of the target tokens, float32 (K, V)."""
        text = batch.text
        return target_logits(
            self.model.language_model, self.embeddings(batch), text.target_places, branches=text.branches
        )

    def training_step(self, batch: ChatBatch, batch_idx: int) -> Tensor:
        text = batch.text
        losses = token_losses(self.logits(batch), text.targets)
        return global_mean(losses, text.target_rows, len(text.conversations), text.normalizer, per=self.loss_per)

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        self.scoring.start({"val": self._rows("val")}, self.device)

    def validation_step(self, batch: ChatBatch, batch_idx: int) -> None:
        self.scoring.update(self.logits(batch), batch.text)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.scoring.finish().items()}, logger=False)

    def on_test_epoch_start(self) -> None:
        views = {view: self._rows(f"test/{view}") for view in self._data().test_recipes}
        self.scoring.start(views, self.device)

    def test_step(self, batch: ChatBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.scoring.update(self.logits(batch), batch.text, view=dataloader_idx)

    def on_test_epoch_end(self) -> None:
        self.scoring.finish()

    def report(self) -> Mapping[str, Mapping[str, Estimate | float]]:
        """Accuracy by view and kind of the last test, and what guessing would reach."""
        return self.scoring.report()

    def _data(self) -> StreamData:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _rows(self, split: str) -> VideoChat:
        rows = self._data().rows(split)
        assert isinstance(rows, VideoChat)
        return rows

    # Answers

    def predict_step(self, asked: Asked, batch_idx: int) -> list[Line]:
        rows = self._rows("predict")
        return answer_lines(asked, rows.text, answers=partial(self.answers, rows=rows))

    def answers(self, batch: ChatBatch, rows: VideoChat) -> list[str]:
        """What the model says after the last question of each conversation of `rows` that is in the batch."""
        decoding = rows.decoding(self.max_new_tokens)
        return answer_texts(self.model.language_model, self.embeddings(batch), batch.text, rows.text, decoding=decoding)

    def answer_rows(self, rows: VideoChat, numbers: Sequence[int]) -> list[Line]:
        """Answers to rows of a data set, for `common.callbacks.answers`."""
        asked, batch = as_questions(rows, numbers)
        preds = self.answers(move_data_to_device(batch, self.device), asked)
        return [record(row, pred=pred) for row, pred in zip(asked.text.conversations, preds, strict=True)]

    def reply(self, rows: VideoChat, video: str, turns: Sequence[Turn]) -> str:
        """The answer to the last turn of a talk; the features of the video are kept for the next one."""
        asked = rows.asking(question(video, turns))
        if self._watched[0] != video:
            seen = asked[Pick(0, 0, 1.0)]
            if isinstance(seen, Unreadable):
                raise VideoReadError(video, seen.reason)
            pixels = move_data_to_device(asked.batch([seen]), self.device)
            self._watched = (video, self.features(pixels)[0])
        batch = asked.batch([Row(self._watched[1], None, Pick(0, 0, 1.0))])
        return self.answers(move_data_to_device(batch, self.device), asked)[0]
