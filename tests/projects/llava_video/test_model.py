"""Losses and gradients against transformers' own forward pass; what enters the head; pixels that matter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from common.types import Pick
from common.video.plan import UniformFrames
from projects.llava_video.data import LlavaBatch, VideoConversations
from projects.llava_video.families import Llava
from projects.llava_video.model import VisionLanguageModel
from projects.llava_video.module import LlavaVideo
from tests.projects.llava_video.shipped import INTERLEAVE, ONEVISION, messages, rendered
from tests.projects.llava_video.tiny import (
    GRID,
    VISION,
    architecture,
    batch_of,
    entry,
    family_of,
    make_module,
    make_rows,
)

CLIP = {key: value for key, value in VISION.items() if key != "vision_use_head"} | {"model_type": "clip_vision_model"}
TOWERS: dict[str, dict[str, Any]] = {
    "siglip": {"vision_config": VISION},
    "clip": {
        "vision_config": CLIP,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    },
    "several layers": {"vision_config": VISION, "vision_feature_layer": [-3, -1]},
}
# Clips of 5, 3 and 1 frames, one of them in two turns, and a row about nothing.
ENTRIES = [
    entry("long.mp4"),
    entry(["four/frame_0.png", "four/frame_3.png", "four/frame_1.png"], "Red?", "Yes, it is.", "And?", "It runs."),
    entry(None, "Is it red?", "Yes."),
    entry("one.png", "What is it?", "A dog."),
]


def made(tokenizer: PreTrainedTokenizerFast, name: str = "llava", tower: str = "siglip", **model: Any) -> LlavaVideo:
    family, _ = family_of(name)
    shape = architecture(tokenizer, family=family, **TOWERS[tower])
    module = make_module(tokenizer, name=name, model={"architecture": shape, **model})
    module.configure_model()
    return module


def reference(
    vlm: Any, data: VideoConversations, number: int, tokenizer: PreTrainedTokenizerFast
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Ids and labels of a row from the shipped template and its frames, as transformers' forward takes them."""
    row, kind = data.text.conversations[number], data.family.patch.strip("<>")
    seen = data[Pick(number, 0, 1.0)].pixels
    frames = 0 if seen is None else len(seen)
    count = 0 if row.video is None else (frames if kind == "image" else 1)
    chat = messages(row.turns, kind=kind, count=count)
    text = rendered(tokenizer, chat, INTERLEAVE if kind == "image" else ONEVISION).replace(
        "assistant \n", "assistant\n"
    )
    each = GRID if kind == "image" else frames * 4 + 1
    ids = torch.tensor(tokenizer(text.replace(data.family.patch, data.family.patch * each)).input_ids)
    labels = torch.full_like(ids, -100)
    opening, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    for start in (ids == opening).nonzero().flatten().tolist():
        if tokenizer.decode(ids[start + 1 :])[:9] == "assistant":
            skip = next(n for n in range(1, 20) if tokenizer.decode(ids[start + 1 : start + n]).endswith("\n"))
            stop = start + int((ids[start:] == end).nonzero()[0])
            labels[start + skip : stop + 1] = ids[start + skip : stop + 1]
    pixels = None if seen is None else (seen.double() / 255 - 0.5).div(0.5).float()
    return {"input_ids": ids, "labels": labels}, pixels


def gradients(module: LlavaVideo) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.model.vlm.named_parameters() if p.grad is not None}


def compare(module: LlavaVideo, loss: Tensor, data: VideoConversations) -> None:
    """`loss`, already backward, is the reference; ours must have the same number and the same gradients."""
    expected = gradients(module)
    module.zero_grad()
    own = module.training_step(batch_of(data), 0)
    own.backward()
    torch.testing.assert_close(own, loss, rtol=1e-5, atol=1e-6)
    found = gradients(module)
    assert found.keys() >= expected.keys()
    moved = 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
        moved += bool(gradient.abs().max() > 1e-6)
    assert moved > 0.8 * len(expected)
    assert not any(found[name].any() for name in found.keys() - expected.keys())


