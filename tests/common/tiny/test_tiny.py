"""The tiny base models: trained the same way twice, loaded by plain Hugging Face calls, with a tokenizer that fits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPModel, CLIPTextModel, CLIPVisionModel

from common.shapes_world.language import caption, questions
from common.shapes_world.pairs import draw_pair
from common.shapes_world.scene import SPLITS, draw_scene
from common.tiny import causal_lm, clip, text_to_image
from common.tiny.logs import CELLS, FRAMES, ROWS, bag, following, make_corpus
from common.tiny.pictures import draw_batch
from common.tiny.words import COLUMN_WORDS, build_tokenizer, vocabulary

CLIP: dict[str, Any] = {"width": 32, "layers": 2, "text_width": 32, "text_layers": 1, "steps": 3, "batch": 8}
LM: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2, "steps": 3, "batch": 4, "logs": 12, "turns": 2}
TEXT_TO_IMAGE: dict[str, Any] = {
    "vae": "common/tiny/weights/vae",
    "channels": [32, 64],
    "heads": 2,
    "text_width": 32,
    "text_layers": 1,
    "steps": 2,
    "batch": 4,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_lm, "JUDGED_LOGS", 60)
        patch.setattr(clip, "JUDGED_PICTURES", 40)
        for name in ("a", "b"):
            clip.train(folder=root / f"clip_{name}", **CLIP)
            causal_lm.train(folder=root / f"lm_{name}", **LM)
    return root


@pytest.mark.parametrize("kind", ["clip", "lm"])
def test_the_same_seed_gives_the_same_weights(folders: Path, kind: str) -> None:
    one, two = ((folders / f"{kind}_{name}" / "model.safetensors").read_bytes() for name in "ab")
    assert one == two


def test_the_folders_load_by_plain_calls(folders: Path) -> None:
    text = AutoTokenizer.from_pretrained(folders / "clip_a")
    model = CLIPModel.from_pretrained(folders / "clip_a", dtype=torch.float32)
    tower = CLIPVisionModel.from_pretrained(folders / "clip_a", dtype=torch.float32)
    pixels = torch.zeros(2, 3, 64, 64)
    assert tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2].shape == (2, 17, 32)
    words = text(["a red ring", "a blue cross at the top left"], padding=True, return_tensors="pt")
    assert model(pixel_values=pixels, **words).logits_per_image.shape == (2, 2)
    tokenizer = AutoTokenizer.from_pretrained(folders / "lm_a")
    lm = AutoModelForCausalLM.from_pretrained(folders / "lm_a", dtype=torch.float32)
    assert lm(**tokenizer(["USER:"], return_tensors="pt")).logits.shape == (1, 3, len(tokenizer))


def test_a_finished_folder_is_not_made_again_and_other_settings_are_refused(folders: Path) -> None:
    weights = folders / "clip_a" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert clip.train(folder=folders / "clip_a", **CLIP)["steps"] == 3
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"seed=0 \(asked: 1\)"):
        clip.train(folder=folders / "clip_a", **{**CLIP, "seed": 1})
    (folders / "other").mkdir()
    with pytest.raises(ValueError, match=r"no training\.json"):
        causal_lm.train(folder=folders / "other", **LM)


def test_clip_reads_the_end_of_the_text_and_not_what_follows() -> None:
    tokenizer = build_tokenizer(clip=True, max_length=32)
    torch.manual_seed(0)
    model = clip.build(width=32, layers=1, text_width=32, text_layers=1, words=len(tokenizer)).eval()
    texts = ["a red ring", "a red ring at the top left", "a red cross"]
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        together = model.text_model(**padded).pooler_output
        for row, text in enumerate(texts):
            alone = model.text_model(**tokenizer([text], return_tensors="pt")).pooler_output[0]
            torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_no_text_of_the_world_has_an_unknown_word_and_offsets_are_true() -> None:
    tokenizer = build_tokenizer(clip=False, max_length=512)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    for split in SPLITS:
        for index in range(60):
            scene = draw_scene(seed=0, split=split, index=index)
            asked = questions(scene, seed=0)
            texts = [f"USER: \n{q.question} ASSISTANT: {q.answer}</s>" for q in asked]
            texts += [caption(scene), *draw_pair(seed=0, split=split, index=index).captions]
            for text in texts:
                encoded = tokenizer(text, return_offsets_mapping=True)
                assert encoded.input_ids[0] == 1
                assert 3 not in encoded.input_ids, text
                for token, (start, end) in list(zip(encoded.input_ids, encoded.offset_mapping, strict=True))[1:]:
                    assert tokenizer.convert_ids_to_tokens(token) == text[start:end].lower()
    assert tokenizer("zebra").input_ids == [1, 3]
    assert len(set(vocabulary())) == len(vocabulary())


def test_pictures_come_in_runs_that_differ_in_one_detail_and_fit_their_captions() -> None:
    pictures, captions = draw_batch(np.random.default_rng(0), count=64, size=64)
    assert pictures.shape == (64, 64, 64, 3)
    assert pictures.dtype == np.uint8
    assert len(captions) == 64
    tokenizer = build_tokenizer(clip=True, max_length=32)
    assert max(len(ids) for ids in tokenizer(captions).input_ids) <= 32
    assert all(2 not in ids for ids in tokenizer(captions).input_ids)


def test_a_row_of_a_log_names_what_is_there_and_where() -> None:
    tokenizer = build_tokenizer(clip=False, max_length=512)
    words = tokenizer.get_vocab()
    for index in range(40):
        scene = draw_scene(seed=1, split="test", index=index)
        rows, after = bag(scene, words), following(scene, words, 0.3)
        for thing in scene.things:
            seen = [thing.first <= frame < thing.end for frame in range(FRAMES)]
            assert (rows[:FRAMES, words[thing.colour]] > 0).tolist() == seen
            assert (rows[:FRAMES, words[thing.direction]] == 0).all()  # a row does not tell the direction
            assert (after[thing.first + 1 : thing.end, words[thing.direction]] > 0).all()
            if len(scene.things) == 1:
                shares = rows[thing.first : thing.end, [words[word] for word in COLUMN_WORDS]]
                np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
                x, _ = thing.position(np.arange(thing.first, thing.end, dtype=np.float64), size=scene.size)
                assert (shares[np.arange(len(x)), (x * CELLS / scene.size).astype(int)] >= 0.5 - 1e-6).all()


def test_labels_of_a_log_are_its_answers() -> None:
    tokenizer = build_tokenizer(clip=False, max_length=512)
    corpus = make_corpus(tokenizer, seed=3, split="train", logs=10, turns=2, names_weight=0.3)
    assert corpus.ids[:, : corpus.start - 1].unique(dim=0).tolist() == [tokenizer("USER: ").input_ids]
    assert (corpus.labels[:, : corpus.start + ROWS] == -100).all()
    learned = corpus.labels != -100
    assert (corpus.ids[learned] == corpus.labels[learned]).all()
    assert ((corpus.labels == 2).sum(1) == 2).all()  # one end for each answer
    totals = corpus.next_words.sum(-1)
    assert torch.isclose(totals, totals.round(), atol=1e-5).all()


def test_the_text_to_image_model_is_a_folder_as_stable_diffusion_has_it(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_to_image, "JUDGED_PICTURES", 8)
        scores = [text_to_image.train(folder=tmp_path / name, **TEXT_TO_IMAGE) for name in "ab"]
    assert scores[0].keys() == {"colour", "shape", "side", "steps", "seconds"}
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()
    unet: Any = UNet2DConditionModel.from_pretrained(tmp_path / "a", subfolder="unet", torch_dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a", subfolder="tokenizer")
    tower: Any = CLIPTextModel.from_pretrained(tmp_path / "a", subfolder="text_encoder", dtype=torch.float32)
    states = tower(**tokenizer(["a red ring moves left"], return_tensors="pt")).last_hidden_state
    assert unet(torch.zeros(1, 4, 8, 8), 999, encoder_hidden_states=states).sample.shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("x", "y", "wanted"),
    [(0.5, 0.5, []), (0.2, 0.5, ["left"]), (0.8, 0.9, ["right", "down"]), (0.6, 0.1, ["up"])],
)
def test_sides_are_named_as_the_directions_that_lead_there(x: float, y: float, wanted: list[str]) -> None:
    assert text_to_image.sides(x, y) == wanted
