"""Traps of the libraries below us that a careless line would fall into again: looked for in the sources themselves.

What can be shown by running it is tested where it is made; these are the rest.
"""

import ast
import re
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from common import run as runs
from common.callbacks.checkpointing import loop_state
from common.checkpoint import NAME
from common.data.order import GlobalOrder, MicroBatches
from common.parallel import FullySharded
from launchers.command import compose

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("common", "launchers", "projects") for path in (ROOT / folder).rglob("*.py"))
YAML = sorted((ROOT / "conf").rglob("*.yaml"))


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Each node of each source, with its file."""
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in SOURCES}
    return [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]


def calls(*names: str) -> dict[str, list[ast.Call]]:
    """Calls of functions and methods of these names, by file."""
    found: dict[str, list[ast.Call]] = {}
    for path, node in nodes():
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names:
            found.setdefault(path, []).append(node)
    return found


# Checkpoints


def test_one_place_saves_checkpoints_of_a_run() -> None:
    saving = {path: [ast.unparse(each.func) for each in found] for path, found in calls("save_checkpoint").items()}
    assert saving.pop("common/callbacks/checkpointing.py") == ["trainer.save_checkpoint"]
    for path, found in saving.items():  # strategies hand on what it asks for
        assert path in ("common/parallel.py", "common/zero.py"), path
        assert set(found) <= {"super().save_checkpoint", "DDPStrategy.save_checkpoint"}, (path, found)
    assert "enable_checkpointing: false" in (ROOT / "conf" / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["ModelCheckpoint", "WeightAveraging", "save_hyperparameters"])
def test_what_copies_or_saves_more_than_trains_is_not_used(name: str) -> None:
    assert not [path for path in [*SOURCES, *YAML] if name in path.read_text()]


def test_checkpoints_are_read_as_tensors_alone() -> None:
    for path, found in calls("load").items():
        for call in found:
            if ast.unparse(call.func) == "torch.load":
                safe = {each.arg: ast.unparse(each.value) for each in call.keywords}.get("weights_only")
                assert safe == "True", f"{path}: {ast.unparse(call)}"


def test_names_of_checkpoints_and_runs_are_values_of_the_command_line(tmp_path: Path) -> None:
    name = f"step_{12:07d}.ckpt"
    assert NAME.fullmatch(name)
    path = f"{runs.run_folder('train', 'outputs', 'video_chatgpt_tiny', None)}/checkpoints/{name}"
    (parsed,) = OverridesParser.create().parse_overrides([f"ckpt={path}"])
    assert parsed.value() == path


def test_two_runs_of_one_second_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        moment = datetime(2026, 1, 1)

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            cls.moment += timedelta(milliseconds=1)
            return cls.moment

    monkeypatch.setattr(runs, "datetime", Clock)
    assert len({runs.run_folder("train", "outputs", "a", None) for _ in range(3)}) == 3


# Order and counters


def test_what_a_callback_finds_at_a_step_another_has_left_there() -> None:
    order = list(compose("callbacks=ema").callbacks)
    assert order.index("ema") < order.index("checkpointing")  # saves the average of the step
    assert order.index("fence") < order.index("metrics_log") < order.index("stopping")  # a stopped step is reported
    assert order.index("stopping") < order.index("checkpointing")  # stops what that makes up for at the start


def test_a_sampler_that_starts_later_has_the_length_of_the_whole_run() -> None:
    order = GlobalOrder(rows=20, global_batch=4, steps=10, seed=0)
    late = MicroBatches(order, micro=2, accumulate=2, rank=0, world=1, first_step=7)
    assert len(late) == 20
    assert sum(1 for _ in late) == 6


@pytest.mark.parametrize("accumulate", [1, 4])
def test_counters_of_the_loop_are_those_of_the_world_that_resumes(accumulate: int) -> None:
    counted = {"ready": 14, "started": 14, "processed": 14, "completed": 13}
    saved = {
        "epoch_loop.batch_progress": {"total": dict(counted), "current": dict(counted), "is_last_batch": True},
        "epoch_loop.val_loop.batch_progress": {"total": dict(counted), "current": dict(counted), "is_last_batch": True},
        "epoch_loop.state_dict": {"_batches_that_stepped": 6},
        "epoch_progress": {"total": dict(counted), "current": dict(counted)},
    }
    state = loop_state(saved, step=7, accumulate=accumulate)
    for part in ("total", "current"):
        assert set(state["epoch_loop.batch_progress"][part].values()) == {7 * accumulate}
        assert set(state["epoch_loop.val_loop.batch_progress"][part].values()) == {0}
    assert state["epoch_loop.state_dict"]["_batches_that_stepped"] == 7
    assert saved["epoch_loop.batch_progress"]["total"] == counted


def test_a_seed_is_never_asked_whether_it_is_there_by_its_truth() -> None:
    for path, node in nodes():
        tests = [node.test] if isinstance(node, ast.If | ast.IfExp | ast.While) else []
        tests += node.values[:-1] if isinstance(node, ast.BoolOp) else []
        for each in tests:
            assert not re.fullmatch(r"(not )?(\w+\.)*seed", ast.unparse(each)), f"{path}: {ast.unparse(node)[:80]}"


def test_fsdp_splits_over_all_processes() -> None:
    strategy = FullySharded(processes=6)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (6, 1)
    assert strategy._save_distributed_checkpoint is False


# Files of the configuration


def test_no_missing_value_stands_in_flow_style() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in YAML
        for line in path.read_text().splitlines()
        if re.search(r"[{\[][^#]*\?\?\?", line) and not re.search(r"[\"']\?\?\?[\"']", line)
    ]
    assert not found