@pytest.mark.parametrize("tower", TOWERS)
def test_llava_gives_the_loss_and_gradients_of_transformers(
    tower: str, clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    module, data = made(tokenizer, tower=tower), make_rows(clips, ENTRIES, tokenizer)
    vlm = module.model.vlm
    rows = [reference(vlm, data, number, tokenizer) for number in range(len(data))]
    padded = {
        key: torch.nn.utils.rnn.pad_sequence([row[key] for row, _ in rows], batch_first=True, padding_value=value)
        for key, value in (("input_ids", tokenizer.pad_token_id), ("labels", -100))
    }
    mask = (padded["input_ids"] != tokenizer.pad_token_id).long()
    pixels = torch.cat([seen for _, seen in rows if seen is not None])
    assert pixels.shape[0] == 5 + 3 + 1
    loss = vlm(**padded, attention_mask=mask, pixel_values=pixels).loss
    loss.backward()
    assert sum(int((row["labels"] != -100).sum()) for row, _ in rows) == len(batch_of(data).text.targets)
    compare(module, loss, data)


def test_onevision_gives_the_loss_and_gradients_of_transformers(
    clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    module, data = made(tokenizer, "onevision"), make_rows(clips, ENTRIES, tokenizer, name="onevision")
    vlm = module.model.vlm
    total, whole = torch.tensor(0.0), float(data.weights.sum())
    for number in range(len(data)):  # videos of unequal length do not fit into one call of its forward
        row, pixels = reference(vlm, data, number, tokenizer)
        videos = {} if pixels is None else {"pixel_values_videos": pixels[None]}
        share = vlm(**{key: value[None] for key, value in row.items()}, **videos).loss
        loss = share * (row["labels"] != -100).sum() / whole
        loss.backward()
        total += loss.detach()
    compare(module, total, data)


@pytest.mark.parametrize("name", ["llava", "onevision"])
def test_only_target_rows_enter_the_head(name: str, clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    module, data = made(tokenizer, name), make_rows(clips, ENTRIES, tokenizer, name=name)
    entered: list[int] = []
    module.model.vlm.lm_head.register_forward_hook(lambda _, x, __: entered.append(x[0].shape[0]))
    batch = batch_of(data)
    module.training_step(batch, 0)
    assert entered == [len(batch.text.targets)]
    assert entered[0] == sum(int(row.learned.sum()) for row in data.text.encoded)


@pytest.mark.parametrize("name", ["llava", "onevision"])
def test_one_changed_frame_changes_the_loss_of_its_row_alone(
    name: str, clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    module, data = made(tokenizer, name), make_rows(clips, ENTRIES, tokenizer, name=name)
    batch = batch_of(data)
    whole = module.logits(batch)
    assert batch.pixels is not None
    for clip, frames in enumerate(batch.num_frames):
        for frame in range(frames):
            pixels = batch.pixels.clone()
            pixels[clip, frame] = 255 - pixels[clip, frame]
            changed = (module.logits(batch._replace(pixels=pixels)) - whole).abs().amax(dim=1) > 1e-6
            rows = set(batch.text.target_rows[changed].tolist())
            assert rows == {(0, 1, 3)[clip]}
    pixels = batch.pixels.clone()
    pixels[1, 3:] = 200  # behind the three frames that are there
    torch.testing.assert_close(module.logits(batch._replace(pixels=pixels)), whole, rtol=0, atol=0)


def test_frames_in_another_order_give_another_loss(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    module, data = made(tokenizer), make_rows(clips, ENTRIES[:1], tokenizer)
    batch = batch_of(data)
    assert batch.pixels is not None
    turned = batch._replace(pixels=batch.pixels.flip(1))
    assert abs(module.training_step(batch, 0) - module.training_step(turned, 0)) > 1e-5


def test_micro_batches_average_to_the_global_loss(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    module, data = made(tokenizer), make_rows(clips, ENTRIES, tokenizer)
    whole = module.training_step(batch_of(data), 0)
    total = float(data.weights.sum())
    halves = [[0, 2], [1, 3]]
    parts = [
        module.training_step(data.collate([data[Pick(number, number, total / 2)] for number in half]), 0)
        for half in halves
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


@pytest.mark.parametrize("name", ["llava", "onevision"])
def test_a_batch_of_text_alone_reaches_every_parameter(
    name: str, clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    module, data = made(tokenizer, name), make_rows(clips, ENTRIES, tokenizer, name=name)
    text = data.collate([data[Pick(2, 0, 1.0)]])
    assert text.pixels is None
    loss = module.training_step(text, 0)
    loss.backward()
    idle = {name for name, p in module.named_parameters() if p.requires_grad and p.grad is None}
    assert not idle  # each rank must have a gradient for what trains, whatever its rows are about
    assert not any(p.grad.any() for p in module.model.vlm.model.vision_tower.parameters() if p.grad is not None)
    with torch.no_grad():
        torch.testing.assert_close(module.training_step(text, 0), loss.detach(), rtol=0, atol=0)


def test_questions_that_share_a_video_give_the_loss_and_gradients_of_their_own_rows(
    clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    entries = [entry("long.mp4"), entry("long.mp4", "Red?", "Yes."), ENTRIES[2], entry("one.png", "And?", "It runs.")]
    alone = make_rows(clips, entries, tokenizer)
    shared = make_rows(clips, entries, tokenizer, questions_at_once=4)
    assert (len(alone), len(shared)) == (4, 3)
    module = made(tokenizer)
    loss = module.training_step(batch_of(alone), 0)
    loss.backward()
    compare(module, loss, shared)


def test_checkpointing_changes_no_number(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = make_rows(clips, ENTRIES, tokenizer)
    plain, again = made(tokenizer), made(tokenizer, checkpoint_fraction=1.0)
    loss = plain.training_step(batch_of(data), 0)
    loss.backward()
    other = again.training_step(batch_of(data), 0)
    other.backward()
    torch.testing.assert_close(other, loss, rtol=0, atol=0)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(again)[name], gradient, rtol=1e-6, atol=1e-8, msg=name)


def test_a_frame_of_another_size_and_a_wrong_count_of_patches_are_named(
    clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    module = made(tokenizer)
    with pytest.raises(ValueError, match=r"pixels is .*expected B T C H W.*H=42"):
        module.training_step(batch_of(make_rows(clips, ENTRIES, tokenizer, image_size=28)), 0)
    with pytest.raises(ValueError, match="places of visual rows"):
        module.training_step(batch_of(make_rows(clips, ENTRIES, tokenizer, tokens_per_frame=4)), 0)


def test_a_projector_in_float32_takes_rows_of_a_tower_in_bfloat16(
    clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    module = make_module(tokenizer, train=("projector",), model={"dtype": "bfloat16"})
    module.configure_model()
    types = {name: p.dtype for name, p in module.model.vlm.named_parameters()}
    assert {kind for name, kind in types.items() if "projector" in name} == {torch.float32}
    assert {kind for name, kind in types.items() if "projector" not in name} == {torch.bfloat16}
    data: LlavaBatch = batch_of(make_rows(clips, ENTRIES, tokenizer, plan=UniformFrames(frames=2)))
    module.training_step(data, 0).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters() if p.requires_grad)
    assert isinstance(module.model, VisionLanguageModel)
    assert isinstance(module.family, Llava)
