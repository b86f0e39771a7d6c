"""CLIP features against transformers itself, and pooling against a loop."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from common.encoders.clip import MEAN, STD, ClipPatches
from common.encoders.pooling import spatio_temporal

ARCHITECTURE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_features_are_the_hidden_states_of_transformers(pixels: torch.Tensor, layer: int, tmp_path) -> None:
    torch.manual_seed(0)
    reference = CLIPVisionModel(CLIPVisionConfig(**ARCHITECTURE)).eval()
    reference.save_pretrained(tmp_path)
    ours = ClipPatches(weights=str(tmp_path), layer=layer)
    scaled = (pixels.flatten(0, 1) / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        hidden = reference(scaled, output_hidden_states=True).hidden_states[layer]
    torch.testing.assert_close(ours(pixels), hidden[:, 1:].reshape(2, 3, 16, 32), rtol=1e-5, atol=1e-5)


def test_blocks_behind_the_layer_are_not_run(pixels: torch.Tensor) -> None:
    assert len(ClipPatches(weights="random", architecture=ARCHITECTURE, layer=-2).tower.encoder.layers) == 2


def test_tower_is_frozen_and_stays_in_eval_mode() -> None:
    tower = ClipPatches(weights="random", architecture=ARCHITECTURE).train()
    assert not tower.training
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_random_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (
        ClipPatches(weights="random", architecture=ARCHITECTURE, seed=s).state_dict() for s in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_float_pixels_and_wrong_sizes_are_refused(pixels: torch.Tensor) -> None:
    tower = ClipPatches(weights="random", architecture=ARCHITECTURE)
    with pytest.raises(ValueError, match="pixels"):
        tower(pixels.float())
    with pytest.raises(ValueError, match="H=32"):
        tower(pixels[..., :16, :16])


def test_pooling_against_a_loop() -> None:
    patches = torch.randn(5, 4, 6)
    pooled = spatio_temporal(patches, temporal=8)
    assert pooled.shape == (12, 6)
    for frame in range(5):
        torch.testing.assert_close(pooled[frame], sum(patches[frame, p] for p in range(4)) / 4)
    assert not pooled[5:8].any()
    for patch in range(4):
        torch.testing.assert_close(pooled[8 + patch], sum(patches[t, patch] for t in range(5)) / 5)


def test_pooling_refuses_more_frames_than_tokens() -> None:
    with pytest.raises(ValueError, match="9 frames for 8"):
        spatio_temporal(torch.zeros(9, 4, 6), temporal=8)


def test_shuffling_changes_the_temporal_tokens_only() -> None:
    patches = torch.randn(6, 4, 8)
    pooled, shuffled = (spatio_temporal(x, temporal=6) for x in (patches, patches[[3, 1, 5, 0, 2, 4]]))
    assert not torch.allclose(pooled[:6], shuffled[:6])
    torch.testing.assert_close(pooled[6:], shuffled[6:])
