"""From a trained run to the published layouts and back, through the commands, at tiny size."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors import torch as safe
from transformers import AutoModelForCausalLM

from common.chat.decoder import target_logits
from common.checkpoint import CheckpointError, Manifest, checksum, commit, load_file, locate
from common.config import ConfigError
from common.text.tokenizer import load_tokenizer
from common.weights.source import Weights, WeightsError
from launchers import evaluate, export, generate, train
from launchers.command import compose, run_task
from launchers.trained import trained_module
from projects.video_chatgpt.layouts import PUBLISHED_FILE

EXPERIMENT = "video_chatgpt_tiny_projector"
WEIGHTS = Path(__file__).resolve().parents[3] / "common" / "tiny" / "weights" / "causal_lm"
BASE = Path(gettempdir()) / f"framelab-untied-{os.getpid()}"


@pytest.fixture(scope="module", autouse=True)
def untied() -> Iterator[None]:
    """The shipped language model with a head of its own, as the published one has."""
    shutil.copytree(WEIGHTS, BASE)
    config = json.loads((WEIGHTS / "config.json").read_text()) | {"tie_word_embeddings": False}
    tensors = {name: value.float() for name, value in safe.load_file(WEIGHTS / "model.safetensors").items()}
    (BASE / "config.json").write_text(json.dumps(config))
    safe.save_file(
        tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, BASE / "model.safetensors"
    )
    yield
    shutil.rmtree(BASE)


def configure(shapes: Path, run: Path, *overrides: str) -> DictConfig:
    small = ["steps=2", "validate_every=2", "batch.global=8", "batch.micro=8", "batch.eval=8", "request.count=2"]
    where = [f"paths.data='{shapes}'", f"paths.run='{run}'", "prepare=[]", "~compare.projector_only"]
    where += [f"model.language_model.weights='{BASE}'"]
    return compose(f"experiment={EXPERIMENT}", "model.lr=0.1", *small, *where, *overrides)


def task(name: str, shapes: Path, *overrides: str) -> Any:
    where = [f"paths.data='{shapes}'", "paths.run=.", f"task.base='{BASE}'"]
    return run_task(compose(f"task={name}", *where, *overrides, config_name="prepare"))


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "trained"
    train.main(configure(shapes, folder))
    return folder


@pytest.fixture(scope="module")
def published(run: Path, shapes: Path) -> Path:
    return export_as("adapter", run, run.parent / "published", shapes) / PUBLISHED_FILE


@pytest.fixture(scope="module")
def imported(run: Path, published: Path, shapes: Path) -> Path:
    return adopt(run.parent / "imported", published, shapes)


def export_as(layout: str, run: Path, target: Path, shapes: Path, *overrides: str) -> Path:
    wanted = [f"ckpt='{run}'", f"export.layout={layout}", f"export.target='{target}'"]
    export.main(configure(shapes, run.parent / "exporting", *wanted, *overrides))
    return target


def variant(run: Path, folder: Path, **changes: torch.Tensor) -> Path:
    """A copy of a run whose checkpoint holds further trained tensors, or others."""
    shutil.copytree(run, folder)
    final = locate(str(folder), folder)
    content = load_file(final) | {"state_dict": state(run) | changes}
    temporary = final.with_name(f".{final.name}.part")
    torch.save(content, temporary)
    size, crc32 = temporary.stat().st_size, checksum(temporary)
    commit(temporary, final, Manifest(step=2, samples=16, size=size, crc32=crc32, objective="val/loss"))
    return folder


def adopt(folder: Path, adapter: Path, shapes: Path, *overrides: str) -> Path:
    rows = json.loads((WEIGHTS / "config.json").read_text())["vocab_size"]  # <vid_patch> is the first after them
    ids = [f"task.start_id={rows + 1}", f"task.end_id={rows + 2}"]
    paths = [f"task.adapter='{adapter}'", f"task.run='{folder}'"]
    model = ["model@task.model=video_chatgpt_tiny", f"task.model.language_model.weights='{BASE}'"]
    task("import_adapter", shapes, *model, *paths, *ids, *overrides)
    return folder


def state(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(locate(str(run), run.parent))["state_dict"])


def test_published_and_imported_again_are_the_same_tensors(run: Path, imported: Path) -> None:
    before, after = state(run), state(imported)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_imported_run_scores_and_answers_as_the_trained_one(run: Path, imported: Path, shapes: Path) -> None:
    rows, answers = [], []
    for folder in (run, imported):
        out = folder.parent / f"{folder.name}_evaluated"
        evaluate.main(configure(shapes, out, f"ckpt='{folder}'"))
        rows.append(json.loads((out / "metrics.json").read_text())["rows"])
        generate.main(configure(shapes, out, f"ckpt='{folder}'"))
        answers.append((out / "generated.jsonl").read_text())
    assert rows[0] == rows[1]
    assert answers[0] == answers[1]
    export.main(configure(shapes, run.parent / "exported", f"ckpt='{imported}'"))
    assert (run.parent / "exported" / "export" / "trained.safetensors").is_file()


def test_a_new_run_starts_from_it_and_resuming_it_is_refused(imported: Path, shapes: Path, tmp_path: Path) -> None:
    train.main(configure(shapes, tmp_path / "new", f"init='{imported}'", "steps=1", "validate_every=1", "model.lr=0"))
    start, after = state(imported), state(tmp_path / "new")
    assert all(torch.equal(start[name], after[name]) for name in start)
    with pytest.raises(ValueError, match="use init= instead of ckpt="):
        train.main(configure(shapes, imported, f"ckpt='{imported}'"))


def test_an_adapter_of_another_model_writes_nothing(published: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"feature_width is 6"):
        adopt(tmp_path / "a", published, shapes, "task.model.feature_width=6")
    with pytest.raises(Exception, match=r"set task\.start_id"):
        adopt(tmp_path / "a", published, shapes, "task.end_id=77")
    assert list(tmp_path.iterdir()) == []


def test_importing_twice_does_it_once(imported: Path, published: Path, shapes: Path) -> None:
    file = locate(str(imported), imported.parent)
    stamp = file.stat().st_mtime_ns
    adopt(imported, published, shapes)
    assert file.stat().st_mtime_ns == stamp
    with pytest.raises(Exception, match="made from something else"):
        adopt(imported, published, shapes, "task.base=null", "task.model.lr=1.0")


def test_the_merged_folder_is_the_model_for_transformers(run: Path, shapes: Path, tmp_path: Path) -> None:
    target = export_as("merged", run, tmp_path / "merged", shapes, "export.max_shard_bytes=500000")
    weights, trained = Weights(target), state(run)
    assert len(weights.files) > 1
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    tokenizer = load_tokenizer(path=str(target))
    start, end = tokenizer.convert_tokens_to_ids(["<vid_start>", "<vid_end>"])
    rows = Weights(BASE).headers["lm_head.weight"].shape[0]
    assert (start, end, model.config.vocab_size, len(tokenizer)) == (rows + 1, rows + 2, rows + 3, rows + 3)
    assert model.generation_config.suppress_tokens == [rows, rows + 1, rows + 2]

    # A prompt with a video through both: embeddings by hand here, by our module there.
    module = trained_module(configure(shapes, tmp_path), locate(str(run), run.parent))
    projector = weights.read("model.mm_projector.weight"), weights.read("model.mm_projector.bias")
    features = torch.randn(1, 4, projector[0].shape[1])
    embedding = model.get_input_embeddings()
    places = torch.tensor([[1, start, 0, 0, 0, 0, end, 5, 6]])
    inputs = embedding(places).clone()
    inputs[:, 2:6] = torch.nn.functional.linear(features, *projector)
    with torch.no_grad():
        theirs = model(inputs_embeds=inputs).logits[0]
        ids = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 5, 6]])
        embedded = module.model.embed(ids, torch.tensor([1]), features)
        ours = target_logits(module.model.language_model, embedded, torch.arange(9))
    torch.testing.assert_close(theirs[:, :rows], ours, rtol=1e-5, atol=1e-5)
    assert (theirs[:, rows:].max(dim=1).values < theirs[:, :rows].max(dim=1).values).all()
    assert torch.equal(embedding.weight[start:], trained["model.boundary"])


def test_a_folder_of_weights_gives_its_projector(run: Path, shapes: Path, tmp_path: Path) -> None:
    target = export_as("merged", run, tmp_path / "merged", shapes)
    folder = adopt(tmp_path / "again", target, shapes)
    assert all(torch.equal(value, state(run)[name]) for name, value in state(folder).items())
    with pytest.raises(Exception, match=r"no mm_projector\.bias"):
        adopt(tmp_path / "none", BASE, shapes)


def test_nothing_to_export_is_said(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run with a checkpoint"):
        export_as("adapter", tmp_path, tmp_path / "x", shapes)


def test_an_unknown_layout_is_answered_with_the_near_one(run: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"export\.layout=mergd: did you mean merged\?"):
        export_as("mergd", run, tmp_path / "x", shapes)
    with pytest.raises(ConfigError, match="there is adapter, merged, trained"):
        export_as("onnx", run, tmp_path / "x", shapes)
    assert not (tmp_path / "x").exists()


def test_another_base_and_a_moved_one_are_named(run: Path, shapes: Path, tmp_path: Path) -> None:
    target = export_as("adapter", run, tmp_path / "a", shapes)
    moved = shutil.copytree(BASE, tmp_path / "moved")
    export_as("adapter", run, target, shapes, f"export.base='{moved}'")  # the same content: nothing to do
    tensors = safe.load_file(moved / "model.safetensors")
    tensors["model.embed_tokens.weight"] += 1
    safe.save_file(tensors, moved / "model.safetensors")
    with pytest.raises(ValueError, match="made from something else"):
        export_as("adapter", run, target, shapes, f"export.base='{moved}'")
    with pytest.raises(WeightsError, match=r"no such folder.*export\.base=<folder>"):
        export_as("adapter", run, tmp_path / "b", shapes, f"export.base='{tmp_path}/none/at/all'")


def test_trained_tensors_without_a_place_are_refused(run: Path, shapes: Path, tmp_path: Path) -> None:
    name = "model.language_model.model.layers.9.mlp.up_proj.weight"
    more = variant(run, tmp_path / "more", **{name: torch.zeros(2, 2)})
    with pytest.raises(WeightsError, match=r"layers\.9\.mlp\.up_proj\.weight.*export\.base"):
        export_as("merged", more, tmp_path / "x", shapes)
    with pytest.raises(WeightsError, match="layout=merged"):
        export_as("adapter", more, tmp_path / "x", shapes)
    assert not (tmp_path / "x").exists()


def test_a_trained_language_model_is_merged(run: Path, shapes: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    moved = {f"model.language_model.{each}": Weights(BASE).read(each) + 1 for each in (name, "lm_head.weight")}
    merged = Weights(export_as("merged", variant(run, tmp_path / "all", **moved), tmp_path / "x", shapes))
    assert torch.equal(merged.read(name), moved[f"model.language_model.{name}"])
    head = moved["model.language_model.lm_head.weight"]
    assert torch.equal(merged.read("lm_head.weight")[: len(head)], head)


def logits_of(folder: Path, features: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """Of a merged folder in transformers alone: a video of some tokens after the opening one, then `ids`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights, tokenizer = Weights(folder), load_tokenizer(path=str(folder))
    start, end = tokenizer.convert_tokens_to_ids(["<vid_start>", "<vid_end>"])
    projector = [weights.read(f"model.mm_projector.{part}").float() for part in ("weight", "bias")]
    visual = torch.nn.functional.linear(features, *projector)
    embedding = model.get_input_embeddings()
    before, after = embedding(torch.tensor([[1, start]])), embedding(torch.tensor([[end, *ids]]))
    with torch.no_grad():
        logits: torch.Tensor = model(inputs_embeds=torch.cat([before, visual, after], dim=1)).logits[0]
    return logits


