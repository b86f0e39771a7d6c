"""Machines: their variables reach the processes, several cards and nodes compose, what is too small says so."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from common.config import ConfigError, plain
from common.environment import set_timeout
from common.memory.refusal import TooSmallError
from launchers.command import compose
from launchers.machine import ready, refuse_unclaimed

ROOT = Path(__file__).resolve().parents[1]
TWO = ["hw=cpu", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true", "data.pin_memory=false"]
TWO += ["data.num_workers=0", "batch.global=4", "batch.micro=2", "steps=1", "validate_every=1", "prepare=[]"]


def cell(*words: str) -> Any:
    return compose(*words, "paths.run=unused")


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_any_number_of_cards_of_one_machine(devices: int) -> None:
    cfg = plain(cell("experiment=video_chatgpt", "hardware=gpu", f"trainer.devices={devices}"))
    assert cfg["trainer"]["accumulate_grad_batches"] * devices * cfg["batch"]["micro"] == 32


def test_nodes_take_part_in_the_global_batch() -> None:
    cfg = plain(
        cell("experiment=genhancer_image_stage1", "hardware=a100x8_fsdp", "trainer.num_nodes=2", "batch.micro=16")
    )
    assert cfg["trainer"]["accumulate_grad_batches"] == 1
    assert cfg["trainer"]["strategy"]["processes"] == 16


def test_variables_are_set_and_the_command_line_may_add_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NCCL_P2P_DISABLE", "NCCL_DEBUG"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    ready(cell("experiment=video_chatgpt", "hardware=rtx4090", "environment.NCCL_DEBUG=INFO"))
    assert (os.environ["NCCL_P2P_DISABLE"], os.environ["NCCL_DEBUG"]) == ("1", "INFO")


@pytest.mark.parametrize("strategy", [DDPStrategy, ModelParallelStrategy])
def test_the_strategies_of_lightning_take_the_timeout(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_TIMEOUT", "7200")
    made = strategy()
    set_timeout(made)
    assert made._timeout.total_seconds() == 7200


def test_a_machine_that_is_too_small_is_refused_by_the_estimate() -> None:
    """0.1 GB do not hold what CUDA itself takes."""
    with pytest.raises(TooSmallError, match=r"on gpu0\.1, 1 x ddp, .*each device needs 0\.\d GB .*has 0\.1 GB"):
        refuse_unclaimed(cell("hardware=gpu", "hw=gpu0.1", "batch.micro=64"))


@pytest.mark.slow
def test_the_whole_model_on_one_small_card_is_refused_with_what_fits() -> None:
    with pytest.raises(
        TooSmallError, match=r"each device needs 1\d\d\.\d GB .*optimizer 53\.9 GB.*has 24\.0 GB"
    ) as told:
        refuse_unclaimed(cell("experiment=video_chatgpt_full", "hardware=rtx4090"))
    assert "claimed on cpu, gpu80, gpu141" in str(told.value)
    assert re.search(
        r"fsdp over 8 of them \(\d+\.\d GB, saves \d+\.\d GB\)|nothing that is known fits", str(told.value)
    )


def test_a_class_without_a_claim_needs_the_micro_batch() -> None:
    words = ("hardware=rtx4090", "~batch.micro_on.gpu24")
    with pytest.raises(ConfigError, match=r"names no micro-batch for gpu24 .*give batch.micro_on.gpu24=1"):
        refuse_unclaimed(cell(*words))
    refuse_unclaimed(cell(*words, "batch.micro=64"))


@pytest.mark.slow
def test_variables_are_there_before_the_processes_meet(shapes: Path, tmp_path: Path) -> None:
    """An interface that is not there keeps two processes from meeting: the variable was read when they did."""
    for interface, code in (("lo", 0), ("nowhere0", 1)):
        where = [
            f"paths.data='{shapes}'",
            f"paths.outputs='{tmp_path}'",
            f"+environment.GLOO_SOCKET_IFNAME={interface}",
        ]
        command = [sys.executable, "-m", "launchers.train", "hardware=a100x8", *TWO, *where]
        clean = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
        ended = subprocess.run(
            command, cwd=ROOT, env=clean | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        assert bool(ended.returncode) == bool(code), ended.stderr[-3000:]
        assert ("Unable to find address for: nowhere0" in ended.stderr) == bool(code)
