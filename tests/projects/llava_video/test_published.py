"""At published size, without storage: what is counted and what is computed, from the shipped configurations."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from common.chat.decoder import target_logits
from common.chat.loss import token_losses
from common.config import build
from common.text.language_model import blocks, recompute
from launchers.command import compose
from projects.llava_video.families import part_of, visual_tokens
from projects.llava_video.module import LlavaVideo

LENGTH, TARGETS = 3800, 60


META = torch.device("meta")


@pytest.fixture(autouse=True)
def nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers looks at the positions for packed sequences, which have no values here."""
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _: None)


def module_of(experiment: str, *overrides: str) -> LlavaVideo:
    cfg = compose(f"experiment={experiment}", "paths.run=.", "model.model.weights=random", *overrides)
    with META, no_init_weights():  # a truncated normal looks at the numbers that it draws
        module: LlavaVideo = build(cfg.model)
        module.configure_model()
    with META:
        module.model.vlm.tie_weights()
    return module


def counts(module: LlavaVideo, *, trained: bool = False) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, parameter in module.model.vlm.named_parameters():
        if parameter.requires_grad or not trained:
            found[part_of(name)] = found.get(part_of(name), 0) + parameter.numel()
    return found


def siglip(*, layers: int = 26, width: int = 1152, inner: int = 4304, patch: int = 14, patches: int = 729) -> int:
    """Numbers of SigLIP so400m without its pooling head."""
    attention = 4 * (width * width + width)
    block = attention + 2 * width * inner + inner + width + 4 * width
    return (3 * patch * patch * width + width) + patches * width + layers * block + 2 * width


def qwen(*, vocab: int, width: int, inner: int, layers: int, narrow: int, tied: bool) -> int:
    """Numbers of a Qwen1.5 or Qwen2 with biases on queries, keys and values; `narrow` is the width of keys."""
    attention = 2 * width * width + 2 * width * narrow + width + 2 * narrow
    block = attention + 3 * width * inner + 2 * width
    return vocab * width * (1 if tied else 2) + layers * block + width


def projector(width: int, vision: int = 1152) -> int:
    return vision * width + width + width * width + width


@pytest.mark.parametrize(
    ("model", "text", "newline", "total"),
    [
        ("llava_video", (152000, 4096, 11008, 32, 4096, False), 0, 8_141_100_576),
        ("llava_video_05b", (152000, 1024, 2816, 24, 1024, True), 0, None),
        ("llava_onevision", (152128, 3584, 18944, 28, 512, False), 3584, None),
    ],
)
def test_numbers_of_the_published_models(
    model: str, text: tuple[int, int, int, int, int, bool], newline: int, total: int | None
) -> None:
    found = counts(module_of("llava_video", f"model={model}"))
    vocab, width, inner, layers, narrow, tied = text
    assert found == {
        "vision": siglip(),
        "projector": projector(width) + newline,
        "language_model": qwen(vocab=vocab, width=width, inner=inner, layers=layers, narrow=narrow, tied=tied),
    }
    assert sum(found.values()) == (total or sum(found.values()))


def test_bytes_of_the_published_files() -> None:
    # 16.28 GB and 1.73 GB in bfloat16 are what the Hub lists for the two.
    large = siglip() + projector(4096) + qwen(vocab=152000, width=4096, inner=11008, layers=32, narrow=4096, tied=False)
    small = siglip() + projector(1024) + qwen(vocab=152000, width=1024, inner=2816, layers=24, narrow=1024, tied=True)
    assert 2 * large / 1e9 == pytest.approx(16.28, abs=0.01)
    assert 2 * small / 1e9 == pytest.approx(1.75, abs=0.03)


@pytest.mark.parametrize(
    ("model", "a_frame", "ends", "five"), [("llava_video", 729, 0, 3645), ("llava_onevision", 196, 1, 981)]
)
def test_visual_tokens_of_a_clip(model: str, a_frame: int, ends: int, five: int) -> None:
    module = module_of(
        "llava_video",
        f"model={model}",
        "model.train={vision: false, projector: false}",
        "model.lr={vision: null, projector: null}",
        "model.model.architecture.vision_config.num_hidden_layers=2",
        "model.model.architecture.text_config.num_hidden_layers=1",
    )
    for frames in (1, 5, 8):
        assert visual_tokens(module.family, frames=frames, tokens_per_frame=729).count == frames * a_frame + ends
        with META, torch.no_grad():
            pixels = torch.zeros(1, frames, 3, 384, 384, dtype=torch.uint8)
            rows = module.model.visual_rows(pixels, [frames])
        assert len(rows) == frames * a_frame + ends
    assert visual_tokens(module.family, frames=5, tokens_per_frame=729).count == five


