"""LLaVA video fine-tuning as a LightningModule: what is built, what trains, what is logged."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from common.chat.answers import Asked, Line, answer_lines, answer_texts
from common.chat.decoder import target_logits
from common.chat.loss import global_mean, token_losses
from common.chat.request import Unreadable, question, record
from common.chat.samples import as_questions
from common.chat.scoring import Scoring
from common.data.conversations import Turn
from common.data.module import StreamData
from common.export import Layout
from common.metrics.interval import Estimate
from common.optim import parameter_groups, trainable_table
from common.parallel import shard
from common.text.language_model import blocks
from common.types import Build, Pick
from common.video.decode import VideoReadError
from projects.llava_video.data import LlavaBatch, Row, VideoConversations
from projects.llava_video.families import PARTS, Family, module_of, part_of, unused_vision, vision_blocks
from projects.llava_video.layouts import LAYOUTS
from projects.llava_video.model import VisionLanguageModel

log = logging.getLogger(__name__)


class LlavaVideo(LightningModule):
    """Supervised fine-tuning of a vision language model: each part whole, by adapters, or not at all."""

    model: VisionLanguageModel

    def __init__(
        self,
        *,
        model: Build[PreTrainedModel],
        family: Family,
        tokenizer: Build[Any],
        mean: Sequence[float],
        std: Sequence[float],
        train: Mapping[str, bool],
        adapters: Mapping[str, Build[list[str]] | None],
        lr: Mapping[str, float | None],
        optimizer: Build[Optimizer],
        weight_decay: float,
        schedule: Build[LRScheduler],
        loss_per: str = "token",
        max_new_tokens: int = 64,
    ) -> None:
        """
        Args:
            model: recipe of the vision language model.
            family: of that model.
            tokenizer: recipe of its tokenizer.
            mean: of the channels that the vision tower was trained with, for values 0..1.
            std: the same.
            train: which of vision, projector and language_model learn whole.
            adapters: recipes of low-rank adapters (`common.lora.add_lora`) for parts that do not.
            lr: learning rate of each part that learns, null for the others.
            optimizer: recipe of the optimizer, called with parameter groups.
            weight_decay: for matrices; vectors are not decayed.
            schedule: recipe of the schedule, called with the optimizer and the number of steps.
            loss_per: "token" or "sample".
            max_new_tokens: longest generated answer.

        Raises:
            ValueError: another part than these, one that learns whole and by an adapter, a rate for one that does not
                learn, or nothing that learns.
        """
        super().__init__()
        self.recipes = {"model": model, "tokenizer": tokenizer}
        self.family, self.mean, self.std = family, mean, std
        self.train_whole, self.adapters, self.lr = dict(train), dict(adapters), dict(lr)
        self._check_parts()
        self.make_optimizer, self.make_schedule, self.weight_decay = optimizer, schedule, weight_decay
        self.loss_per, self.max_new_tokens = loss_per, max_new_tokens
        self.scoring = Scoring()
        self._watched: tuple[str, Row | None] = ("", None)  # the video of a talk and its frames

    @staticmethod
    def layouts() -> Mapping[str, Layout]:
        """Forms that `launchers.export` can write beside `trained`."""
        return LAYOUTS

    def _check_parts(self) -> None:
        for key, parts in (("train", self.train_whole), ("adapters", self.adapters), ("lr", self.lr)):
            if set(parts) != set(PARTS):
                raise ValueError(f"model.{key} names {', '.join(parts)}; the parts are {', '.join(PARTS)}")
        for part in PARTS:
            if self.train_whole[part] and self.adapters[part] is not None:
                raise ValueError(f"model.train.{part}=true trains all of it; set model.adapters.{part}=null")
            if (self.lr[part] is not None) != self.learns(part):
                raise ValueError(f"model.lr.{part} belongs to a part that learns, whole or by an adapter, alone")
        if not any(map(self.learns, PARTS)):
            raise ValueError("nothing learns: set one of model.train.* or give one of model.adapters.*")

    def learns(self, part: str) -> bool:
        """Whether a part learns, whole or by an adapter."""
        return self.train_whole[part] or self.adapters[part] is not None

    def configure_model(self) -> None:
        if hasattr(self, "model"):
            return
        model = self.recipes["model"]()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.train_whole[part_of(name)] and parameter.is_floating_point())
        self._refuse_packed(model)
        for part, adapter in self.adapters.items():
            if adapter is not None:
                adapter(module_of(model, part))
        for name in [*unused_vision(model)]:
            model.get_parameter(name).requires_grad_(False)
        for parameter in model.parameters():
            if parameter.requires_grad:  # the steps of an optimizer are too small for bfloat16
                parameter.data = parameter.data.float()
        if self.learns("language_model"):
            model.get_decoder().train()
        self.model = VisionLanguageModel(model=model, family=self.family, mean=self.mean, std=self.std)
        shard(self, units=[*blocks(model), *vision_blocks(model)])

    def _refuse_packed(self, model: PreTrainedModel) -> None:
        packed = {part_of(name) for name, parameter in model.named_parameters() if not parameter.is_floating_point()}
        for part in sorted(packed):
            if self.train_whole[part]:
                raise ValueError(
                    f"model.train.{part}=true cannot train what model.model.quantize=true holds in 4 bits; give it an "
                    f"adapter (model.adapters.{part}), or leave quantize out"
                )

    def on_fit_start(self) -> None:
        log.info("%s", trainable_table({part: self._members(part) for part in PARTS}))

    def _members(self, part: str) -> list[torch.nn.Parameter]:
        return [value for name, value in self.model.vlm.named_parameters() if part_of(name) == part]

    def configure_optimizers(self) -> Any:
        parts = {part: (self._members(part), lr) for part, lr in self.lr.items() if lr is not None}
        optimizer = self.make_optimizer(parameter_groups(parts, weight_decay=self.weight_decay))
        schedule = self.make_schedule(optimizer, steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # From a batch to a number

    def embeddings(self, batch: LlavaBatch) -> Tensor:
        """Input embeddings of the language model: (B, L, width)."""
        return self.model.embed(batch.text, batch.pixels, batch.num_frames)

    def logits(self, batch: LlavaBatch) -> Tensor:
        """Logits of the target tokens, float32 (K, V)."""
        text = batch.text
        return target_logits(self.model.vlm, self.embeddings(batch), text.target_places, branches=text.branches)

    def training_step(self, batch: LlavaBatch, batch_idx: int) -> Tensor:
        text = batch.text
        losses = token_losses(self.logits(batch), text.targets)
        return global_mean(losses, text.target_rows, len(text.conversations), text.normalizer, per=self.loss_per)

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        self.scoring.start({"val": self._rows("val")}, self.device)

    def validation_step(self, batch: LlavaBatch, batch_idx: int) -> None:
        self.scoring.update(self.logits(batch), batch.text)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.scoring.finish().items()}, logger=False)

    def on_test_epoch_start(self) -> None:
        views = {view: self._rows(f"test/{view}") for view in self._data().test_recipes}
        self.scoring.start(views, self.device)

    def test_step(self, batch: LlavaBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.scoring.update(self.logits(batch), batch.text, view=dataloader_idx)

    def on_test_epoch_end(self) -> None:
        self.scoring.finish()

    def report(self) -> Mapping[str, Mapping[str, Estimate | float]]:
        """Accuracy by view and kind of the last test, and what guessing would reach."""
        return self.scoring.report()

    def _data(self) -> StreamData:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _rows(self, split: str) -> VideoConversations:
        rows = self._data().rows(split)
        assert isinstance(rows, VideoConversations)
        return rows

    # Answers

    def predict_step(self, asked: Asked, batch_idx: int) -> list[Line]:
        rows = self._rows("predict")
        return answer_lines(asked, rows.text, answers=partial(self.answers, rows=rows))

    def answers(self, batch: LlavaBatch, rows: VideoConversations) -> list[str]:
        """What the model says after the last question of each conversation of `rows` that is in the batch."""
        decoding = rows.decoding(self.max_new_tokens)
        return answer_texts(self.model.vlm, self.embeddings(batch), batch.text, rows.text, decoding=decoding)

    def answer_rows(self, rows: VideoConversations, numbers: Sequence[int]) -> list[Line]:
        """Answers to rows of a data set, for `common.callbacks.answers`."""
        asked, batch = as_questions(rows, numbers)
        preds = self.answers(move_data_to_device(batch, self.device), asked)
        return [record(row, pred=pred) for row, pred in zip(asked.text.conversations, preds, strict=True)]

    def reply(self, rows: VideoConversations, video: str, turns: Sequence[Turn]) -> str:
        """The answer to the last turn of a talk; the frames of the video are kept for the next one."""
        asked = rows.asking(question(video, turns))
        if self._watched[0] != video:
            seen = asked[Pick(0, 0, 1.0)]
            if isinstance(seen, Unreadable):
                raise VideoReadError(video, seen.reason)
            self._watched = (video, seen)
        assert self._watched[1] is not None
        return self.answers(move_data_to_device(asked.batch([self._watched[1]]), self.device), asked)[0]
