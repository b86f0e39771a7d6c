"""Loading: a lacking parameter is an error, a tensor of another part one line."""

import logging
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel

from common.weights.pretrained import load_pretrained

CLIP = Path(__file__).resolve().parents[3] / "common" / "tiny" / "weights" / "clip"


def test_the_text_tower_beside_a_vision_tower_is_one_line(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="common"):
        load_pretrained(CLIPVisionModel, str(CLIP))
    lines = [record.message for record in caplog.records if record.name.startswith("common")]
    assert len(lines) == 1
    assert "tensors of other parts are not used" in lines[0]
    assert "UNEXPECTED" not in capfd.readouterr().err


def test_a_lacking_parameter_is_named(tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((CLIP / file).read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.startswith("vision_model") and "fc1.weight" in name)
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 parameters of CLIPVisionModel .*fc1\.weight"):
        load_pretrained(CLIPVisionModel, str(tmp_path))