@pytest.mark.parametrize("experiment", ["video_chatgpt_tiny", "video_chatgpt_lora_tiny"])
def test_what_trained_with_a_tied_head_or_adapters_is_the_same_in_transformers(
    experiment: str, shapes: Path, tmp_path: Path
) -> None:
    base = as_float32(WEIGHTS, tmp_path / "base")
    rates = ["model.lr=0.1", "model.language_model_lr=0.05", f"model.language_model.weights='{base}'"]
    small = ["steps=3", "validate_every=3", "batch.global=8", "batch.micro=8", "batch.eval=8", *rates]
    where = [f"paths.data='{shapes}'", f"paths.run='{tmp_path}/run'", "prepare=[]"]
    cfg = compose(f"experiment={experiment}", *small, *where)
    train.main(cfg)
    wanted = [f"ckpt='{tmp_path}/run'", "export.layout=merged", f"export.target='{tmp_path}/merged'"]
    export.main(compose(f"experiment={experiment}", *small, *where, *wanted))
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False

    module = trained_module(cfg, locate(f"{tmp_path}/run", tmp_path))
    features = torch.randn(1, 4, module.model.projector.in_features)
    with torch.no_grad():
        embedded = module.model.embed(torch.tensor([[1, 0, 0, 0, 0, 0, 0, 5, 6]]), torch.tensor([1]), features)
        ours = module.model.language_model(inputs_embeds=embedded).logits[0]
        before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(inputs_embeds=embedded).logits[0]
    theirs = logits_of(tmp_path / "merged", features, [5, 6])
    torch.testing.assert_close(theirs[:, : ours.shape[1]], ours, rtol=1e-4, atol=1e-4)
    assert (before - ours).abs().max() > 0.1  # the language model moved: what it learned is in the folder


def as_float32(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    tensors = {name: value.float() for name, value in safe.load_file(source / "model.safetensors").items()}
    safe.save_file(tensors, target / "model.safetensors")
    return target
