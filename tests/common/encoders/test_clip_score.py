"""Similarity of pictures and texts: the logits of CLIP itself, and higher for the right text."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from common.encoders.clip_score import ClipSimilarity
from common.tiny.clip import normalise
from common.tiny.pictures import draw_batch

TINY = "common/tiny/weights/clip"


@pytest.fixture(scope="module")
def similarity() -> ClipSimilarity:
    return ClipSimilarity(weights=TINY)


def test_it_is_the_cosine_of_clip(similarity: ClipSimilarity) -> None:
    pictures, texts = draw_batch(np.random.default_rng(0), count=8, size=64)
    plain = CLIPModel.from_pretrained(TINY).float()
    ids = AutoTokenizer.from_pretrained(TINY)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = plain(pixel_values=normalise(pictures), **ids).logits_per_image / plain.logit_scale.exp()
    clips = torch.from_numpy(pictures).permute(0, 3, 1, 2)[:, None]
    torch.testing.assert_close(similarity(clips, texts), logits.diagonal(), rtol=1e-4, atol=1e-4)


def test_a_clip_counts_the_mean_of_its_frames(similarity: ClipSimilarity) -> None:
    pictures, texts = draw_batch(np.random.default_rng(1), count=4, size=32)
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    together = similarity(frames[None], texts[:1])
    alone = torch.cat([similarity(frame[None, None], texts[:1]) for frame in frames])
    torch.testing.assert_close(together, alone.mean()[None])


def test_too_long_a_text_is_refused(similarity: ClipSimilarity) -> None:
    with pytest.raises(ValueError, match="longer than the 32 tokens"):
        similarity(torch.zeros(1, 1, 3, 64, 64, dtype=torch.uint8), ["red " * 40])
