"""What the tower reads is what transformers' own processor makes; order and batches do not matter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from common.encoders.tower import load_tower
from projects.genhancer.benchmarks.reader import Preprocess, in_order
from projects.genhancer.benchmarks.table import reader_of
from tests.projects.genhancer.benchmarks.towers import SIZE, grey_reader, noise, write_model

KINDS = {"clip": (CLIPModel, CLIPImageProcessorPil), "siglip": (SiglipModel, SiglipImageProcessorPil)}


@pytest.mark.parametrize("family", KINDS)
def test_embeddings_are_those_of_transformers_with_its_own_processor(family: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path, family)
    model_class, processor_class = KINDS[family]
    pictures = [noise(seed, height=30 + 7 * seed, width=90 - 5 * seed) for seed in range(5)]
    processed = processor_class.from_pretrained(folder)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        expected = model_class.from_pretrained(folder).eval().get_image_features(**processed).pooler_output
    reader = reader_of(load_tower(weights=str(folder)), str(folder), batch=2, workers=2, device="cpu")
    found = reader.pictures(pictures, description="pictures")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_shorter_side_is_resized_and_the_centre_kept_but_siglip_squashes() -> None:
    picture = noise(0, height=60, width=90)
    clip = Preprocess(folder=None, family="clip", image_size=20)(picture)
    resized = Image.fromarray(picture).resize((30, 20), Image.Resampling.BICUBIC)
    assert torch.equal(clip, torch.from_numpy(np.array(resized)).permute(2, 0, 1)[:, :, 5:25])
    siglip = Preprocess(folder=None, family="siglip", image_size=20)(picture)
    squashed = Image.fromarray(picture).resize((20, 20), Image.Resampling.BICUBIC)
    assert torch.equal(siglip, torch.from_numpy(np.array(squashed)).permute(2, 0, 1))


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_the_preprocessor_of_the_folder_is_followed(name: str, tmp_path: Path) -> None:
    write_model(tmp_path, "clip")
    path = tmp_path / "preprocessor_config.json"
    content = json.loads(path.read_text()) | {"resample": 0, "size": {"height": SIZE, "width": SIZE}}
    path.unlink()
    (tmp_path / name).write_text(json.dumps({"image_processor": content} if name.startswith("processor") else content))
    picture = noise(1)
    found = Preprocess(folder=tmp_path, family="clip", image_size=SIZE)(picture)
    nearest = Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    assert torch.equal(found, torch.from_numpy(np.array(nearest)).permute(2, 0, 1))


def test_a_preprocessor_of_another_size_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "clip")
    with pytest.raises(ValueError, match=r"makes pictures of \(32, 32\), its tower reads 48x48"):
        Preprocess(folder=tmp_path, family="clip", image_size=48)(noise(0))


def test_a_picture_in_a_palette_or_with_transparency_is_read(tmp_path: Path) -> None:
    Image.fromarray(noise(0)).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(noise(0)).convert("RGBA").save(tmp_path / "transparent.png")
    for name in ("palette.png", "transparent.png"):
        assert grey_reader().pixels(tmp_path / name).shape == (3, 8, 8)


def test_batches_do_not_change_what_is_read() -> None:
    pictures = [np.full((8, 8, 3), level, np.uint8) for level in range(0, 250, 10)]
    expected = torch.tensor([[3 * level / 255, 3 - 3 * level / 255] for level in range(0, 250, 10)])
    for batch in (1, 4, 100):
        torch.testing.assert_close(grey_reader(batch).pictures(pictures, description="greys"), expected)
        texts = grey_reader(batch).texts(["light", "dark", "light", "same", "dark"])
        assert texts.tolist() == [[2, 0], [0, 2], [2, 0], [1, 1], [0, 2]]


def test_it_reads_in_full_precision_without_gradients_in_a_mixed_run(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "clip")
    reader = reader_of(load_tower(weights=str(folder)), str(folder), batch=2, workers=1, device="cpu")
    plain = reader.pictures([noise(0)], description="pictures")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = reader.pictures([noise(0)], description="pictures")
    assert torch.equal(plain, mixed)
    assert not mixed.requires_grad


def test_threads_keep_the_order_and_hand_on_errors() -> None:
    assert list(in_order(lambda n: n * n, range(50), 3)) == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda n: 1 // n, [2, 1, 0, 1], 2))
