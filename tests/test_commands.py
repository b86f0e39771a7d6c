"""What a user sees of a command: help, mistakes answered with the near name, preparation done once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from common.config import ConfigError, accumulate
from common.loggers import read_metrics
from launchers import evaluate, train
from launchers.command import run, run_task
from launchers.generate import talk

ROOT = Path(__file__).resolve().parents[1]


def complaint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> str:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["train", *arguments, f"paths.outputs={tmp_path}", f"paths.data={tmp_path}"])
    with pytest.raises(SystemExit) as left:
        run(train.main, config_name="config")
    GlobalHydra.instance().clear()
    return str(left.value)


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        ("experiment=vido_chatgpt", "did you mean video_chatgpt"),
        ("hardware=a100", "did you mean a100x8"),
        ("modle.lr=3", "no key modle.lr; did you mean model.lr"),
        ("model.optimizer.bettas=1", "did you mean model.optimizer.betas"),
        ("bacth.global=3", "did you mean batch.global"),
        ("seed=abc", "'abc'"),
        ("batch.global=33", "choose batch.micro so that it divides"),
        ("+model.trains=1", "there is|did you mean"),
        ("ckpt=last", "no run with a checkpoint"),
        ("trainer.devices=auto", "trainer.devices=auto: a whole number"),
        ("trainer.devices=-1", "trainer.devices=-1: a whole number"),
        ("batch.micro=0", "batch.micro=0: a whole number"),
        ("seed=-1", "seed=-1: 0 to 4294967295"),
        ("hw=a6000", "hw=a6000: cpu, or gpu and its gigabytes"),
    ],
)
def test_mistakes_are_answered_with_the_near_name(
    argument: str, answer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    message = complaint(monkeypatch, tmp_path, argument)
    assert any(part in message for part in answer.split("|")), message


def test_an_error_of_our_own_is_a_message_and_one_from_below_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ours(cfg: DictConfig) -> None:
        accumulate(33, 2, 1, 1)

    def below(cfg: DictConfig) -> None:
        read_metrics(tmp_path / "metrics.csv")  # where int() is called on what is no number

    (tmp_path / "metrics.csv").write_text("step,name,value,time\none,a,1,0\n")
    monkeypatch.setattr(sys, "argv", ["train", f"paths.outputs={tmp_path}"])
    for function, seen in ((ours, SystemExit), (below, ValueError)):
        GlobalHydra.instance().clear()
        with pytest.raises(seen):
            run(function, config_name="config")
    GlobalHydra.instance().clear()


def test_what_goes_wrong_in_a_task_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_task(OmegaConf.create({"task": {"_target_": "common.files.read_jsonl", "path": f"{tmp_path}/x"}}))


def test_a_talk_needs_a_method_that_answers() -> None:
    with pytest.raises(ConfigError, match=r"request\.chat"):
        talk(object(), object(), object(), video=None)  # type: ignore[arg-type]


def test_help_lists_what_there_is(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    with pytest.raises(SystemExit, match="0"):
        run(train.main, config_name="config")
    shown = capfd.readouterr().out
    for word in ("experiment:", "video_chatgpt_tiny", "hardware:", "a100x8", "logger:", "lr: 0.003"):
        assert word in shown


def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str, data: Path) -> None:
    GlobalHydra.instance().clear()
    where = ["prepare=[]", f"paths.outputs='{tmp_path}'", f"paths.data='{data}'"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *where, *arguments])
    try:
        run(evaluate.main, config_name="config")
    finally:
        GlobalHydra.instance().clear()


def test_a_row_of_a_run_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"compare\.projector_only: no run .* ~compare\.projector_only leaves"):
        command(monkeypatch, tmp_path, "ckpt=none", data=tmp_path)


@pytest.mark.slow
def test_the_untrained_model_is_scored_into_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shapes: Path
) -> None:
    command(monkeypatch, tmp_path, "ckpt=none", "~compare.projector_only", data=shapes)
    (path,) = tmp_path.glob("video_chatgpt_tiny/evaluate_*/metrics.json")
    record = json.loads(path.read_text())
    assert record["checkpoint"] == "none"
    assert record["rows"]["real"] == record["rows"]["before_training"]


@pytest.mark.slow
def test_training_from_none_is_a_new_run(tmp_path: Path, shapes: Path) -> None:
    small = ["steps=2", "validate_every=2", "batch.global=4", "batch.micro=4", "prepare=[]", "ckpt=none"]
    where = [f"paths.data={shapes}", f"paths.outputs={tmp_path}"]
    words = [sys.executable, "-m", "launchers.train", *small, *where]
    subprocess.run(words, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    assert len([*tmp_path.glob("video_chatgpt_tiny/*/checkpoints/last")]) == 1


@pytest.mark.slow
def test_two_first_runs_at_once_prepare_once(tmp_path: Path) -> None:
    small = ["steps=2", "validate_every=2", "batch.global=4", "batch.micro=4"]
    needs = "prepare=[['task=shapes','task.clips={train:20,val:4,test:4}'],['task=clip_features_tiny']]"
    where = [f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/outputs"]
    command = [sys.executable, "-m", "launchers.train", *small, needs, *where]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    logs = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], logs
    assert sorted("'written': 28" in log for log in logs) == [False, True]
    assert len(list((tmp_path / "outputs" / "video_chatgpt_tiny").iterdir())) == 2


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_offline_wandb_run(tmp_path: Path, shapes: Path) -> None:
    small = ["steps=4", "validate_every=2", "batch.global=4", "batch.micro=4", "logger=wandb", "prepare=[]"]
    where = [f"paths.data={shapes}", f"paths.outputs={tmp_path}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    for more in ([], ["ckpt=last"]):
        command = [sys.executable, "-m", "launchers.train", *small, *where, *more]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        for newest in [*tmp_path.glob("*/*/checkpoints/step_0000004.*")] if not more else []:
            newest.unlink()
    (folder,) = (tmp_path / "video_chatgpt_tiny").iterdir()
    runs = list(folder.glob("wandb/offline-run-*"))
    assert {run.name.partition("-video_chatgpt_tiny-")[2] for run in runs} == {folder.name}
    assert (folder / "metrics.csv").is_file()
