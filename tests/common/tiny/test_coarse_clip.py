"""The tiny CLIP without detail: what its captions tell, and that it is a CLIP like the other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from common.shapes_world.language import plain_captions
from common.tiny import clip, coarse_clip
from common.tiny.words import build_tokenizer

SMALL: dict[str, Any] = {"width": 32, "layers": 1, "text_width": 32, "text_layers": 1, "steps": [2, 1], "batch": 8}
PLAIN = set(plain_captions())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coarse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coarse_clip, "JUDGED_PAIRS", 12)
        patch.setattr(coarse_clip, "JUDGED_PICTURES", 10)
        for name in ("a", "b"):
            scores = coarse_clip.train(folder=root / name, **SMALL)
            assert 0 <= scores["pairs/size"] <= 1
    return root


def test_the_same_seed_gives_the_same_weights(folders: Path) -> None:
    one, two = ((folders / name / "model.safetensors").read_bytes() for name in "ab")
    assert one == two


def test_the_folder_loads_by_plain_calls_and_is_not_made_again(folders: Path) -> None:
    model = CLIPModel.from_pretrained(folders / "a", dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(folders / "a")(["a red ring"], return_tensors="pt")
    assert model(pixel_values=torch.zeros(2, 3, 32, 32), **words).logits_per_image.shape == (2, 1)
    assert coarse_clip.train(folder=folders / "a", **SMALL)["steps"] == 3
    with pytest.raises(ValueError, match=r"told=\[0\.5, 0\.0\] \(asked: \[0\.5, 0\.1\]\)"):
        coarse_clip.train(folder=folders / "a", **SMALL, told=[0.5, 0.1])


@pytest.mark.parametrize("told", [0.0, 0.25, 1.0])
def test_as_many_captions_have_detail_as_asked(told: float) -> None:
    rng = np.random.default_rng(0)
    pictures, captions = coarse_clip.draw_coarse(rng, count=800, told=told, anywhere=0.0)
    assert pictures.shape == (800, 32, 32, 3)
    detailed = [caption for caption in captions if caption not in PLAIN]
    assert len(detailed) == pytest.approx(800 * told, abs=50)
    assert all(" at the " in caption for caption in detailed)
    assert any(caption.startswith("two small") for caption in detailed) == (told > 0)
    unknown = build_tokenizer(clip=True, max_length=clip.MAX_TOKENS)
    assert all(2 not in ids for ids in unknown(captions).input_ids)


def test_whole_objects_are_inside_and_others_may_be_cut() -> None:
    def cut(anywhere: float) -> int:  # what leaves at one side comes in at the other
        rng = np.random.default_rng(1)
        pictures, _ = coarse_clip.draw_coarse(rng, count=200, told=0.0, anywhere=anywhere)
        return int(((pictures[:, :, 0].max(-1) > 150) & (pictures[:, :, -1].max(-1) > 150)).any(-1).sum())

    assert cut(1.0) > 20
    assert cut(0.0) == 0


def test_the_loss_is_that_of_copies_where_no_caption_comes_twice() -> None:
    tokenizer = build_tokenizer(clip=True, max_length=clip.MAX_TOKENS)
    torch.manual_seed(0)
    model = clip.build(width=32, layers=1, text_width=32, text_layers=1, words=len(tokenizer), size=32, patch=8)
    pictures, captions = coarse_clip.draw_coarse(np.random.default_rng(0), count=16, told=0.5, anywhere=0.0)
    first = [captions.index(caption) for caption in dict.fromkeys(captions)]
    assert 4 < len(first) < 16
    once = pictures[first], [captions[row] for row in first]
    with torch.no_grad():
        torch.testing.assert_close(
            coarse_clip.loss_of_kinds(model, tokenizer, *once), clip.loss_of_copies(model, tokenizer, *once)
        )
        twice = np.concatenate([once[0]] * 2), once[1] * 2  # as many copies of each: the same shares of a batch
        found = coarse_clip.loss_of_kinds(model, tokenizer, *twice)
        expected = coarse_clip.loss_of_kinds(model, tokenizer, *once) + np.log(2) / 2  # two pictures share each text
        torch.testing.assert_close(found, expected, check_dtype=False)
