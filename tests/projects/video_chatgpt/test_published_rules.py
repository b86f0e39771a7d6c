"""What the published code does with a video's frames, written out once more; and the published recipe."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from PIL import Image

from common.config import build
from common.encoders.pooling import spatio_temporal
from common.text.language_model import build_causal_lm
from common.types import Pick
from common.video.decode import VideoReadError
from common.video.write import write_h264
from launchers.command import compose
from projects.video_chatgpt.data import frames
from projects.video_chatgpt.model import VideoLanguageModel

# Frames in a video: the first that are taken, and the last.
TAKEN = {1: ([0], 0), 5: ([0, 1, 2, 2, 3], 3), 101: ([0, 1, 2, 3, 4], 99), 150: ([0, 2, 3, 5, 6], 148)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """150 frames as images, so that no codec blurs them: the number stands in red and green, noise in blue."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(150):
        picture = np.empty((10, 14, 3), np.uint8)
        picture[..., 0], picture[..., 1], picture[..., 2] = number, 255 - number, rng.integers(0, 256, (10, 14))
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("total", TAKEN)
def test_frames_are_the_published_ones_in_order_squashed_to_the_nearest_pixel(total: int, pictures: Path) -> None:
    for path in pictures.iterdir():
        if int(path.stem) >= total:
            path.unlink()
    taken = frames(pictures, temporal=100, image_size=8, backend="pyav")
    numbers = taken[:, 0, 0, 0].tolist()
    first, last = TAKEN[total]
    assert (numbers[:5], numbers[-1], len(numbers)) == (first, last, min(total, 100))
    for number, frame in zip(numbers, taken, strict=True):
        whole = torch.from_numpy(np.array(Image.open(pictures / f"{number}.png"))).permute(2, 0, 1)
        squashed = F.interpolate(whole[None].float(), size=(8, 8), mode="nearest")[0].to(torch.uint8)
        assert torch.equal(frame, squashed)


