"""Real clips and annotations: features at published size, and a run that trains on them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from common.config import build
from common.data.conversations import load_conversations, resolve_media
from common.encoders.clip import MEAN, STD
from common.encoders.pooling import spatio_temporal
from common.video.decode import read
from launchers import train
from launchers.command import compose
from projects.video_chatgpt.data import frames


def test_annotations_load_and_name_their_clips(media: Path) -> None:
    rows = load_conversations(media / "conversations" / "messages.json")
    assert [row.video for row in rows] == ["1.mp4", "2.avi", "3.mp4"]
    assert rows[1].turns[0].assistant == "She is cooking."
    (instruct,) = load_conversations(media / "activitynet" / "video_instruct.json")
    assert resolve_media(media / "activitynet", instruct).name == "v_rBMQFpHspmo.mp4"


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["conversations/2.avi", "activitynet/v_rBMQFpHspmo.mp4"])
def test_features_of_published_size_agree_with_a_direct_computation(media: Path, clip: str) -> None:
    cfg = compose(
        "experiment=video_chatgpt", "paths.run=.", "model.encoder.weights=random", "model.encoder.dtype=float32"
    )
    encoder = build(cfg.model.encoder)()
    pixels = frames(media / clip, temporal=4, image_size=224, backend="pyav")
    assert pixels.shape == (4, 3, 224, 224)
    features = spatio_temporal(encoder(pixels[None])[0], temporal=100)
    assert features.half().shape == (356, 1024)

    architecture = {key: value for key, value in cfg.model.encoder.architecture.items()}
    reference = CLIPVisionModel(CLIPVisionConfig(**architecture)).eval()
    reference.load_state_dict(encoder.tower.state_dict(), strict=False)
    total = read(media / clip, [0]).indices  # opens
    assert total.tolist() == [0]
    scaled = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        patches = reference(scaled, output_hidden_states=True).hidden_states[-2][:, 1:]
    direct = torch.cat([patches.mean(1), torch.zeros(96, 1024), patches.mean(0)])
    torch.testing.assert_close(features, direct, rtol=1e-4, atol=1e-4)


def test_a_tiny_run_trains_on_them(media: Path, tmp_path: Path) -> None:
    splits = [
        f"data.{split}.{key}={value}"
        for split in ("train", "val")
        for key, value in (
            ("annotations", media / "conversations" / "messages.json"),
            ("media", media / "conversations"),
            ("cache", "null"),
        )
    ]
    small = ["steps=3", "validate_every=3", "batch.global=3", "batch.micro=3", "prepare=[]", "model.temporal=4"]
    cfg = compose("experiment=video_chatgpt_tiny", *small, *splits, f"paths.run={tmp_path}", "objective=val/loss")
    loss = train.main(cfg)
    assert loss is not None
    assert np.isfinite(loss)
    manifest = json.loads((tmp_path / "checkpoints" / "step_0000003.json").read_text())
    assert manifest["samples"] == 9
