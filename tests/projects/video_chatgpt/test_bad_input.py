"""Bad input through the commands: an error that names the file, the row and what to do, and nothing half-written."""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from launchers import train
from launchers.command import compose, run_task

WEIGHTS = Path(__file__).resolve().parents[3] / "common" / "tiny" / "weights" / "causal_lm"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def instruct(count: int = 30) -> list[dict[str, Any]]:
    """VideoInstruct rows, of which row 17 has no answer."""
    rows = [{"q": f"Q{number}?", "a": "A.", "video_id": f"v_{number % 5}"} for number in range(count)]
    del rows[17]["a"]
    return rows


def task(name: str, *words: str) -> Any:
    return run_task(compose(f"task={name}", "paths.run=.", *words, config_name="prepare"))


def training(shapes: Path, run: Path, annotations: Path) -> DictConfig:
    small = ["steps=2", "validate_every=2", "batch.global=2", "batch.micro=2", "prepare=[]"]
    where = [f"paths.data='{shapes}'", f"paths.run='{run}'", f"data.train.annotations='{annotations}'"]
    return compose("experiment=video_chatgpt_tiny", *small, *where)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def refused(folder: Path, message: str) -> Iterator[None]:
    """Expects an error that says `message`, and a folder with the same files as before."""
    before = content(folder)
    with pytest.raises((ValueError, InstantiationException)) as caught:
        yield
    assert message in str(caught.value)
    assert content(folder) == before


