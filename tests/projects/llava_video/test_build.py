"""Models from files, from parts, at random; options that need a package say how to get it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipImageProcessorPil,
)

from common.lora import add_lora
from common.types import Build
from projects.llava_video import build as build_module
from projects.llava_video.build import build_vlm
from projects.llava_video.families import part_of
from tests.projects.llava_video.tiny import (
    LORA,
    TEXT,
    VISION,
    architecture,
    batch_of,
    entry,
    family_of,
    make_module,
    make_rows,
)

CLIP: dict[str, Any] = {key: value for key, value in VISION.items() if key != "vision_use_head"}


def make(tokenizer: PreTrainedTokenizerFast, name: str = "llava", **changes: Any) -> Any:
    family, _ = family_of(name)
    settings = {"weights": "random", "dtype": "float32", "architecture": architecture(tokenizer, family=family)}
    return build_vlm(family=family, **{**settings, **changes})


def logits(model: Any, tokenizer: PreTrainedTokenizerFast, clips: Path, name: str = "llava") -> torch.Tensor:
    """Of the targets of a batch with clips of two lengths."""
    data = make_rows(clips, [entry("long.mp4"), entry("one.png")], tokenizer, name=name)
    module = make_module(tokenizer, name=name)
    module.recipes["model"] = lambda: model
    module.configure_model()
    with torch.no_grad():
        return module.logits(batch_of(data))


@pytest.fixture(params=["llava", "onevision"])
def saved(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> tuple[str, Path, Any]:
    """A folder as the Hub has it: shards with an index, tokenizer, image processor; its family, and the model."""
    model = make(tokenizer, request.param, seed=3)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path)
    SiglipImageProcessorPil(size={"height": 42, "width": 42}).save_pretrained(tmp_path)
    return request.param, tmp_path, model


def test_a_published_folder_gives_the_same_logits(
    saved: tuple[str, Path, Any], tokenizer: PreTrainedTokenizerFast, clips: Path
) -> None:
    name, folder, model = saved
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    loaded = make(tokenizer, name, weights=str(folder), architecture=None)
    assert {key: p.dtype for key, p in loaded.named_parameters()} == {
        key: torch.float32 for key, _ in model.named_parameters()
    }
    expected = logits(model, tokenizer, clips, name)
    torch.testing.assert_close(logits(loaded, tokenizer, clips, name), expected, rtol=0, atol=0)
    other = logits(make(tokenizer, name, seed=4), tokenizer, clips, name)
    assert not torch.allclose(other, expected, atol=1e-3)


def test_a_missing_shard_and_a_missing_tensor_are_told(
    saved: tuple[str, Path, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    name, folder, _ = saved
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensor, shard = next((key, file) for key, file in index["weight_map"].items() if "linear_1.weight" in key)
    moved = folder / shard
    moved.rename(folder / "elsewhere")
    with pytest.raises((OSError, ValueError), match=shard):
        make(tokenizer, name, weights=str(folder))
    (folder / "elsewhere").rename(moved)
    del index["weight_map"][tensor]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    rest = {key: value for key, value in load_file(moved).items() if key != tensor}
    save_file(rest or {"nothing": torch.zeros(1)}, moved, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 parameters of Llava\w+.*linear_1\.weight"):
        make(tokenizer, name, weights=str(folder))


def test_published_parts_are_copied_into_a_new_model(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    torch.manual_seed(5)
    vision = CLIPVisionModel(CLIPVisionConfig(**{key: CLIP[key] for key in CLIP if key != "model_type"}))
    words = Qwen2ForCausalLM(Qwen2Config(**{key: TEXT[key] for key in TEXT if key != "model_type"}))
    vision.save_pretrained(tmp_path / "vision")
    words.save_pretrained(tmp_path / "words")
    shape = architecture(
        tokenizer, family=family_of("llava")[0], vision_config={**CLIP, "model_type": "clip_vision_model"}
    )
    parts = {"vision": str(tmp_path / "vision"), "language_model": str(tmp_path / "words")}
    model = make(tokenizer, architecture=shape, **parts)
    assert torch.equal(model.lm_head.weight, words.lm_head.weight)
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(model(input_ids=ids).logits, words(input_ids=ids).logits)
    frames = torch.randn(2, 3, 42, 42)
    own = model.model.vision_tower(frames).last_hidden_state
    torch.testing.assert_close(own, vision(frames).last_hidden_state)


def test_random_weights_depend_on_the_seed_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(1)
    first = make(tokenizer, seed=7).state_dict()
    torch.manual_seed(2)
    again, other = make(tokenizer, seed=7).state_dict(), make(tokenizer, seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": None}, r"weights=random needs model\.model\.architecture"),
        ({"weights": "somewhere", "vision": "part"}, "parts of a new model; they need weights=random"),
        ({"checkpoint_fraction": 1.5}, r"model\.model\.checkpoint_fraction=1\.5"),
        ({"quantize": True}, r"model\.model\.quantize=true packs weights as they are read"),
    ],
)
def test_arguments_that_contradict_are_refused(
    arguments: dict[str, Any], message: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ValueError, match=message):
        make(tokenizer, **arguments)


def test_what_an_optional_package_lacks_is_told(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ValueError, match=r"quantize=true needs bitsandbytes: pip install -e '\.\[4bit\]'"):
        make(tokenizer, weights="somewhere", quantize=True)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ValueError, match=r"liger=true needs liger-kernel: pip install -e '\.\[liger\]'"):
        make(tokenizer, liger=True)


def test_fused_kernels_leave_the_loss_alone(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    patch = SimpleNamespace(
        MODEL_TYPE_TO_APPLY_LIGER_FN={"qwen2": None},
        _apply_liger_kernel_to_instance=lambda **arguments: calls.append(arguments),
    )
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(monkey_patch=patch))
    model = make(tokenizer, liger=True)
    (call,) = calls
    assert call == {"model": model.model.language_model, "cross_entropy": False, "fused_linear_cross_entropy": False}
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN = {}
    with pytest.raises(ValueError, match=r"liger=true: there are no such kernels for qwen2"):
        make(tokenizer, liger=True)


def adapted(part: str) -> dict[str, Build[list[str]]]:
    return {part: lambda module: add_lora(module, targets=["q_proj", "down_proj"], **LORA)}


def test_adapters_learn_on_matrices_of_4_bits(
    saved: tuple[str, Path, Any], tokenizer: PreTrainedTokenizerFast, clips: Path
) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    name, folder, model = saved
    settings = {"weights": str(folder), "architecture": None, "quantize": True, "dtype": "bfloat16"}
    module = make_module(tokenizer, name=name, train=("projector",), adapters=adapted("language_model"), model=settings)
    module.configure_model()
    vlm = module.model.vlm
    packed = [key for key, each in vlm.named_modules() if isinstance(each, bitsandbytes.nn.Linear4bit)]
    assert len(packed) == 2 * 7
    assert {part_of(key) for key in packed} == {"language_model"}
    matrices = {key for key, p in vlm.named_parameters() if not p.is_floating_point()}
    assert len(matrices) == len(packed)
    data = make_rows(clips, [entry("long.mp4"), entry("one.png")], tokenizer, name=name)
    batch = batch_of(data)
    before = {key: p.detach().clone() for key, p in vlm.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in vlm.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(
        module_loss(model, tokenizer, batch, name), rel=0.05
    )  # four bits are close to the weights they stand for
    assert losses[-1] < losses[0] - 0.1
    for key, parameter in vlm.named_parameters():
        assert torch.equal(parameter, before[key]) != parameter.requires_grad, key


def module_loss(model: Any, tokenizer: PreTrainedTokenizerFast, batch: Any, name: str) -> float:
    module = make_module(tokenizer, name=name)
    module.recipes["model"] = lambda: model
    module.configure_model()
    return module.training_step(batch, 0).item()


def test_what_is_packed_cannot_learn_whole(saved: tuple[str, Path, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    name, folder, _ = saved
    settings = {"weights": str(folder), "architecture": None, "quantize": True, "dtype": "bfloat16"}
    module = make_module(tokenizer, name=name, model=settings)
    with pytest.raises(ValueError, match=r"model\.train\.language_model=true cannot train what .*quantize=true"):
        module.configure_model()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fused_kernels_give_the_same_loss_and_gradients(tokenizer: PreTrainedTokenizerFast, clips: Path) -> None:
    pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")
    found = {}
    for fused in (False, True):
        module = make_module(tokenizer, model={"liger": fused})
        module.configure_model()
        module.to("cuda")
        data = make_rows(clips, [entry("long.mp4"), entry("four"), entry(None)], tokenizer)
        batch = batch_of(data)
        batch = batch._replace(
            text=type(batch.text)(*(each.cuda() if isinstance(each, torch.Tensor) else each for each in batch.text)),
            pixels=None if batch.pixels is None else batch.pixels.cuda(),
        )
        loss = module.training_step(batch, 0)
        loss.backward()
        found[fused] = (loss, {name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    norms = [type(each).__name__ for each in module.model.vlm.model.language_model.modules()]
    assert any("Liger" in norm for norm in norms)
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-4, atol=1e-5)
    for name, gradient in found[False][1].items():
        torch.testing.assert_close(found[True][1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)
