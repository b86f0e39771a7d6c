"""Heads and adapter: published counts, and the mean over frames."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from projects.genhancer.projectors import Heads, PatchAdapter
from tests.projects.genhancer.toy_generator import normal


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_published_counts() -> None:
    with torch.device("meta"):
        heads, adapter = Heads(width=768), PatchAdapter(hidden=1024)
    assert heads.to_context is not None
    assert count(heads.to_vector) == 2 * 768 + 2 * (768 * 768 + 768) == 1_182_720
    assert count(heads.to_context) == 2 * 768 + (768 * 4096 + 4096) + (4096 * 4096 + 4096) == 19_932_672
    assert count(adapter) == (1024 * 2048 + 2048) + (2048 * 4096 + 4096) + 2 * 4096 == 10_500_096


def test_a_head_is_norm_linear_gelu_linear() -> None:
    heads, embeddings = Heads(width=6, vector=5, context=7), normal(2, 3, 6)
    norm, first, _, second = heads.to_vector
    each = second(functional.gelu(first(functional.layer_norm(embeddings, (6,), norm.weight, norm.bias))))
    torch.testing.assert_close(heads.vector(embeddings), (each[:, 0] + each[:, 1] + each[:, 2]) / 3)
    context = heads.context(embeddings)
    assert context.shape == (2, 3, 7)
    torch.testing.assert_close(context[:, 1:2], heads.context(embeddings[:, 1:2]))


def test_patches_of_all_frames_are_the_context() -> None:
    adapter, patches = PatchAdapter(hidden=6, context=8, inner=10), normal(2, 3, 4, 6)
    first, _, second, norm = adapter.layers
    expected = functional.layer_norm(second(functional.silu(first(patches))), (8,), norm.weight, norm.bias)
    torch.testing.assert_close(adapter(patches), expected.reshape(2, 12, 8))
    with pytest.raises(ValueError, match="patches is"):
        adapter(patches[:, 0])
