"""Both families of towers against plain transformers, from folders that it wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel, SiglipTokenizer

from common.encoders.clip import MEAN, STD
from common.encoders.tower import ContrastiveTower, load_tower
from common.lora import add_lora
from common.weights.source import WeightsError

TINY = str(Path(__file__).resolve().parents[3] / "common" / "tiny" / "weights" / "clip")
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
PICTURE = SMALL | {"image_size": 32, "patch_size": 8}
CLIP = {
    "vision_config": PICTURE | {"projection_dim": 24},
    "text_config": SMALL
    | {"vocab_size": 95, "max_position_embeddings": 16, "projection_dim": 24, "eos_token_id": 3, "pad_token_id": 0},
    "projection_dim": 24,
}
SIGLIP = {
    "vision_config": PICTURE,
    "text_config": SMALL | {"vocab_size": 60, "max_position_embeddings": 32, "projection_size": 32},
}
TEXTS = ["a red square", "the blue ring at the top left", ""]


def build(config: dict[str, Any]) -> CLIPModel | SiglipModel:
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(**config)) if config is SIGLIP else CLIPModel(CLIPConfig(**config))
    return model.eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    build(CLIP).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    build(SIGLIP).save_pretrained(folder)
    (folder / "corpus.txt").write_text("a red square\nthe blue ring at the top left of the cross\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    SiglipTokenizer(str(folder / "spiece.model"), model_max_length=32).save_pretrained(folder)
    return folder


def pixels(count: int = 3, size: int = 32) -> Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def normal(pictures: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (pictures.double() / 255 - torch.tensor(mean).view(3, 1, 1)).div(torch.tensor(std).view(3, 1, 1)).float()


@torch.no_grad()
def test_clip_gives_the_embeddings_and_logits_of_transformers(clip: Path) -> None:
    plain, tower = CLIPModel.from_pretrained(clip).eval(), load_tower(weights=str(clip))
    words = AutoTokenizer.from_pretrained(clip)(TEXTS, padding=True, return_tensors="pt")
    seen = normal(pixels(), MEAN, STD)
    pooled = plain.vision_model(pixel_values=seen).last_hidden_state
    torch.testing.assert_close(tower.images(pixels()), plain.get_image_features(seen).pooler_output)
    torch.testing.assert_close(tower.texts(TEXTS), plain.get_text_features(**words).pooler_output)
    torch.testing.assert_close(tower.patches(pixels()), pooled[:, 1:])
    torch.testing.assert_close(
        tower.logits(tower.images(pixels()), tower.texts(TEXTS)),
        plain(pixel_values=seen, input_ids=words.input_ids, attention_mask=words.attention_mask).logits_per_image,
    )
    assert (tower.width, tower.image_size, tower.grid, tower.patch_width) == (24, 32, (4, 4), 32)


@torch.no_grad()
def test_siglip_gives_the_embeddings_and_logits_of_transformers(siglip: Path) -> None:
    plain, tower = SiglipModel.from_pretrained(siglip).eval(), load_tower(weights=str(siglip))
    tokenizer = SiglipTokenizer.from_pretrained(siglip)
    ids = tokenizer(TEXTS, padding="max_length", max_length=32, return_tensors="pt").input_ids
    seen = normal(pixels(), (0.5,) * 3, (0.5,) * 3)
    torch.testing.assert_close(tower.images(pixels()), plain.get_image_features(seen).pooler_output)
    torch.testing.assert_close(tower.texts(TEXTS), plain.get_text_features(ids).pooler_output)
    torch.testing.assert_close(
        tower.logits(tower.images(pixels()), tower.texts(TEXTS)),
        plain(pixel_values=seen, input_ids=ids).logits_per_image,
    )
    assert (tower.width, tower.image_size, tower.grid, tower.patch_width) == (32, 32, (4, 4), 32)


@torch.no_grad()
def test_patches_of_siglip_stand_before_its_last_layer_norm(siglip: Path) -> None:
    plain, tower = SiglipModel.from_pretrained(siglip).eval(), load_tower(weights=str(siglip))
    plain.vision_model.post_layernorm.weight.mul_(2.0)  # so that a second norm would show
    seen = normal(pixels(), (0.5,) * 3, (0.5,) * 3)
    expected = plain.vision_model(pixel_values=seen).last_hidden_state
    found = plain.vision_model.post_layernorm(tower.patches(pixels()))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(tower.patches(pixels()), expected)


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_one_pass_gives_what_two_give(family: str, request: pytest.FixtureRequest) -> None:
    tower = load_tower(weights=str(request.getfixturevalue(family)))
    seen = tower(pixels())
    torch.testing.assert_close(seen.embeddings, tower.images(pixels()))
    torch.testing.assert_close(seen.patches, tower.patches(pixels()))


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_text_does_not_depend_on_its_neighbours(family: str, request: pytest.FixtureRequest) -> None:
    tower = load_tower(weights=str(request.getfixturevalue(family)))
    together = tower.texts(TEXTS)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(tower.texts([text])[0], together[row], rtol=1e-5, atol=1e-6)


def test_a_long_text_is_refused_or_cut_as_told(clip: Path) -> None:
    tower = load_tower(weights=str(clip))
    long = "red " * 20
    with pytest.raises(ValueError, match="22 tokens, the tower reads 16"):
        tower.texts(["red", long])
    assert torch.equal(tower.texts([long], truncate=True), tower.texts(["red " * 14]))


def test_pixels_are_normalised_as_the_folder_says(clip: Path, tmp_path: Path) -> None:
    build(CLIP).save_pretrained(tmp_path)
    assert load_tower(weights=str(tmp_path)).mean == MEAN
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(statistics))
    tower = load_tower(weights=str(tmp_path), tokenizer=str(clip))
    assert (tower.mean, tower.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    seen = normal(pixels(), tower.mean, tower.std)
    plain = CLIPModel.from_pretrained(tmp_path).eval().get_image_features(seen).pooler_output
    torch.testing.assert_close(tower.images(pixels()), plain)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": statistics}))
    assert load_tower(weights=str(tmp_path)).std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_it_is_frozen_but_lets_gradients_into_adapters(family: str, request: pytest.FixtureRequest) -> None:
    tower = load_tower(weights=str(request.getfixturevalue(family)))
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not tower.images(pixels()).requires_grad
    add_lora(tower.vision, targets=["q_proj", "fc1"], rank=2, alpha=2, dropout=0.5)
    factors = {name: each for name, each in tower.named_parameters() if each.requires_grad}
    for embed in (tower.images, lambda pictures: tower(pictures).embeddings, tower.patches):
        tower.zero_grad()
        embed(pixels()).square().sum().backward()
        learned = {name for name, each in factors.items() if each.grad is not None and each.grad.abs().sum() > 0}
        behind = ".head." if embed == tower.patches else "none"  # the pooling does not act on patches
        assert {name for name in factors if "lora_B" in name and behind not in name} == learned
    assert len(factors) == 2 * 2 * (2 + (family == "siglip") / 2)  # SigLIP's head has a linear layer of that name
    assert all(".vision_model." in name for name in factors)


def test_it_stays_in_eval_mode_but_for_the_dropout_of_adapters(clip: Path) -> None:
    tower = load_tower(weights=str(clip))
    add_lora(tower.vision, targets=["q_proj"], rank=2, alpha=2, dropout=0.5)
    tower.train()
    training = [type(module).__name__ for module in tower.modules() if module.training]
    assert set(training) == {"ModuleDict", "Dropout"}
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
        assert not torch.equal(tower.images(pixels()), tower.images(pixels()))
        tower.eval()
        assert torch.equal(tower.images(pixels()), tower.images(pixels()))


def test_random_weights_depend_on_the_seed_alone() -> None:
    def tower(seed: int) -> ContrastiveTower:
        return load_tower(weights="random", architecture=CLIP | {"model_type": "clip"}, tokenizer=TINY, seed=seed)

    torch.manual_seed(5)
    first = tower(0).images(pixels())
    assert torch.equal(first, tower(0).images(pixels()))
    assert not torch.equal(first, tower(1).images(pixels()))
    assert tower(0).identity != tower(1).identity
    assert tower(0).texts(TEXTS).shape == (3, 24)
    siglip = load_tower(weights="random", architecture=SIGLIP | {"model_type": "siglip"}, seed=0)
    assert siglip.images(pixels()).shape == (3, 32)


VIT_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
TEXT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VIT_H = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
TEXT_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}


@pytest.mark.parametrize(
    ("family", "vision", "text", "size", "millions", "width", "side"),
    [
        ("clip", VIT_L | {"projection_dim": 768}, TEXT_L, 224, 427.6, 768, 16),
        ("clip", VIT_L | {"projection_dim": 768}, TEXT_L, 336, 427.9, 768, 24),
        ("clip", VIT_H | {"projection_dim": 1024}, TEXT_H, 224, 986.1, 1024, 16),
        ("siglip", SO400M, SO400M | {"max_position_embeddings": 16}, 224, 877.4, 1152, 16),
        ("siglip", SO400M, SO400M | {"max_position_embeddings": 64}, 384, 878.0, 1152, 27),
    ],
)
def test_published_sizes(
    family: str, vision: dict[str, Any], text: dict[str, Any], size: int, millions: float, width: int, side: int
) -> None:
    architecture = {
        "model_type": family,
        "vision_config": vision | {"image_size": size, "patch_size": 14},
        "text_config": text | ({"projection_dim": width} if family == "clip" else {"projection_size": width}),
    }
    architecture |= {"projection_dim": width} if family == "clip" else {}
    with torch.device("meta"):
        tower = load_tower(weights="random", architecture=architecture)
    assert round(sum(each.numel() for each in tower.parameters()) / 1e6, 1) == millions
    assert (tower.width, tower.grid, tower.patch_width) == (width, (side, side), vision["hidden_size"])


def test_bad_weights_are_refused(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(ValueError, match="model_type"):
        load_tower(weights="random", architecture={"projection_dim": 8})
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_tower(weights=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(WeightsError, match="a model of type llama"):
        load_tower(weights=str(tmp_path))
    with pytest.raises(WeightsError, match="hf download some/model"):
        load_tower(weights="some/model")
    build(CLIP).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="came without a tokenizer"):
        load_tower(weights=str(tmp_path)).texts(["red"])
    with pytest.raises(ValueError, match=r"pixels is \(3, 3, 30, 30\)"):
        load_tower(weights=str(clip)).images(pixels(size=30))
