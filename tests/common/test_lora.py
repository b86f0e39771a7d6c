"""LoRA: unchanged at the start, only adapters train, merged equals unmerged, nothing silently unmatched."""

import pytest
import torch

from common.lora import (
    ADAPTER,
    adapted_weights,
    add_lora,
    merge_lora,
    merged_weight,
    without_lora,
)
from common.text.language_model import build_causal_lm

TINY = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def model() -> torch.nn.Module:
    return build_causal_lm(weights="random", architecture=TINY)


def test_output_is_unchanged_at_the_start_and_equal_after_merging(model: torch.nn.Module) -> None:
    plain = model(IDS).logits
    adapted = add_lora(model, targets=["q_proj", "v_proj"], rank=4, alpha=8)
    assert len(adapted) == 4
    assert torch.equal(model(IDS).logits, plain)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # the first step moves one factor, the second both
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
    trained = model(IDS).logits
    assert not torch.allclose(trained, plain, atol=1e-3)
    assert merge_lora(model) == 4
    torch.testing.assert_close(model(IDS).logits, trained, rtol=1e-4, atol=1e-5)
    assert {name for name, _ in model.named_parameters()} == {
        name for name, _ in build_causal_lm(weights="random", architecture=TINY).named_parameters()
    }


def test_adapters_are_all_that_trains(model: torch.nn.Module) -> None:
    add_lora(model, targets=["down_proj"], rank=4, alpha=8)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 4
    assert all(ADAPTER in name for name in trainable)


def test_a_target_that_matches_nothing_is_an_error(model: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="query matches no linear layer; there is down_proj, gate_proj"):
        add_lora(model, targets=["q_proj", "query"], rank=4, alpha=8)


def test_the_start_depends_on_the_seed_alone() -> None:
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(starts))
        model = build_causal_lm(weights="random", architecture=TINY)
        add_lora(model, targets=["q_proj"], rank=4, alpha=8, seed=seed)
        starts.append(torch.cat([p.flatten() for name, p in model.named_parameters() if "lora_A" in name]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_merging_sums_in_float32_whatever_the_dtype() -> None:
    model = build_causal_lm(weights="random", architecture=TINY, dtype="bfloat16")
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    before = layer.get_parameter("weight").detach().clone()
    add_lora(model, targets=["q_proj"], rank=4, alpha=8)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        torch.nn.init.normal_(parameter, std=0.3)
    pairs = adapted_weights(trained)
    assert list(pairs) == [f"model.layers.{number}.self_attn.q_proj.weight" for number in range(2)]
    first, second = (trained[name].detach() for name in pairs["model.layers.0.self_attn.q_proj.weight"])
    wanted = (before.double() + 2 * (second.double() @ first.double())).float().bfloat16()
    merge_lora(model)
    merged = model.get_submodule("model.layers.0.self_attn.q_proj").get_parameter("weight")
    assert torch.equal(merged, merged_weight(before, first, second, scale=2.0))
    assert (merged != wanted).float().mean() < 0.001  # one rounding, but for sums that float32 rounds otherwise


def test_half_an_adapter_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"adapter of a\.weight has a\.lora_A\.default\.weight alone"):
        adapted_weights(["a.lora_A.default.weight", "b.weight"])


def test_adapters_are_float32_whatever_the_dtype_of_their_layer() -> None:
    model = build_causal_lm(weights="random", architecture=TINY, dtype="bfloat16")
    plain = model(IDS).logits
    add_lora(model, targets=["q_proj", "down_proj"], rank=4, alpha=8)
    trains = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trains} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad} == {torch.bfloat16}
    assert torch.equal(model(IDS).logits, plain)
    before = [parameter.detach().clone() for parameter in trains if parameter.any()]
    optimizer = torch.optim.AdamW(trains, lr=1e-6, weight_decay=0.0)  # too small a step for bfloat16
    for _ in range(2):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
    moved = [parameter for parameter in trains if parameter.abs().mean() > 1e-3]
    assert not any(torch.equal(old, new) for old, new in zip(before, moved, strict=True))


def test_the_model_before_its_adapters_is_still_there(model: torch.nn.Module) -> None:
    plain = model(IDS).logits
    add_lora(model, targets=["q_proj"], rank=4, alpha=8)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    trained = model(IDS).logits
    assert not torch.allclose(trained, plain, atol=1e-3)
    with without_lora(model):
        assert torch.equal(model(IDS).logits, plain)
    assert torch.equal(model(IDS).logits, trained)
    with pytest.raises(RuntimeError), without_lora(model):
        raise RuntimeError
    assert torch.equal(model(IDS).logits, trained)
