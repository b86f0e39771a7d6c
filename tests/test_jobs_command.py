"""What a job of a sweep is told: words for the newest run are settled when it is submitted; what a search refuses."""

from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from common.config import ConfigError
from launchers.jobs import _pinned
from launchers.search import OptunaSweeper, searched
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


def test_what_nothing_can_be_drawn_from_is_named() -> None:
    pytest.importorskip("optuna")
    (override,) = OverridesParser.create().parse_overrides(["model.lr=tag(log,interval(0,1))"])
    with pytest.raises(ConfigError, match=r"model\.lr=tag\(log,interval\(0,1\)\): .*low > 0"):
        searched(override)


@pytest.mark.parametrize(("trials", "at_once"), [(0, 1), (1, 0)])
def test_a_search_has_jobs(trials: int, at_once: int) -> None:
    with pytest.raises(ConfigError, match="1 or more of each"):
        OptunaSweeper(trials=trials, at_once=at_once, seed=0, storage=None, params={})