@pytest.mark.parametrize("command", ["video_instruct", "clip_features_tiny"])
def test_a_missing_key_in_row_17_ends_a_task(command: str, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.json", instruct())
    words = {
        "video_instruct": [f"task.source='{source}'", f"task.target='{tmp_path}/out'", "task.ids=null"],
        "clip_features_tiny": [f"task.annotations=['{source}']", f"task.cache='{tmp_path}/cache'"],
    }
    with refused(tmp_path, "rows.json row 17, keys: ['q', 'video_id'] lack a of VideoInstruct; mend the row"):
        task(command, f"paths.data='{tmp_path}'", *words[command])


def test_a_missing_key_in_row_17_ends_training_before_it_begins(shapes: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.json", instruct())
    with pytest.raises(Exception, match=r"rows\.json row 17, keys: .* lack a of VideoInstruct; mend the row"):
        train.main(training(shapes, tmp_path / "run", source))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_check_names_row_17_and_the_video_without_features(shapes: Path, tmp_path: Path) -> None:
    """The clips of the built-in data have features; v_9 has none."""
    clip = next((shapes / "shapes" / "clips" / "test").glob("*.mp4"))
    name = str(clip.relative_to(shapes / "shapes"))
    rows = [row | {"video_id": name if number != 20 else "v_9"} for number, row in enumerate(instruct())]
    source = write(tmp_path / "rows.json", rows)
    (cache,) = {path.parent for path in (shapes / "shapes").rglob("index.json")}
    words = [f"task.annotations=['{source}']", "task.media=null", f"task.features='{cache}'"]
    with pytest.raises(Exception, match="2 problems in 30 rows"):
        task("check", *words, f"paths.outputs='{tmp_path}'")
    problems = [
        json.loads(line)["problem"] for line in (tmp_path / "prepare" / "bad_rows.jsonl").read_text().splitlines()
    ]
    assert "rows.json row 17, keys: " in problems[0]
    assert "rows.json row 20, video: v_9 has no features in" in problems[1]
    assert "run the feature task for it, or take the row out" in problems[1]


def test_a_video_without_features_ends_training_before_it_begins(shapes: Path, tmp_path: Path) -> None:
    clip = next((shapes / "shapes" / "clips" / "test").glob("*.mp4"))
    rows = [{"q": "what ?", "a": "red", "video_id": str(clip.relative_to(shapes / "shapes"))}] * 3
    source = write(tmp_path / "rows.json", [*rows, {"q": "what ?", "a": "red", "video_id": "v_9"}])
    with pytest.raises(Exception, match=r"1 videos have no features in .*\['v_9'\].*run the feature task for them"):
        train.main(training(shapes, tmp_path / "run", source))
    assert not list(tmp_path.rglob("*.ckpt"))


class Runs:
    """What a hostile pickle holds: unpickled as usual, it makes a folder."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("ran",)


def test_bad_pickles_make_no_cache_and_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "video_instruct" / "pickles"
    folder.mkdir(parents=True)
    whole = pickle.dumps(np.zeros((356, 1024), np.float16))
    for name, data in {"good": whole, "cut": whole[:-5000], "hostile": pickle.dumps(Runs())}.items():
        (folder / f"{name}.pkl").write_bytes(data)
    with pytest.raises(Exception, match=r"2 of 3 entries failed.*cut\.pkl: .*hostile\.pkl: .*remove .*max_failed"):
        task("import_features", f"paths.data='{tmp_path}'", f"task.folder='{folder}'")
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.rglob("index.json"))  # without which no reader takes the folder for a cache
    assert not list(tmp_path.rglob("*.part"))


def adapter(path: Path, *, width: int, features: int = 128) -> Path:
    """The published layout."""
    rows = json.loads((WEIGHTS / "config.json").read_text())["vocab_size"] + 3
    tensors = {
        "model.embed_tokens.weight": torch.zeros(rows, width),
        "model.mm_projector.weight": torch.zeros(width, features),
        "model.mm_projector.bias": torch.zeros(width),
    }
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 24}, "is for a language model 24 wide, "),
        ({"width": 24, "features": 64}, "projects features 64 wide, model.feature_width is 128; choose the model"),
    ],
)
def test_an_adapter_of_another_width_makes_no_run(sizes: dict[str, int], message: str, tmp_path: Path) -> None:
    path = adapter(tmp_path / "adapter.bin", **sizes)
    with refused(tmp_path, message):
        task("import_adapter", *imported(path, tmp_path / "run"))


def test_a_damaged_adapter_makes_no_run(tmp_path: Path) -> None:
    path = adapter(tmp_path / "adapter.bin", width=24)
    path.write_bytes(path.read_bytes()[:-3000])
    with refused(tmp_path, "adapter.bin: not a whole file of tensors"):
        task("import_adapter", *imported(path, tmp_path / "run"))


def imported(path: Path, run: Path) -> list[str]:
    rows = json.loads((WEIGHTS / "config.json").read_text())["vocab_size"]
    words = ["model@task.model=video_chatgpt_tiny", f"task.base='{WEIGHTS}'", f"task.adapter='{path}'"]
    return [*words, f"task.run='{run}'", f"task.start_id={rows + 1}", f"task.end_id={rows + 2}", "paths.data=."]


def test_an_adapter_that_was_compared_with_no_base_is_refused_by_the_model(shapes: Path, tmp_path: Path) -> None:
    path = adapter(tmp_path / "adapter.bin", width=24)
    words = [word for word in imported(path, tmp_path / "run") if not word.startswith("task.base")]
    tokenizer = f"task.model.tokenizer.path='{WEIGHTS}'"
    task("import_adapter", *words, "task.base=null", f"task.model.language_model.weights='{WEIGHTS}'", tokenizer)
    small = ["steps=2", "validate_every=2", "batch.global=2", "batch.micro=2", "prepare=[]"]
    where = [f"paths.data='{shapes}'", f"paths.run='{tmp_path}/new'", f"init='{tmp_path}/run'"]
    with pytest.raises(
        ValueError, match=r"is of another model; .*projector\.weight: \(24, 128\) in the file, \(\d+, 128\)"
    ):
        train.main(compose("experiment=video_chatgpt_tiny_projector", *small, *where))
    assert not list((tmp_path / "new").rglob("*.ckpt"))
