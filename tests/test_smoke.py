"""Every tiny experiment, found by itself: train, resume, evaluate, generate, export, on the built-in data."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig
from safetensors.torch import load_file

from common.checkpoint import committed
from common.loggers import read_metrics
from launchers import evaluate, export, generate, train
from launchers.command import compose, prepare
from tests.experiments import tiny
from tests.stages import first_stage

SIZES = [
    "task.clips={train:24,val:6,test:12}",
    "task.edits={train:24,val:6,test:12}",
    "task.pairs={train:12,val:6,test:6}",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smoke")


def configure(experiment: str, root: Path, *overrides: str) -> DictConfig:
    overrides = (*first_stage(experiment, root / "data"), *overrides)
    small = ["steps=4", "validate_every=2", "batch.global=4", "batch.micro=2", "batch.eval=8", "request.count=2"]
    always = [
        f"paths.data={root}/data",
        f"paths.run={root}/{experiment}",
        "callbacks.metrics_log.every=1",
        "prepare=[]",
    ]
    return compose(f"experiment={experiment}", *small, *always, *overrides)


@pytest.mark.parametrize("experiment", tiny())
def test_train_resume_evaluate_generate_export(experiment: str, root: Path) -> None:
    bare = compose(f"experiment={experiment}", "paths.run=.", f"paths.data={root}/data")
    prepare([[*each, *SIZES] if "task=shapes" in each else each for each in bare.prepare], paths=bare.paths)
    cfg = configure(experiment, root)
    run = root / experiment
    objective = train.main(cfg)
    assert objective is not None
    first = read_metrics(run / "metrics.csv")

    newest = committed(run / "checkpoints")[-1]
    newest.unlink()  # as if the last checkpoint had never been written
    newest.with_suffix(".json").unlink()
    train.main(configure(experiment, root, f"ckpt={run}"))
    again = read_metrics(run / "metrics.csv")
    assert len((run / "metrics.csv").read_text().splitlines()) > 1 + sum(len(steps) for steps in first.values())
    for name in ("train/loss", cfg.objective):
        assert sorted(again[name]) == sorted(first[name])
        assert again[name] == first[name]

    rows_of_other_runs = [f"~compare.{row}" for row, ckpt in cfg.compare.items() if ckpt != "none"]
    evaluate.main(configure(experiment, root, f"ckpt={run}", *rows_of_other_runs, f"paths.run={run}/evaluated"))
    rows = json.loads((run / "evaluated" / "metrics.json").read_text())["rows"]
    untrained = {row for row, ckpt in cfg.compare.items() if ckpt == "none"}
    assert untrained
    assert {*cfg.data.test, *untrained} <= rows.keys()

    generate.main(configure(experiment, root, f"ckpt={run}", f"paths.run={run}/generated"))
    assert len((run / "generated" / "generated.jsonl").read_text().splitlines()) == 2

    export.main(configure(experiment, root, f"ckpt={run}", f"paths.run={run}/exported"))
    assert load_file(run / "exported" / "export" / "trained.safetensors")
