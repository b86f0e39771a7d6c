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
from common.checkpoint import CheckpointError, load_file, locate
from common.text.tokenizer import load_tokenizer
from common.weights.source import Weights, WeightsError
from launchers import evaluate, export, generate, train
from launchers.command import compose, run_task
from launchers.trained import trained_module
from projects.video_chatgpt.exchange import PUBLISHED_FILE

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
    target = run.parent / "published"
    task("export_published", shapes, f"task.ckpt='{run}'", f"task.target='{target}'")
    return target / PUBLISHED_FILE


@pytest.fixture(scope="module")
def imported(run: Path, published: Path, shapes: Path) -> Path:
    return adopt(run.parent / "imported", published, shapes)


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
    with pytest.raises(Exception, match=r"feature_width is 6") as caught:
        adopt(tmp_path / "a", published, shapes, "task.model.feature_width=6")
    assert isinstance(caught.value.__cause__, WeightsError)
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
    target = tmp_path / "merged"
    arguments = [f"task.ckpt='{run}'", f"task.target='{target}'", "task.layout=merged", "task.max_shard_bytes=500000"]
    task("export_published", shapes, *arguments)
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
    target = tmp_path / "merged"
    task("export_published", shapes, f"task.ckpt='{run}'", f"task.target='{target}'", "task.layout=merged")
    folder = adopt(tmp_path / "again", target, shapes)
    assert all(torch.equal(value, state(run)[name]) for name, value in state(folder).items())
    with pytest.raises(Exception, match=r"no mm_projector\.bias"):
        adopt(tmp_path / "none", BASE, shapes)


def test_nothing_to_export_is_said(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no run with a checkpoint") as caught:
        task("export_published", shapes, f"task.runs='{tmp_path}'", f"task.target='{tmp_path}/x'")
    assert isinstance(caught.value.__cause__, CheckpointError)


def test_trained_tensors_without_a_place_are_refused(run: Path, shapes: Path, tmp_path: Path) -> None:
    extra = {"model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 2)}
    torch.save({"state_dict": state(run) | extra}, tmp_path / "low_rank.ckpt")
    for layout in ("merged", "adapter"):
        arguments = [f"task.ckpt='{tmp_path}/low_rank.ckpt'", f"task.target='{tmp_path}/x'", f"task.layout={layout}"]
        with pytest.raises(Exception, match=r"lora_A\.weight.*merge low-rank adapters"):
            task("export_published", shapes, *arguments)
    assert not (tmp_path / "x").exists()


def test_a_trained_language_model_is_merged(run: Path, shapes: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    moved = {f"model.language_model.{each}": Weights(BASE).read(each) + 1 for each in (name, "lm_head.weight")}
    torch.save({"state_dict": state(run) | moved}, tmp_path / "all.ckpt")
    arguments = [f"task.ckpt='{tmp_path}/all.ckpt'", f"task.target='{tmp_path}/x'"]
    task("export_published", shapes, *arguments, "task.layout=merged")
    merged = Weights(tmp_path / "x")
    assert torch.equal(merged.read(name), moved[f"model.language_model.{name}"])
    head = moved["model.language_model.lm_head.weight"]
    assert torch.equal(merged.read("lm_head.weight")[: len(head)], head)
