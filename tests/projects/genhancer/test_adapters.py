"""What of a tower learns: its side of pictures alone, and as many numbers as published."""

from typing import Any

import pytest
import torch

from common.encoders.tower import ContrastiveTower, load_tower
from projects.genhancer.adapters import adapt, unfreeze

TINY = "common/tiny/weights/clip"
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
SIGLIP: dict[str, Any] = {
    "model_type": "siglip",
    "text_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
}
LARGE: dict[str, Any] = {  # OpenAI's L/14
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    },
}


def trained(tower: ContrastiveTower) -> list[str]:
    return [name for name, parameter in tower.model.named_parameters() if parameter.requires_grad]


def pictures(tower: ContrastiveTower) -> torch.Tensor:
    size = tower.image_size
    return torch.randint(256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_every_adapter_gets_a_gradient_and_none_is_of_texts(family: str) -> None:
    clip = family == "clip"
    tower = load_tower(weights=TINY) if clip else load_tower(weights="random", architecture=SIGLIP)
    plain = tower.images(pictures(tower))
    names = adapt(tower, targets=TARGETS, rank=2, alpha=2)
    assert torch.equal(tower.images(pictures(tower)), plain)
    assert len(names) == (4 * 6 + 1 if clip else 2 * 6 + 2)  # SigLIP: the two layers of its pooling head
    assert all(name.startswith(("vision_model.", "visual_projection.")) for name in trained(tower))
    for _ in range(2):
        tower.zero_grad()
        tower.images(pictures(tower)).square().sum().backward()
        with torch.no_grad():
            for parameter in tower.parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None
                    parameter -= 0.01 * parameter.grad
    assert all(parameter.grad.ne(0).any() for parameter in tower.parameters() if parameter.requires_grad)


def test_published_numbers_of_the_large_tower() -> None:
    with torch.device("meta"):
        tower = load_tower(weights="random", architecture=LARGE)
        adapt(tower, targets=TARGETS, rank=16, alpha=16, dropout=0.1, biases=True)
    sizes = {name: parameter.numel() for name, parameter in tower.model.named_parameters() if parameter.requires_grad}
    factors = sum(size for name, size in sizes.items() if "lora_" in name)
    assert factors == 24 * (4 * 2048 + 2 * 5120) * 16 + (1024 + 768) * 16 == 7_106_560
    assert sum(sizes.values()) - factors == 24 * 9 * 1024 == 221_184


def test_dropout_is_active_in_training_alone() -> None:
    tower = load_tower(weights=TINY)
    adapt(tower, targets=TARGETS, rank=2, alpha=2, dropout=0.5)
    for name, parameter in tower.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    seen = pictures(tower)
    tower.train()
    assert not torch.equal(tower.images(seen), tower.images(seen))
    tower.eval()
    assert torch.equal(tower.images(seen), tower.images(seen))


def test_a_whole_tower_learns_but_its_texts_do_not() -> None:
    tower = load_tower(weights=TINY, dtype="float16")
    unfreeze(tower)
    every = {name for name, _ in tower.model.named_parameters()}
    assert set(trained(tower)) == {name for name in every if name.startswith(("vision_model.", "visual_projection."))}
    assert {tower.model.get_parameter(name).dtype for name in trained(tower)} == {torch.float32}


def test_the_projection_may_be_left_out() -> None:
    tower = load_tower(weights=TINY)
    adapt(tower, targets=["fc1"], rank=2, alpha=2, projection=False)
    assert not any(name.startswith("visual_projection") for name in trained(tower))


def test_a_target_of_the_text_tower_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="text_projection matches no linear layer of the vision tower; there is fc1"):
        adapt(load_tower(weights=TINY), targets=["text_projection"], rank=2, alpha=2)
