"""The module in training: what moves, what stays, what enters the optimizer, what waits for the device."""

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from omegaconf import DictConfig
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import MeanMetric

from common.chat.request import question
from common.chat.scores import AnswerScores
from common.chat.views import VIEWS
from common.config import build
from common.data.conversations import Turn
from common.types import Pick
from launchers.command import compose
from projects.video_chatgpt.data import ChatBatch, VideoChat

ROOT = Path(__file__).resolve().parents[3]


def configure(shapes: Path, run: Path, *overrides: str, experiment: str = "video_chatgpt_tiny") -> DictConfig:
    small = ["steps=3", "validate_every=3", "batch.global=8", "batch.micro=4", "batch.eval=8"]
    where = [f"paths.data='{shapes}'", f"paths.run='{run}'"]
    return compose(f"experiment={experiment}", *small, *where, *overrides)


def fit(cfg: DictConfig) -> tuple[LightningModule, Trainer, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    data, module = build(cfg.data), build(cfg.model)
    module.configure_model()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    trainer = build(cfg.trainer, max_steps=data.num_steps(), logger=False, callbacks=None, limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    return module, trainer, before


def rows(cfg: DictConfig, split: str = "train", **changes: Any) -> VideoChat:
    node = cfg.data.test.real if split == "test" else cfg.data[split]
    return build(node, **changes)()


@pytest.mark.parametrize("experiment", ["video_chatgpt_tiny_projector", "video_chatgpt_lora_tiny"])
def test_everything_frozen_stays_bit_equal_also_with_weight_decay(
    experiment: str, shapes: Path, tmp_path: Path
) -> None:
    cfg = configure(shapes, tmp_path, "model.weight_decay=0.5", experiment=experiment)
    module, _, before = fit(cfg)
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    assert len(frozen) > 15
    assert all(torch.equal(module.get_parameter(name), before[name]) for name in frozen)


@pytest.mark.parametrize(
    "experiment", ["video_chatgpt_tiny", "video_chatgpt_tiny_projector", "video_chatgpt_lora_tiny"]
)
def test_every_trainable_moves_and_is_in_one_group(experiment: str, shapes: Path, tmp_path: Path) -> None:
    module, trainer, before = fit(configure(shapes, tmp_path, experiment=experiment))
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert not [name for name, parameter in trainable.items() if torch.equal(parameter, before[name])]
    grouped = [id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in trainable.values())


def test_optimizer_holds_the_bridge_and_nothing_else(shapes: Path, tmp_path: Path) -> None:
    module, trainer, _ = fit(configure(shapes, tmp_path, experiment="video_chatgpt_tiny_projector"))
    states = trainer.optimizers[0].state_dict()["state"]
    numbers = sum(state["exp_avg"].numel() for state in states.values())
    width = module.model.boundary.shape[1]
    assert numbers == 128 * width + width + 2 * width


def test_data_does_not_reach_into_the_model_twice(shapes: Path, tmp_path: Path) -> None:
    module, _, _ = fit(configure(shapes, tmp_path))
    built = module.model
    module.configure_model()
    assert module.model is built


class HostSyncs(TorchDispatchMode):
    """Collects the lines of this repository that make the host wait for a value."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(wait in str(func) for wait in self.WAITS):
            frames = [frame for frame in traceback.extract_stack() if "site-packages" not in frame.filename]
            ours = [f for f in frames if f.filename.startswith(str(ROOT)) and "/tests/" not in f.filename]
            library = [f for f in traceback.extract_stack() if "transformers" in f.filename]
            if ours and not library:
                self.lines.append(f"{ours[-1].filename}:{ours[-1].lineno} {func}")
        return func(*args, **(kwargs or {}))


def test_a_training_step_never_waits_for_the_device(shapes: Path, tmp_path: Path) -> None:
    cfg = configure(shapes, tmp_path)
    data = rows(cfg)
    batch = data.collate([data[pick] for pick in picks(3)])
    module = build(cfg.model)
    module.configure_model()
    with HostSyncs() as syncs:
        module.training_step(batch, 0).backward()
    assert syncs.lines == []
    scores = AnswerScores(data.text, device=module.device)
    with HostSyncs() as syncs, torch.no_grad():
        scores.update(module.logits(batch), batch.text)
    assert syncs.lines == []
    scores.loss = MeanMetric()  # as it comes, it looks for nan and waits: the watch can see it
    with HostSyncs() as syncs, torch.no_grad():
        scores.update(module.logits(batch), batch.text)
    assert syncs.lines


def picks(count: int) -> list[Pick]:
    return [Pick(row, row, 1.0) for row in range(count)]


def test_cached_and_fresh_features_are_the_same_numbers(shapes: Path, tmp_path: Path) -> None:
    cfg = configure(shapes, tmp_path)
    cached, fresh = rows(cfg), rows(cfg, cache=None)
    module = build(cfg.model)
    module.configure_model()
    batches = [data.collate([data[pick] for pick in picks(4)]) for data in (cached, fresh)]
    assert batches[0].pixels is None
    assert batches[1].features is None
    ours, again = (module.features(batch) for batch in batches)
    assert ours.dtype == again.dtype == torch.float16
    torch.testing.assert_close(ours, again, rtol=0, atol=2e-3)


def test_views_take_away_what_they_say(shapes: Path, tmp_path: Path) -> None:
    cfg = configure(shapes, tmp_path)
    pixels = {}
    for view in VIEWS:
        data = rows(cfg, "test", view=view, cache=None)
        pixels[view] = data[picks(1)[0]].pixels
    real = pixels["real"]
    assert torch.equal(pixels["reversed"], real.flip(0))
    assert torch.equal(pixels["middle"], real[8].expand_as(real))
    assert not torch.equal(pixels["shuffled"], real)
    assert sorted(f.sum().item() for f in pixels["shuffled"]) == sorted(f.sum().item() for f in real)
    blind = rows(cfg, "test", view="blind")
    assert not blind.collate([blind[picks(1)[0]]]).features.any()


def test_zeroing_or_reversing_the_frames_changes_the_loss(shapes: Path, tmp_path: Path) -> None:
    cfg = configure(shapes, tmp_path)
    module = build(cfg.model)
    module.configure_model()
    losses = {}
    for view in ("real", "blind", "reversed"):
        data = rows(cfg, "test", view=view)
        losses[view] = module.training_step(data.collate([data[pick] for pick in picks(6)]), 0).item()
    assert len({round(loss, 4) for loss in losses.values()}) == 3


def test_targets_are_the_answers_and_the_end_token(shapes: Path, tmp_path: Path) -> None:
    data = rows(configure(shapes, tmp_path))
    batch: ChatBatch = data.collate([data[pick] for pick in picks(5)])
    text, tokenizer = batch.text, data.text.format.tokenizer
    for row in range(5):
        targets = text.targets[text.target_rows == row]
        answer = data.text.conversations[row].turns[0].assistant
        assert tokenizer.decode(targets, skip_special_tokens=True).split() == str(answer).split()
        assert targets[-1] == tokenizer.eos_token_id
    places = text.target_places + 1
    assert torch.equal(text.ids.flatten()[places], text.targets)
    assert np.array_equal(data.weights, [row.learned.sum() for row in data.text.encoded])


def test_a_prompt_ends_before_the_answer(shapes: Path, tmp_path: Path) -> None:
    data = rows(configure(shapes, tmp_path))
    text = data.text.format.tokenizer.decode(data.text.text_ids(0)[: data.text.prompt_length(0)])
    assert text.lower().replace(" ", "").endswith("assistant:")


def test_missing_features_are_named(shapes: Path, tmp_path: Path) -> None:
    annotations = tmp_path / "rows.json"
    annotations.write_text(
        '[{"messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "red"}],'
        ' "videos": ["clips/none.mp4"]}]'
    )
    with pytest.raises(ValueError, match=r"1 videos have no features.*clips/none\.mp4"):
        rows(configure(shapes, tmp_path), annotations=str(annotations))


def test_a_question_about_a_file_needs_a_prompt(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"request\.prompt"):
        rows(configure(shapes, tmp_path), "predict", request={"video": "a.mp4", "prompt": None})


def test_a_row_without_a_video_is_refused(shapes: Path, tmp_path: Path) -> None:
    annotations = tmp_path / "rows.json"
    annotations.write_text('[{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]')
    with pytest.raises(ValueError, match=r"rows\.json row 0: names no video"):
        rows(configure(shapes, tmp_path), annotations=str(annotations))


# Questions that share a video


def test_shared_videos_give_the_loss_and_the_gradients_of_separate_rows(shapes: Path, tmp_path: Path) -> None:
    cfg = configure(shapes, tmp_path)
    alone, shared = rows(cfg), rows(cfg, questions_at_once=4)
    assert len(shared) < len(alone)
    assert max(len(group) for group in shared.text.groups) > 1
    groups = shared.text.groups[:5]
    module = build(cfg.model)
    module.configure_model()
    results = {}
    for name, data, numbers in (
        ("alone", alone, [number for group in groups for number in group]),
        ("shared", shared, list(range(5))),
    ):
        normalizer = float(data.weights[numbers].sum())
        batch = data.collate([data[Pick(number, number, normalizer)] for number in numbers])
        module.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        results[name] = (loss.item(), {n: p.grad.clone() for n, p in module.named_parameters()}, batch.text)
    assert results["shared"][2].ids.numel() < results["alone"][2].ids.numel()
    assert results["shared"][0] == pytest.approx(results["alone"][0], rel=1e-5)
    assert torch.equal(results["shared"][2].targets, results["alone"][2].targets)
    assert torch.equal(results["shared"][2].membership, results["alone"][2].membership)
    for name, gradient in results["alone"][1].items():
        torch.testing.assert_close(results["shared"][1][name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_a_sample_counts_alike_whether_it_shares_its_video(shapes: Path, tmp_path: Path) -> None:
    cfg = configure(shapes, tmp_path, "model.loss_per=sample")
    shared = rows(cfg, questions_at_once=4)
    assert np.array_equal(shared.weights, [len(group) for group in shared.text.groups])


def test_sharing_needs_the_video_first(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs video_place=first"):
        rows(configure(shapes, tmp_path), questions_at_once=2, video_place="last")


# Answers


def answers(cfg: DictConfig, module: LightningModule, size: int, **request: Any) -> list[str]:
    data = rows(cfg, "predict", request={"count": 6, **request})
    said = []
    for start in range(0, 6, size):
        asked = data.collate([data[Pick(row, row, 1.0)] for row in range(start, start + size)])
        said += module.answers(asked.batch, data)
    return said


def test_answers_do_not_depend_on_what_they_are_batched_with(shapes: Path, tmp_path: Path) -> None:
    cfg = configure(shapes, tmp_path)
    module, _, _ = fit(cfg)
    module.eval()
    assert answers(cfg, module, 6) == answers(cfg, module, 1)
    drawn = answers(cfg, module, 6, temperature=1.5, seed=1)
    assert drawn == answers(cfg, module, 1, temperature=1.5, seed=1)
    assert drawn != answers(cfg, module, 6, temperature=1.5, seed=2)


def test_a_talk_remembers_and_looks_at_its_video_once(shapes: Path, tmp_path: Path) -> None:
    cfg = configure(shapes, tmp_path, "request.chat=true")
    module, _, _ = fit(cfg)
    module.eval()
    data = rows(cfg, "predict")
    clip = str(next((shapes / "shapes" / "clips" / "test").glob("*.mp4")))
    first = module.reply(data, clip, [Turn("What shape is it?", None)])
    looked = []
    module._frozen["encoder"].register_forward_hook(lambda *_: looked.append(1))
    turns = [Turn("What shape is it?", first), Turn("What shape is it?", None)]
    module.reply(data, clip, turns)
    assert looked == []
    asked = data.asking(question(clip, turns))
    assert asked.text.format.tokenizer.decode(asked.text.text_ids(0)).lower().count("shape") == 2
