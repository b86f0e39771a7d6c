"""What a job of a sweep is told: words that mean the newest run are settled when it is submitted."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from launchers.jobs import _pinned
from tests.common.runs import make_run


@pytest.mark.parametrize(
    ("command", "key", "whole_run"),
    [("launchers.train", "ckpt", True), ("launchers.evaluate", "ckpt", False), ("launchers.train", "init", False)],
)
def test_the_last_run_is_the_last_when_the_job_is_submitted(
    tmp_path: Path, command: str, key: str, whole_run: bool
) -> None:
    checkpoint = make_run(tmp_path / "toy" / "first", {"a": torch.zeros(1)})
    paths = {"outputs": str(tmp_path)}
    cfg = OmegaConf.create({"ckpt": None, "init": None, "name": "toy", "paths": paths, key: "last"})
    words = _pinned(["seed=1", f"{key}=last"], cfg, command)
    assert words == ["seed=1", f"{key}='{checkpoint.parents[1] if whole_run else checkpoint}'"]