def test_clips_of_a_batch_are_pooled_over_their_own_frames(shapes: Path, tmp_path: Path) -> None:
    """Shorter clips are padded in a batch; what is padded enters neither mean."""
    rng = np.random.default_rng(0)
    lengths = (3, 16, 7)
    for number, length in enumerate(lengths):
        write_h264(tmp_path / f"{number}.mp4", rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8))
    said = [{"role": "user", "content": "<video>what ?"}, {"role": "assistant", "content": "red"}]
    rows = [{"messages": said, "videos": [f"{number}.mp4"]} for number in range(3)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    cfg = compose("experiment=video_chatgpt_tiny", f"paths.data='{shapes}'", f"paths.run='{tmp_path}'")
    data = build(cfg.data.train, annotations=str(tmp_path / "rows.json"), media=str(tmp_path), cache=None)()
    module = build(cfg.model)
    module.configure_model()
    together = module.features(data.collate([data[Pick(number, number, 1.0)] for number in range(3)]))
    encoder = build(cfg.model.encoder)()
    for number, length in enumerate(lengths):
        pixels = frames(tmp_path / f"{number}.mp4", temporal=16, image_size=encoder.image_size, backend="pyav")
        assert len(pixels) == length
        alone = spatio_temporal(encoder(pixels[None])[0], temporal=16)
        torch.testing.assert_close(together[number].float(), alone, rtol=2e-3, atol=2e-3)
        assert not together[number, length:16].any()


def test_an_unreadable_video_ends_training_and_is_no_neighbour(shapes: Path, tmp_path: Path) -> None:
    write_h264(tmp_path / "0.mp4", np.zeros((8, 64, 64, 3), np.uint8))
    (tmp_path / "1.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:200])
    said = [{"role": "user", "content": "<video>what ?"}, {"role": "assistant", "content": "red"}]
    rows = [{"messages": said, "videos": [f"{number}.mp4"]} for number in range(2)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    cfg = compose("experiment=video_chatgpt_tiny", f"paths.data='{shapes}'", f"paths.run='{tmp_path}'")
    data = build(cfg.data.train, annotations=str(tmp_path / "rows.json"), media=str(tmp_path), cache=None)()
    assert data[Pick(0, 0, 1.0)].pixels is not None
    with pytest.raises(VideoReadError, match=r"1\.mp4"):
        data[Pick(1, 1, 1.0)]


def test_the_rows_around_a_video_start_as_the_mean_of_all_rows() -> None:
    language_model = build_causal_lm(weights="random", architecture=TINY)
    rows = language_model.get_input_embeddings().weight.detach().clone()
    model = VideoLanguageModel(language_model=language_model, feature_width=6)
    torch.testing.assert_close(model.boundary.detach(), rows.mean(dim=0).expand(2, -1))
    assert torch.equal(model.language_model.get_input_embeddings().weight, rows)


def test_the_video_stands_between_its_start_row_and_its_end_row() -> None:
    model = VideoLanguageModel(
        language_model=build_causal_lm(weights="random", architecture=TINY), feature_width=6
    ).requires_grad_(False)
    model.boundary.copy_(torch.stack([torch.full((16,), 1.0), torch.full((16,), 2.0)]))
    features = torch.randn(1, 3, 6)
    embeddings = model.embed(torch.full((1, 9), 5), torch.tensor([2]), features)[0]
    text = model.language_model.get_input_embeddings().weight[5]
    between = [*model.projector(features[0])]
    expected = [text, text, torch.full((16,), 1.0), *between, torch.full((16,), 2.0), text, text]
    torch.testing.assert_close(embeddings, torch.stack(expected))


TINY = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
PUBLISHED: dict[str, Any] = {
    "model.temporal": 100,
    "data.train.spatial": 256,
    "data.train.image_size": 224,
    "model.feature_width": 1024,
    "model.encoder.weights": "openai/clip-vit-large-patch14",
    "model.encoder.layer": -2,
    "model.encoder.dtype": "float16",
    "model.encoder.architecture.hidden_size": 1024,
    "model.language_model.architecture.vocab_size": 32003,
    "model.tokenizer.legacy": True,
    "model.tokenizer.extra_tokens": ["<vid_patch>", "<vid_start>", "<vid_end>"],
    "model.train_language_model": False,
    "model.lr": 2e-5,
    "model.weight_decay": 0.0,
    "model.optimizer.betas": [0.9, 0.999],
    "model.schedule.warmup": 0.03,
    "batch.global": 32,
    "epochs": 3,
    "data.train.max_tokens": 2048,
    "data.train.video_place": "as_written",
    "trainer.gradient_clip_val": 1.0,
    "request.temperature": 0.0,
}


def test_the_recipe_is_the_published_one() -> None:
    cfg = compose("experiment=video_chatgpt", "paths.run=.")
    found = {key: OmegaConf.select(cfg, key) for key in PUBLISHED}
    assert found == PUBLISHED


def test_features_are_made_as_they_are_read() -> None:
    cfg = compose("experiment=video_chatgpt", "paths.run=.")
    task = compose("task=clip_features", "paths.run=.", config_name="prepare").task
    assert (task.temporal, task.encoder.layer, task.encoder.dtype) == (100, -2, "float16")
    assert task.encoder.weights == cfg.model.encoder.weights
    assert task.temporal == cfg.data.train.temporal


def test_training_and_test_have_one_instruction_unless_the_published_pair_is_asked_for() -> None:
    def instructions(*words: str) -> list[str]:
        data = compose("experiment=video_chatgpt", "paths.run=.", *words).data
        return [build(node.template)().system[:13] for node in (data.train, data.val, data.test.real, data.predict)]

    assert instructions() == ["A chat betwee"] * 4
    assert instructions("data=video_instruct_published") == ["A chat betwee", *["You are Video"] * 3]
