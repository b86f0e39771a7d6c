"""CLIP's text tower against transformers itself, from every kind of folder that it comes in."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from common.encoders.text import ClipText

TINY = str(Path(__file__).resolve().parents[3] / "common" / "tiny" / "weights" / "clip")
ARCHITECTURE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 600,
    "max_position_embeddings": 16,
}
PROMPTS = ["move the red square left", "", "turn the ring back"]


def random_text(**changes: Any) -> ClipText:
    settings: dict[str, Any] = {"weights": "random", "architecture": ARCHITECTURE, "tokenizer": TINY, "max_tokens": 16}
    return ClipText(**settings | changes)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A pipeline's text part in the files of 2022: prefixed names, a table of positions, and vocab.json."""
    torch.manual_seed(0)
    model = CLIPTextModel(CLIPTextConfig(**ARCHITECTURE)).eval()
    model.save_pretrained(tmp_path / "text_encoder")
    tensors = {f"text_model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(tensors, tmp_path / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocab = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = ends | {"pad_token": "<|endoftext|>", "model_max_length": 16, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_states_of_the_text_tower_of_a_clip_are_those_of_transformers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    reference = CLIPTextModel.from_pretrained(TINY, dtype=torch.float32).eval()
    ids = tokenizer(PROMPTS, padding="max_length", max_length=32, truncation=True, return_tensors="pt").input_ids
    ours = ClipText(weights=TINY, max_tokens=32)
    assert torch.equal(ours.tokenise(PROMPTS), ids)
    with torch.no_grad():
        expected = reference(ids, attention_mask=None)[0]
    assert torch.equal(ours(PROMPTS), expected)
    assert torch.equal(ours(ids), expected)
    assert expected.shape == (3, 32, ours.width)


def test_a_pipeline_of_the_published_kind(pipeline: Path) -> None:
    torch.manual_seed(0)
    reference = CLIPTextModel(CLIPTextConfig(**ARCHITECTURE)).eval()
    tokenizer = CLIPTokenizer.from_pretrained(pipeline / "tokenizer")
    prompts = ["abc", "", "left ring"]
    ids = tokenizer(prompts, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    assert ids[1].tolist() == [52] + [53] * 15  # padded with the end token
    ours = ClipText(weights=str(pipeline), max_tokens=16)
    with torch.no_grad():
        assert torch.equal(ours(prompts), reference(ids)[0])


def test_a_prompt_does_not_depend_on_its_neighbours() -> None:
    ours = ClipText(weights=TINY, max_tokens=32)
    together = ours(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(ours([prompt])[0], together[row], rtol=1e-5, atol=1e-5)


def test_too_long_a_prompt_is_named_and_not_cut(pipeline: Path) -> None:
    ours = ClipText(weights=str(pipeline), max_tokens=16)
    fits = "abcdefg hijklmn"
    assert ours.tokenise([fits])[0, -1] == ours.tokenizer.eos_token_id
    with pytest.raises(ValueError, match=r'the prompt "abcdefg hijklmno".* 17 tokens.*takes 16; shorten it'):
        ours.tokenise(["a", f"{fits}o"])


def test_frozen_by_default_and_trained_when_asked() -> None:
    frozen, trained = random_text().train(), random_text(trained=True).train()
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not frozen(PROMPTS).requires_grad
    assert trained.training
    trained(trained.tokenise(PROMPTS)).square().sum().backward()
    lacking = [name for name, parameter in trained.named_parameters() if parameter.grad is None]
    assert lacking == []
    assert not trained.eval().training
    assert torch.equal(trained(PROMPTS).detach(), frozen(PROMPTS))


def test_identity_tells_weights_and_tokenizers_apart(pipeline: Path) -> None:
    identities = {
        random_text().identity,
        random_text(seed=1).identity,
        random_text(architecture=ARCHITECTURE | {"hidden_act": "gelu"}).identity,
        random_text(tokenizer=str(pipeline)).identity,
        ClipText(weights=str(pipeline), max_tokens=16).identity,
        ClipText(weights=TINY, max_tokens=32).identity,
    }
    assert len(identities) == 6
    assert random_text().identity == random_text().identity


def test_random_weights_depend_on_the_seed_alone() -> None:
    first = random_text()
    torch.manual_seed(5)
    again, other = random_text(), random_text(seed=1)
    assert torch.equal(first(PROMPTS), again(PROMPTS))
    assert not torch.equal(first(PROMPTS), other(PROMPTS))


def test_dtype() -> None:
    assert random_text(dtype="bfloat16")(PROMPTS).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": None}, "needs text.architecture"),
        ({"tokenizer": None}, "needs text.tokenizer"),
        ({"max_tokens": 77}, "text.max_tokens=77.*has 16 places; give 3 to 16"),
        ({"architecture": ARCHITECTURE | {"vocab_size": 40}}, "95 tokens.*knows 40; give text.tokenizer"),
        ({"weights": "no/such/folder"}, "no such folder"),
        ({"weights": "someone/not-fetched"}, "hf download someone/not-fetched"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_text(**changes)


def test_weights_that_lack_parameters_are_refused(pipeline: Path) -> None:
    file = pipeline / "text_encoder" / "model.safetensors"
    save_file({"text_model.final_layer_norm.weight": torch.ones(32)}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 3\d parameters"):
        ClipText(weights=str(pipeline), max_tokens=16)


def test_a_folder_without_a_tokenizer_is_refused(pipeline: Path) -> None:
    with pytest.raises(ValueError, match=r"none of tokenizer\.json, vocab\.json, merges\.txt"):
        ClipText(weights=str(pipeline / "text_encoder"), max_tokens=16)


def test_words_that_a_vocabulary_lacks_are_warned_of_once(caplog: pytest.LogCaptureFixture, pipeline: Path) -> None:
    ours = ClipText(weights=TINY, max_tokens=32)
    with caplog.at_level(logging.WARNING):
        ours.tokenise([*PROMPTS, "push the teapot", "push the teapot"])
        ours.tokenise(["push the teapot"])
        ClipText(weights=str(pipeline), max_tokens=16).tokenise(["push"])
    assert [record.message for record in caplog.records] == [
        'the prompt "push the teapot" has words that the vocabulary of the text encoder lacks'
    ]


def test_tokens_alone_need_no_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, random = ClipText(weights=TINY, max_tokens=32), random_text()
    monkeypatch.setattr("common.encoders.text._tower", None)
    tokens = ClipText(weights=TINY, max_tokens=32, tokens_only=True)
    assert (tokens.identity, tokens.width, tokens.dtype) == (whole.identity, whole.width, whole.dtype)
    assert torch.equal(tokens.tokenise(PROMPTS), whole.tokenise(PROMPTS))
    assert random_text(tokens_only=True).identity == random.identity != whole.identity
    assert not list(tokens.parameters())
    with pytest.raises(ValueError, match="has 32 places"):
        ClipText(weights=TINY, max_tokens=33, tokens_only=True)


def test_lengths_are_those_of_ids_that_nothing_cuts() -> None:
    ours = ClipText(weights=TINY, max_tokens=32, tokens_only=True)
    prompts = [*PROMPTS, "turn the ring back " * 20]
    assert ours.lengths(prompts) == [len(row) for row in ours.tokenizer(prompts)["input_ids"]]
    assert ours.lengths(prompts)[-1] == 82
