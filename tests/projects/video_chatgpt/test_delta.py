"""The published delta: each rule of adding it, its inverse, and nothing on disk after an error."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from common.text.language_model import build_causal_lm
from common.weights.source import Weights, WeightsError
from projects.video_chatgpt.delta import apply_delta, import_llava, make_delta

ROOT = Path(__file__).resolve().parents[3]
VOCAB, EXTRA, WIDTH, FEATURES = 20, 3, 16, 6
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"


def llama(seed: int, *, width: int = WIDTH, scale: float = 0.02) -> dict[str, Tensor]:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=scale,
    )
    torch.manual_seed(seed)
    return {name: value.clone() for name, value in LlamaForCausalLM(config).state_dict().items()}


def tuned(seed: int, *, width: int = WIDTH) -> dict[str, Tensor]:
    state = llama(seed, width=width)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], torch.randn(EXTRA, width)])
    state["model.mm_projector.weight"] = torch.randn(width, FEATURES)
    state["model.mm_projector.bias"] = torch.randn(width)
    return {name: value.half() for name, value in state.items()}


def write(folder: Path, state: dict[str, Tensor], *, shards: int = 0, model_type: str = "llava") -> Path:
    """A repository of 2023: `.bin` shards, or safetensors for shards=0; token ids as they were shipped."""
    folder.mkdir()
    if not shards:
        save_file(state, folder / "model.safetensors")
    for number in range(shards):
        part = dict(list(state.items())[number::shards])
        torch.save(part, folder / f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin")
    rows, width = state["model.embed_tokens.weight"].shape
    config = {"model_type": model_type, "vocab_size": rows, "hidden_size": width, "intermediate_size": 32}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 2, "mm_hidden_size": FEATURES, "use_mm_proj": True}
    config |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "tokenizer.model").write_bytes(folder.name.encode())
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    state = {name: value.half() for name, value in llama(0).items()}
    return write(tmp_path / "base", state | {INV_FREQ: torch.ones(4)}, shards=2, model_type="llama")


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    return write(tmp_path / "delta", tuned(1) | {INV_FREQ: torch.ones(4)}, shards=2)


def contents(folder: Path) -> dict[str, Tensor]:
    weights = Weights(folder)
    return {name: weights.read(name).clone() for name in weights.headers}


def test_each_tensor_follows_its_rule(base: Path, delta: Path, tmp_path: Path) -> None:
    target = tmp_path / "result"
    figures = apply_delta(base=str(base), delta=str(delta), target=str(target), max_shard_bytes=4000)
    left, right, result = contents(base), contents(delta), contents(target)
    assert len(list(target.glob("model-*-of-*.safetensors"))) > 1
    assert set(result) == set(right) - {INV_FREQ}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(result[name][:VOCAB], left[name] + right[name][:VOCAB])
        assert torch.equal(result[name][VOCAB:], right[name][VOCAB:])
    for name in ("model.mm_projector.weight", "model.mm_projector.bias"):
        assert torch.equal(result[name], right[name])
    ordinary = set(left) - {INV_FREQ, "model.embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(result[name], left[name] + right[name]) for name in ordinary)
    assert all(value.dtype == torch.float16 for value in result.values())
    assert (figures["combined"], figures["enlarged"], figures["kept"]) == (len(ordinary), 2, 2)
    assert (figures["inv_freq skipped"], figures["base only"]) == (1, 0)


def test_both_sides_are_rounded_to_float16_before_they_are_added(delta: Path, tmp_path: Path) -> None:
    state = llama(0, scale=1.0)
    base = write(tmp_path / "float32", state, model_type="llama")
    apply_delta(base=str(base), delta=str(delta), target=str(tmp_path / "result"))
    name = "model.layers.1.mlp.up_proj.weight"
    result, right = contents(tmp_path / "result")[name], contents(delta)[name]
    assert torch.equal(result, state[name].half() + right)
    assert not torch.equal(result, (state[name] + right.float()).half())


def test_configuration_and_tokenizer_come_from_the_delta_with_true_ids(
    base: Path, delta: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figures = apply_delta(base=str(base), delta=str(delta), target=str(tmp_path / "result"))
    config = json.loads((tmp_path / "result" / "config.json").read_text())
    assert [config[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")] == [1, 2, 0]
    assert config["vocab_size"] == VOCAB + EXTRA
    assert config["mm_hidden_size"] == FEATURES
    generation = json.loads((tmp_path / "result" / "generation_config.json").read_text())
    assert [generation[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")] == [1, 2, 0]
    assert (tmp_path / "result" / "tokenizer.model").read_bytes() == b"delta"
    assert "eos_token_id was 1, is now 2" in caplog.text
    assert figures["corrected"] == 7  # three ids, two ids, model_type, architectures


def test_the_result_is_read_by_transformers(base: Path, delta: Path, tmp_path: Path) -> None:
    apply_delta(base=str(base), delta=str(delta), target=str(tmp_path / "result"))
    model = build_causal_lm(weights=str(tmp_path / "result"))
    assert torch.equal(model.lm_head.weight, contents(tmp_path / "result")["lm_head.weight"].float())
    assert model.generation_config.eos_token_id == 2


def test_delta_of_tuned_and_back(base: Path, tmp_path: Path) -> None:
    wanted = tuned(2)
    folder = write(tmp_path / "tuned", wanted)
    made = make_delta(base=str(base), tuned=str(folder), target=str(tmp_path / "made"))
    applied = apply_delta(base=str(base), delta=str(tmp_path / "made"), target=str(tmp_path / "again"))
    assert made["combined"] == applied["combined"]
    result = contents(tmp_path / "again")
    assert result.keys() == wanted.keys()
    for name, value in result.items():
        torch.testing.assert_close(value, wanted[name], rtol=2**-10, atol=2**-14, msg=name)
    projector = "model.mm_projector.weight"
    assert torch.equal(result[projector], wanted[projector])


def test_what_only_the_base_has_is_reported(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = tuned(1)
    del state["model.norm.weight"]
    delta = write(tmp_path / "delta", state)
    figures = apply_delta(base=str(base), delta=str(delta), target=str(tmp_path / "result"))
    assert figures["base only"] == 1
    assert "model.norm.weight" in caplog.text
    assert "model.norm.weight" not in contents(tmp_path / "result")


def foreign(state: dict[str, Tensor]) -> None:
    state["model.vision_tower.weight"] = torch.zeros(2)


def fewer_rows(state: dict[str, Tensor]) -> None:
    state["lm_head.weight"] = state["lm_head.weight"][: VOCAB - 1].clone()


def reshaped(state: dict[str, Tensor]) -> None:
    state["model.norm.weight"] = torch.zeros(WIDTH + 1)


def projector_alone(state: dict[str, Tensor]) -> None:
    for name in [name for name in state if "embed_tokens" not in name and "mm_projector" not in name]:
        del state[name]


def damaged(state: dict[str, Tensor]) -> None:
    state["lm_head.weight"][-1, -1] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (foreign, r"model\.vision_tower\.weight is not in the base"),
        (fewer_rows, r"lm_head\.weight is \(19, 16\), in the base \(20, 16\)"),
        (reshaped, r"model\.norm\.weight is \(17,\)"),
        (projector_alone, "no tensor is in both"),
        (damaged, r"lm_head\.weight of .* is not finite"),
    ],
)
def test_a_wrong_delta_is_refused_and_leaves_nothing(
    change: Callable[[dict[str, Tensor]], None], message: str, base: Path, tmp_path: Path
) -> None:
    state = tuned(1)
    change(state)
    delta = write(tmp_path / "delta", state)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError, match=message):
        apply_delta(base=str(base), delta=str(delta), target=str(tmp_path / "result"))
    assert sorted(tmp_path.iterdir()) == before


def test_a_delta_of_another_width_is_refused(base: Path, tmp_path: Path) -> None:
    delta = write(tmp_path / "delta", tuned(1, width=32))
    with pytest.raises(WeightsError, match="give the base that it was made from"):
        apply_delta(base=str(base), delta=str(delta), target=str(tmp_path / "result"))
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer.model"])
def test_what_was_not_fetched_is_named(file: str, base: Path, delta: Path, tmp_path: Path) -> None:
    (delta / file).unlink()
    with pytest.raises(WeightsError, match=file):
        apply_delta(base=str(base), delta=str(delta), target=str(tmp_path / "result"))
    assert not (tmp_path / "result").exists()


def test_done_work_is_not_repeated_and_other_work_not_overwritten(base: Path, delta: Path, tmp_path: Path) -> None:
    arguments = {"base": str(base), "delta": str(delta), "target": str(tmp_path / "result")}
    first = apply_delta(**arguments)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "result").iterdir()}
    assert apply_delta(**arguments) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "result").iterdir()} == stamps
    with pytest.raises(ValueError, match="made from something else"):
        apply_delta(**arguments, dtype="float32")


def test_a_ready_made_llava_becomes_a_llama(tmp_path: Path) -> None:
    source = write(tmp_path / "llava", tuned(3) | {INV_FREQ: torch.ones(4)}, shards=2)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForCausalLM.from_pretrained(source)
    figures = import_llava(source=str(source), target=str(tmp_path / "llama"))
    assert figures["inv_freq skipped"] == 1
    model = build_causal_lm(weights=str(tmp_path / "llama"))
    assert model.config.eos_token_id == 2
    result = contents(tmp_path / "llama")
    assert all(torch.equal(result[name], value) for name, value in tuned(3).items())


# Applies a delta of 64 MB to a base of 64 MB, in tensors of 2 MB, and prints the peak of the process's own memory, MB.
APPLY = """
import sys, threading, time
import torch
from projects.video_chatgpt.delta import apply_delta

def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1000

base, delta, target = sys.argv[1:]
(torch.zeros(1 << 20).half() + 1).isfinite().all()
before, peak, done = own(), 0.0, False
def watch():
    global peak
    while not done:
        peak = max(peak, own())
        time.sleep(0.001)
thread = threading.Thread(target=watch)
thread.start()
figures = apply_delta(base=base, delta=delta, target=target, max_shard_bytes=20_000_000)
done = True
thread.join()
assert figures["combined"] == 32, figures
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    state = {f"model.layers.{n}.weight": torch.full((1024, 1024), float(n)).half() for n in range(32)}
    state["model.embed_tokens.weight"] = torch.ones(4, 8).half()
    enlarged = state | {"model.embed_tokens.weight": torch.ones(6, 8).half()}
    folders = write(tmp_path / "base", state, shards=2), write(tmp_path / "delta", enlarged, shards=3)
    command = [sys.executable, "-c", APPLY, *map(str, folders), str(tmp_path / "result")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 20
    assert len(Weights(tmp_path / "result").files) == 4
