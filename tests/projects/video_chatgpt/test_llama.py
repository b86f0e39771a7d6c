"""Meta's layout: the converted model gives the logits of a forward pass written from the original's definition."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu
from transformers import AutoModelForCausalLM

from common.text.tokenizer import load_tokenizer
from common.weights.source import Weights, WeightsError
from projects.video_chatgpt.llama import llama_to_hf, to_half_split

DIM, HEADS, LAYERS, HIDDEN, EPS = 32, 4, 2, 48, 1e-6
SPLIT = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "output": 0, "tok_embeddings": 1}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["the", "red", "circle", "moves", "left", "while", "a", "blue", "square", "turns", "and", "stays"]
    text = [" ".join(words[start:] + words[:start]) for start in range(len(words))] * 8
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def state(vocab: int, kv_heads: int = HEADS) -> dict[str, Tensor]:
    torch.manual_seed(0)
    kv = DIM // HEADS * kv_heads
    shapes = {"tok_embeddings": (vocab, DIM), "norm": (DIM,), "output": (vocab, DIM)}
    for layer in range(LAYERS):
        attention = {"wq": (DIM, DIM), "wk": (kv, DIM), "wv": (kv, DIM), "wo": (DIM, DIM)}
        feed = {"w1": (HIDDEN, DIM), "w2": (DIM, HIDDEN), "w3": (HIDDEN, DIM)}
        shapes |= {f"layers.{layer}.attention.{name}": shape for name, shape in attention.items()}
        shapes |= {f"layers.{layer}.feed_forward.{name}": shape for name, shape in feed.items()}
        shapes |= {f"layers.{layer}.{name}": (DIM,) for name in ("attention_norm", "ffn_norm")}
    made = {f"{name}.weight": torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    return made | {"rope.freqs": torch.ones(DIM // HEADS // 2)}


def write(folder: Path, tokenizer: Path, values: dict[str, Tensor], *, parts: int, **params: int) -> Path:
    folder.mkdir()
    for number in range(parts):
        part = {}
        for name, value in values.items():
            axis = SPLIT.get(name.split(".")[-2])
            part[name] = value if axis is None else value.chunk(parts, dim=axis)[number].clone()
        torch.save(part, folder / f"consolidated.{number:02d}.pth")
    sizes = {"dim": DIM, "n_layers": LAYERS, "n_heads": HEADS, "norm_eps": EPS, "multiple_of": 16, "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(sizes | params))
    (folder.parent / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    return folder


def original(weights: dict[str, Tensor], ids: Tensor, kv_heads: int = HEADS) -> Tensor:
    """The original's definition, for ids (L,): channels of a head are complex numbers (2i, 2i + 1) that rotate."""
    length, width = len(ids), DIM // HEADS
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(length), frequencies)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]

    def rotate(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)

    hidden = weights["tok_embeddings.weight"][ids]
    mask = torch.full((length, length), float("-inf")).triu(1)
    for layer in range(LAYERS):
        own = {n.removeprefix(f"layers.{layer}.").removesuffix(".weight"): v for n, v in weights.items()}
        x = rms_norm(hidden, (DIM,), own["attention_norm"], EPS)
        q, k, v = ((x @ own[f"attention.w{n}"].T).unflatten(-1, (-1, width)) for n in "qkv")
        q, k = rotate(q), rotate(k)
        k, v = (each.repeat_interleave(HEADS // kv_heads, dim=1) for each in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / width**0.5 + mask
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), v).flatten(1)
        hidden = hidden + mixed @ own["attention.wo"].T
        x = rms_norm(hidden, (DIM,), own["ffn_norm"], EPS)
        gated = silu(x @ own["feed_forward.w1"].T) * (x @ own["feed_forward.w3"].T)
        hidden = hidden + gated @ own["feed_forward.w2"].T
    return rms_norm(hidden, (DIM,), weights["norm.weight"], EPS) @ weights["output.weight"].T


@pytest.mark.parametrize(("parts", "kv_heads"), [(1, HEADS), (2, HEADS), (2, 2)])
def test_logits_are_those_of_the_original(parts: int, kv_heads: int, tokenizer: Path, tmp_path: Path) -> None:
    vocab = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer)).get_piece_size()
    values = state(vocab, kv_heads)
    grouped = {} if kv_heads == HEADS else {"n_kv_heads": kv_heads}
    source = write(tmp_path / "7B", tokenizer, values, parts=parts, **grouped)
    target = tmp_path / "hf"
    figures = llama_to_hf(source=str(source), target=str(target), dtype="float32", max_shard_bytes=40_000)
    assert figures["parts"] == parts
    assert len(Weights(target).files) > 1
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    ids = torch.randint(vocab, (17,))
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    torch.testing.assert_close(logits, original(values, ids, kv_heads), rtol=1e-5, atol=1e-5)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, 2, 0)


def test_the_tokenizer_comes_along(tokenizer: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "7B", tokenizer, state(300), parts=1)
    llama_to_hf(source=str(source), target=str(tmp_path / "hf"))
    ours = load_tokenizer(path=str(tmp_path / "hf"), legacy=True)
    direct = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    assert ours("the red circle").input_ids == [1, *direct.encode("the red circle")]


def test_the_permutation_on_a_head_of_six_rows() -> None:
    rows = torch.arange(12.0)[:, None]
    assert to_half_split(rows, heads=2).flatten().tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def lose_a_part(folder: Path) -> None:
    (folder / "consolidated.00.pth").unlink()


def lose_the_tokenizer(folder: Path) -> None:
    (folder.parent / "tokenizer.model").unlink()


def claim_more_layers(folder: Path) -> None:
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(params | {"n_layers": LAYERS + 1}))


def claim_scaled_rope(folder: Path) -> None:
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(params | {"use_scaled_rope": True}))


def truncate(folder: Path) -> None:
    path = folder / "consolidated.01.pth"
    path.write_bytes(path.read_bytes()[:1000])


def mix_models(folder: Path) -> None:
    part = torch.load(folder / "consolidated.01.pth", weights_only=True)
    torch.save(part | {"norm.weight": torch.zeros(DIM)}, folder / "consolidated.01.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose_a_part, r"found consolidated\.01\.pth"),
        (lose_the_tokenizer, r"tokenizer\.model is neither"),
        (claim_more_layers, r"missing: \['layers\.2\."),
        (claim_scaled_rope, "use_scaled_rope is not of LLaMA 1 or 2"),
        (truncate, r"consolidated\.01\.pth: not a whole file"),
        (mix_models, "norm.weight differs between the parts"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left(
    change: Callable[[Path], None], message: str, tokenizer: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "7B", tokenizer, state(300), parts=2)
    change(source)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError, match=message):
        llama_to_hf(source=str(source), target=str(tmp_path / "hf"))
    assert sorted(tmp_path.iterdir()) == before


def test_a_tokenizer_of_another_model_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "7B", tokenizer, state(320), parts=1)
    with pytest.raises(WeightsError, match="300 pieces, the embedding 320 rows"):
        llama_to_hf(source=str(source), target=str(tmp_path / "hf"))
