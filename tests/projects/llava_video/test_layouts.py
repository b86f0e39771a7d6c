"""Exports that plain transformers and peft load in a process of their own, with the logits and answers of the run."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText, PreTrainedModel, PreTrainedTokenizerFast

from common.chat.answers import Asked
from common.chat.decoder import answer
from common.checkpoint import load_trained
from common.config import ConfigError, build, plain
from common.lora import ADAPTER
from common.types import Pick
from common.video.transform import resize
from common.weights.source import Weights, WeightsError
from launchers import export
from launchers.command import as_yaml, compose
from projects.llava_video.build import build_vlm
from projects.llava_video.module import LlavaVideo
from tests.common.runs import make_run
from tests.projects.llava_video.tiny import GRID, SIZE, architecture, family_of, picture

QUESTION, TOKENS = "What is it?", 4
SLOW = pytest.mark.slow  # each starts a process that loads transformers
LORA = (
    "{_target_: common.lora.add_lora, _partial_: true, targets: [q_proj, v_proj], rank: %d, alpha: %d, dropout: 0.0, "
    "seed: 0}"
)
FRESH = """\
import importlib.util, json, sys
import numpy as np, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

want = json.load(open(sys.argv[1]))
frames = [Image.fromarray(frame) for frame in np.load(want["frames"])]
model, found = AutoModelForImageTextToText.from_pretrained(want["model"], output_loading_info=True)
assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
assert type(model).__name__ == want["class"], type(model)
if want["adapter"]:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, want["adapter"])
seen = [{"type": "video"}] if want["video"] else [{"type": "image"} for _ in frames]
messages = [{"role": "user", "content": [*seen, {"type": "text", "text": want["question"]}]}]
folder = want["adapter"] or want["model"]
if want["video"] and importlib.util.find_spec("torchvision") is None:  # without it there are no video processors
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = json.load(open(folder + "/processor_config.json"))
    values = settings["video_processor"]
    pixels = np.stack([np.asarray(frame) for frame in frames]) * values["rescale_factor"]
    pixels = (pixels - np.array(values["image_mean"])) / np.array(values["image_std"])
    side = -(-int(settings["num_image_tokens"] ** 0.5) // 2)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    text = text.replace("<video>", "<video>" * (len(frames) * side * side + 1))
    inputs = dict(tokenizer(text, return_tensors="pt"))
    inputs["pixel_values_videos"] = torch.from_numpy(pixels).float().permute(0, 3, 1, 2)[None]
else:
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    shown = {"videos": [np.stack([np.asarray(frame) for frame in frames])]} if want["video"] else {"images": frames}
    inputs = dict(processor(text=text, return_tensors="pt", **shown))
model.eval()
with torch.no_grad():
    logits = model(**inputs).logits[0]
end = AutoTokenizer.from_pretrained(folder).eos_token_id
assert want["adapter"] or model.generation_config.eos_token_id[0] == end, model.generation_config
ends = {"eos_token_id": end} if want["adapter"] else {}  # an adapter leaves the settings of its base as they are
output = model.generate(**inputs, **ends, max_new_tokens=want["tokens"], do_sample=False)
answer = output[0, inputs["input_ids"].shape[1] :]
np.savez(sys.argv[2], ids=inputs["input_ids"][0], logits=logits.float(), answer=answer, end=end)
assert not {"projects", "common", "launchers"} & {name.partition(".")[0] for name in sys.modules}
"""


class Made(NamedTuple):
    """A run whose training is played by random steps."""

    folder: Path
    module: LlavaVideo
    config: dict[str, Any]

    @property
    def state(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.module.named_parameters() if value.requires_grad}


def make(folder: Path, *overrides: str, scale: float = 0.05) -> Made:
    cfg = compose("paths.run=.", *overrides)
    module: LlavaVideo = build(plain(cfg)["model"])
    module.configure_model()
    module.eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    made = Made(folder, module, plain(cfg))
    make_run(folder, made.state)
    (folder / "config.yaml").write_text(as_yaml(cfg))
    return made


def exported(made: Made, layout: str, *overrides: str) -> Path:
    out = made.folder.parent / f"{made.folder.name}-{layout}"
    export.main(compose(f"ckpt='{made.folder}'", f"paths.run='{out}'", f"export.layout={layout}", *overrides))
    return out / "export"


def clip(folder: Path, count: int, size: int) -> NDArray[np.uint8]:
    """Frames of the size that the model takes, as files and as an array."""
    folder.mkdir()
    frames = np.stack([picture(3 * number, height=size, width=size) for number in range(count)])
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    np.save(folder.with_suffix(".npy"), frames)
    return frames


def ours(made: Made, video: Path, count: int) -> tuple[list[int], NDArray[np.float32], list[int]]:
    """Ids of the prompt, the logits of all its places, and of the greedy answer."""
    recipe = made.config["data"]["train"] | {
        "request": {"video": str(video), "prompt": QUESTION},
        "questions_at_once": 1,
    }
    rows = build(recipe | {"plan": {**recipe["plan"], "frames": count}, "cache": None})()
    asked = rows.collate([rows[Pick(0, 0, 1.0)]])
    assert isinstance(asked, Asked)
    batch = move_data_to_device(asked.batch, "cpu")
    with torch.no_grad():
        vlm = made.module.model.vlm
        hidden = vlm.get_decoder()(inputs_embeds=made.module.embeddings(batch), use_cache=False).last_hidden_state
        logits = vlm.get_output_embeddings()(hidden)[0]
        chosen = answer(
            vlm,
            [made.module.embeddings(batch)[0]],
            decoding=rows.decoding(TOKENS),
            ends=[rows.text.format.tokenizer.eos_token_id],
            names=[""],
        )
    return rows.text.encoded[0].ids.tolist(), logits.float().numpy(), chosen[0]


def fresh(tmp_path: Path, *, model: Path, video: Path, adapter: Path | None = None, onevision: bool = False) -> Any:
    """What a process that knows transformers and peft alone gets from a folder."""
    family, _ = family_of("onevision" if onevision else "llava")
    want = {
        "frames": str(video.with_suffix(".npy")),
        "model": str(model),
        "adapter": None if adapter is None else str(adapter),
        "class": family.model_class.__name__,
        "video": onevision,
        "question": QUESTION,
        "tokens": TOKENS,
    }
    (tmp_path / "want.json").write_text(json.dumps(want))
    (tmp_path / "fresh.py").write_text(FRESH)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "fresh.py", "want.json", "got.npz"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "got.npz")


def same(made: Made, tmp_path: Path, *, count: int, size: int, **where: Any) -> None:
    """The folder gives the ids, the logits and the greedy answer of the run, and frames count."""
    frames = clip(tmp_path / "clip", count, size)
    assert len({frame.tobytes() for frame in frames}) == count
    ids, logits, said = ours(made, tmp_path / "clip", count)
    got = fresh(tmp_path, video=tmp_path / "clip", **where)
    assert got["ids"].tolist() == ids
    width = logits.shape[1]
    assert np.abs(got["logits"][:, :width] - logits).max() < 1e-4
    assert np.all(got["logits"][:, width:] < got["logits"][:, :width].max(axis=1, keepdims=True))
    assert got["answer"].tolist()[: len(said)] == said
    assert len(said) == TOKENS or got["answer"][len(said)] == got["end"]
    with torch.no_grad():  # and all of this depends on what was trained
        for parameter in made.module.parameters():
            parameter.mul_(0.5 if parameter.requires_grad else 1.0)
    assert np.abs(ours(made, tmp_path / "clip", count)[1] - logits).max() > 1e-2


# The shipped tiny models: composed when the run was built, head tied, no row for the placeholder


@pytest.mark.parametrize("experiment", [pytest.param("llava_video_tiny", marks=SLOW), "llava_video_lora_tiny"])
def test_a_composed_model_is_merged(experiment: str, tmp_path: Path) -> None:
    made = make(tmp_path / "run", f"experiment={experiment}")
    folder = exported(made, "merged", "export.max_shard_bytes=1000000")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert {path.name for path in folder.glob("*.safetensors")} == set(index["weight_map"].values())
    assert all(path.stat().st_size <= 1_010_000 for path in folder.glob("*.safetensors"))
    assert index["metadata"]["total_size"] == sum(header.nbytes for header in Weights(folder).headers.values())
    assert json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"] == 96
    same(made, tmp_path, count=3, size=64, model=folder)


def test_a_composed_model_has_no_base_for_an_adapter(tmp_path: Path) -> None:
    made = make(tmp_path / "run", "experiment=llava_video_lora_tiny")
    with pytest.raises(WeightsError, match=r"weights=random.*export\.layout=merged"):
        exported(made, "adapter")
    with pytest.raises(WeightsError, match=r"export\.base=.*leave export\.base out"):
        exported(made, "merged", "export.base=common/tiny/weights/clip")


# Files, named as the published ones are


def published(folder: Path, tokenizer: PreTrainedTokenizerFast, *, name: str = "llava", **changes: Any) -> Path:
    """A base as it lies on the Hub: names of 2023, bfloat16 unless said otherwise."""
    family, _ = family_of(name)
    dtype = changes.pop("dtype", "float32")
    settings = architecture(tokenizer, family=family, **changes)
    model: PreTrainedModel = build_vlm(family=family, weights="random", architecture=settings, dtype=dtype, seed=5)
    model.config.use_cache = True
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    old = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in tensors.items()}
    assert "language_model.model.norm.weight" in old
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "max_new_tokens": 9}))
    return folder


@pytest.fixture(scope="module")
def base(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("base") / "llava", tokenizer)


def settings(base: Path, *, lora: Mapping[str, tuple[int, int]], whole: Sequence[str] = ()) -> list[str]:
    """The recipe of the published model on a base of this size."""
    learns = {part: part in whole for part in ("vision", "projector", "language_model")}
    overrides = [f"model.train.{part}={str(learns[part]).lower()}" for part in learns]
    for part in learns:
        overrides += [f"model.adapters.{part}={LORA % lora[part]}"] if part in lora else []
        overrides += [f"model.lr.{part}={'1e-3' if part in lora or part in whole else 'null'}"]
    shown = [f"data.train.tokens_per_frame={GRID}", f"data.train.image_size={SIZE}"]
    where = [f"model.model.weights='{base}'", f"data.train.annotations='{base / 'rows.json'}'"]
    return ["experiment=llava_video", *overrides, *shown, *where]


ADAPTED: dict[str, tuple[dict[str, tuple[int, int]], list[str]]] = {
    "language model": ({"language_model": (2, 4)}, []),
    "and the projector whole": ({"language_model": (2, 4)}, ["projector"]),
    "and the vision tower": ({"language_model": (2, 4), "vision": (3, 3)}, []),
    "and the vision tower whole": ({"language_model": (2, 4)}, ["projector", "vision"]),
}
MERGED = ("and the vision tower", "full")


@pytest.mark.parametrize("case", [pytest.param(case, marks=SLOW) if "tower" in case else case for case in ADAPTED])
def test_an_adapter_loads_in_peft(case: str, base: Path, tmp_path: Path) -> None:
    lora, whole = ADAPTED[case]
    made = make(tmp_path / "run", *settings(base, lora=lora, whole=whole))
    folder = exported(made, "adapter")
    trained = {name for name in load_file(folder / "adapter_model.safetensors") if f".{ADAPTER}" in name}
    assert len(trained) == sum(f".{ADAPTER}" in name for name in made.state)
    same(made, tmp_path, count=5, size=SIZE, model=base, adapter=folder)


@pytest.mark.parametrize("case", ["and the projector whole", *(pytest.param(x, marks=SLOW) for x in MERGED)])
def test_files_are_merged(case: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora, whole = ADAPTED.get(case, ({}, ["vision", "projector", "language_model"]))
    made = make(tmp_path / "run", *settings(base, lora=lora, whole=whole))
    with monkeypatch.context() as patch:  # no model is built: tensors go from file to file
        patch.delattr("projects.llava_video.base._made_new")
        patch.delattr("transformers.PreTrainedModel.from_pretrained")
        folder = exported(made, "merged", "export.max_shard_bytes=20000")
    assert Weights(folder).headers == {name: Weights(folder).headers[name] for name in Weights(base).headers}
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [
        made.module.recipes["tokenizer"]().convert_tokens_to_ids("<|im_end|>"),
        0,
    ]
    assert json.loads((folder / "config.json").read_text()) == json.loads((base / "config.json").read_text())
    same(made, tmp_path, count=2, size=SIZE, model=folder)


@SLOW
def test_onevision_is_merged(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    base = published(tmp_path / "base", tokenizer, name="onevision")
    template = "data.train.template._target_=common.text.prompt.llava_onevision"
    whole = ["vision", "projector", "language_model"]
    made = make(tmp_path / "run", *settings(base, lora={}, whole=whole), "model=llava_onevision", template)
    folder = exported(made, "merged")
    same(made, tmp_path, count=5, size=SIZE, model=folder, onevision=True)


def test_what_peft_has_no_place_for_is_refused(base: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    full = make(tmp_path / "full", *settings(base, lora={}, whole=["projector"]))
    with pytest.raises(WeightsError, match=r"no adapters .*export\.layout=merged"):
        exported(full, "adapter")
    lm = make(tmp_path / "lm", *settings(base, lora={"vision": (2, 2)}, whole=["language_model"]))
    with pytest.raises(WeightsError, match=r"learned whole, .*export\.layout=merged"):
        exported(lm, "adapter")
    other = published(tmp_path / "onevision", tokenizer, name="onevision")
    overrides = settings(other, lora={"language_model": (2, 2)}, whole=["projector"])
    newline = make(tmp_path / "newline", *overrides, "model=llava_onevision")
    with pytest.raises(WeightsError, match=r"model\.image_newline learned whole"):
        exported(newline, "adapter")


# Dtypes


def test_the_dtype_is_that_of_the_base_or_chosen(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    base = published(tmp_path / "base", tokenizer, dtype="bfloat16")
    made = make(tmp_path / "run", *settings(base, lora={}, whole=["language_model"]))
    assert {value.dtype for value in made.state.values()} == {torch.float32}
    folder = exported(made, "merged")
    assert {header.dtype for header in Weights(folder).headers.values()} == {torch.bfloat16}
    model = AutoModelForImageTextToText.from_pretrained(folder)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.get_parameter(name), made.state[f"model.vlm.{name}"].bfloat16())
    out = compose(
        f"ckpt='{made.folder}'", f"paths.run='{tmp_path}/wide'", "export.layout=merged", "export.dtype=float32"
    )
    export.main(out)
    wide = AutoModelForImageTextToText.from_pretrained(tmp_path / "wide" / "export")
    assert wide.dtype == torch.float32
    assert torch.equal(wide.get_parameter(name), made.state[f"model.vlm.{name}"])
    with pytest.raises(ConfigError, match=r"export\.dtype=float32: the layout adapter has its own"):
        exported(made, "adapter", "export.dtype=float32")
    with pytest.raises(ConfigError, match=r"export\.dtype=int8: bfloat16"):
        exported(made, "merged", "export.dtype=int8")


def test_an_adapter_is_added_in_float32_and_rounded_once(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    base = published(tmp_path / "base", tokenizer, dtype="bfloat16")
    made = make(tmp_path / "run", *settings(base, lora={"language_model": (2, 8)}), "model.model.dtype=bfloat16")
    folder = exported(made, "merged")
    name = "language_model.model.layers.1.self_attn.q_proj.weight"
    layer = "model.vlm.model.language_model.layers.1.self_attn.q_proj"
    first, second = (made.state[f"{layer}.lora_{factor}.default.weight"] for factor in "AB")
    assert first.dtype == torch.float32
    wanted = (Weights(base).read(name).float() + 4 * second @ first).bfloat16()
    assert torch.equal(Weights(folder).read(name), wanted)
    assert not torch.equal(wanted, Weights(base).read(name))


# The base


def test_another_base_is_refused(base: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    made = make(tmp_path / "run", *settings(base, lora={"language_model": (2, 4)}, whole=["projector"]))
    wider = published(tmp_path / "wider", tokenizer, text_config=TEXT_WIDER)
    for layout in ("merged", "adapter"):
        with pytest.raises(WeightsError, match=r"trained tensors are not in .*export\.base"):
            exported(made, layout, f"export.base='{wider}'")
    family = published(tmp_path / "family", tokenizer, name="onevision")
    with pytest.raises(WeightsError, match=r"is of a llava_onevision, the run of a llava; .*export\.base"):
        exported(made, "merged", f"export.base='{family}'")
    with pytest.raises(WeightsError, match=r"no such folder.*export\.base=<folder>"):
        exported(made, "merged", "export.base=nowhere")
    tensors = load_file(wider / "model.safetensors")
    lost = tensors.pop("language_model.model.norm.weight")
    assert lost.ndim == 1
    save_file(tensors, wider / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 parameters of LlavaForConditionalGeneration"):
        exported(made, "merged", f"export.base='{wider}'")
    assert not list(tmp_path.glob("run-*/export"))


TEXT_WIDER = {
    "model_type": "qwen2",
    "vocab_size": 330,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


def test_a_base_that_moved_is_named(base: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(base)
    made = make(tmp_path / "run", *settings(moved, lora={"language_model": (2, 4)}))
    moved.unlink()
    with pytest.raises(WeightsError, match=r"export\.base=<folder>"):
        exported(made, "merged")
    folder = exported(made, "merged", f"export.base='{base}'")
    assert len(Weights(folder).headers) == len(Weights(base).headers)


# Beside the weights


def test_frames_are_squashed_as_in_training(base: Path, tmp_path: Path) -> None:
    made = make(tmp_path / "run", *settings(base, lora={"language_model": (2, 4)}))
    processor = AutoImageProcessor.from_pretrained(exported(made, "merged"))
    frame = picture(4, height=90, width=60)
    pixels = processor(images=Image.fromarray(frame), return_tensors="pt").pixel_values[0]
    ours = torch.from_numpy(resize(frame[None], SIZE, SIZE, "bicubic")[0]).permute(2, 0, 1)
    assert pixels.shape == (3, SIZE, SIZE)
    assert (pixels * 127.5 + 127.5 - ours).abs().max() <= 1.01  # two libraries round to whole numbers


def test_the_card_says_what_the_run_was(base: Path, tmp_path: Path) -> None:
    made = make(tmp_path / "run", *settings(base, lora={"language_model": (2, 4)}, whole=["projector"]))
    card = ModelCard.load(exported(made, "merged") / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "video-text-to-text")
    for line in (
        "_target_: common.video.plan.UniformFrames",
        "frames: 5",
        "rows.json",
        "| `model.lr.projector` | 0.001 |",
        "| `model.adapters.language_model.rank` | 2 |",
        "| `model.vlm.model.multi_modal_projector` | 4 |",
        "AutoModelForImageTextToText",
    ):
        assert line in card.text
    assert ModelCard.load(exported(made, "adapter") / "README.md").data.library_name == "peft"


def test_a_run_and_its_checkpoint_agree(base: Path, tmp_path: Path) -> None:
    """What the fresh processes are compared with is what `evaluate` would load."""
    made = make(tmp_path / "run", *settings(base, lora={"language_model": (2, 4)}))
    module: LlavaVideo = build(made.config["model"])
    module.configure_model()
    load_trained(module, made.state, source="run")
    for name, value in module.named_parameters():
        assert torch.equal(value, made.module.get_parameter(name)), name