class Flops(NamedTuple):
    """Of products with weights, and of all."""

    weights: int
    all: int


def flops(module: LlavaVideo, *, backward: bool, entered: list[int] | None = None) -> Flops:
    """Of the language model on one sample; its input needs a gradient where what comes before it learns."""
    vlm: Any = module.model.vlm
    before = any(p.requires_grad for name, p in vlm.named_parameters() if part_of(name) != "language_model")
    with META:
        dtype = vlm.get_input_embeddings().weight.dtype
        rows = torch.zeros(1, LENGTH, vlm.config.text_config.hidden_size, requires_grad=before, dtype=dtype)
        places, targets = torch.arange(LENGTH - TARGETS, LENGTH), torch.zeros(TARGETS, dtype=torch.long)
    if entered is not None:
        vlm.lm_head.register_forward_hook(lambda _, x, __: entered.append(x[0].shape[0]))
    with META, FlopCounterMode(display=False) as counter:
        loss: Tensor = token_losses(target_logits(vlm, rows, places), targets).sum()
        if backward:
            loss.backward()
    by_operator = {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}
    weights = sum(count for operator, count in by_operator.items() if operator in ("aten.mm", "aten.addmm"))
    return Flops(weights, counter.get_total_flops())


@pytest.fixture(scope="module")
def lora() -> LlavaVideo:
    return module_of("llava_video_lora", "model.model.checkpoint_fraction=0.0")


@pytest.fixture(scope="module")
def full() -> LlavaVideo:
    return module_of("llava_video", "model.model.architecture.text_config.num_hidden_layers=8")


def test_what_the_experiments_train(lora: LlavaVideo, full: LlavaVideo) -> None:
    rank, layers, width, inner = 16, 32, 4096, 11008
    adapters = layers * rank * (4 * 2 * width + 3 * (width + inner))
    assert counts(lora, trained=True) == {"language_model": adapters}
    whole = counts(full)
    types = {p.requires_grad: p.dtype for p in lora.model.vlm.parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    assert counts(full, trained=True) == whole | {"vision": whole["vision"] - 2 * 1152}  # post_layernorm is unused


def test_adapters_cost_two_forwards(lora: LlavaVideo) -> None:
    entered: list[int] = []
    forward = flops(lora, backward=False, entered=entered)
    assert entered == [TARGETS]
    matrices, attention = 2 * 6.476e9 * LENGTH, 4 * 32 * LENGTH**2 * 4096
    assert forward.weights == pytest.approx(matrices, rel=0.02)  # 49 TFLOP
    assert forward.all == pytest.approx(matrices + attention, rel=0.02)  # 57; a causal kernel saves half of the 8
    # 1 % for the adapters' own gradients; none of the input is wanted. Attention has no weights that could be frozen:
    # its backward pass costs two forwards whatever learns.
    both = flops(lora, backward=True)
    assert both.weights / forward.weights == pytest.approx(2.0, abs=0.03)
    assert both.all / forward.all == pytest.approx(2.0 + attention / (matrices + attention), abs=0.03)


def test_the_whole_costs_three_forwards(full: LlavaVideo) -> None:
    forward, both = flops(full, backward=False), flops(full, backward=True)
    assert both.weights / forward.weights == pytest.approx(3.0, abs=0.01)
    assert both.all / forward.all == pytest.approx(3.0, abs=0.03)


def test_recomputation_adds_its_share() -> None:
    fewer = ("model.model.checkpoint_fraction=0.0", "model.model.architecture.text_config.num_hidden_layers=8")
    lora = module_of("llava_video_lora", *fewer)
    forward, plain = flops(lora, backward=False).all, flops(lora, backward=True).all
    added = {}
    for fraction in (0.25, 1.0):
        recompute(blocks(lora.model.vlm), fraction=fraction)
        added[fraction] = (flops(lora, backward=True).all - plain) / forward
    assert added[1.0] == pytest.approx(1.0, abs=0.25)  # recomputation stops before the last product of a block
    assert added[1.0] > 0.75
    assert added[0.25] == pytest.approx(0.25 * added[1.0], rel=0.02)
