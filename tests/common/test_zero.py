"""DeepSpeed's configuration: every auto has a value of the run, or is an error."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from common.config import ConfigError, plain
from common.optim import parameter_groups, warmup_cosine
from common.zero import Zero, optimizer_values, resolve, run_values, schedule_values, sendable
from launchers.command import compose


def document() -> dict[str, Any]:
    cfg = compose("paths.run=run", "experiment=video_chatgpt", "hardware=a100x8_zero2")
    return plain(cfg)["trainer"]["strategy"]["config"]


def values(precision: str = "bf16-mixed") -> dict[str, Any]:
    trainer: Any = SimpleNamespace(
        datamodule=SimpleNamespace(global_batch=32, micro_batch=2),
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        precision=precision,
    )
    linear, other = nn.Linear(3, 3), nn.Linear(3, 3)
    parts = {"projector": (linear.parameters(), 1e-3), "decoder": (other.parameters(), 1e-5)}
    optimizer = torch.optim.AdamW(parameter_groups(parts, weight_decay=0.1))
    schedule = warmup_cosine(optimizer, steps=100, warmup=0.03)
    return run_values(trainer) | optimizer_values(optimizer) | schedule_values(schedule, steps=100)


def autos(node: Any) -> int:
    return sum(autos(value) for value in node.values()) if isinstance(node, dict) else int(node == "auto")


def test_every_auto_of_the_shipped_configuration_is_resolved() -> None:
    assert autos(document()) >= 12
    resolved = resolve(document(), values())
    assert autos(resolved) == 0
    assert resolved["train_batch_size"] == 32
    assert resolved["train_micro_batch_size_per_gpu"] == 2
    assert resolved["gradient_accumulation_steps"] == 2
    assert resolved["gradient_clipping"] == 1.0
    assert resolved["bf16"] == {"enabled": True}
    assert resolved["zero_optimization"] == document()["zero_optimization"]


def test_the_optimizer_is_shown_by_group_where_groups_differ() -> None:
    shown = resolve(document(), values())
    assert shown["optimizer"]["type"] == "AdamW"
    params = shown["optimizer"]["params"]
    names = ["projector", "projector/no_decay", "decoder", "decoder/no_decay"]
    assert params["lr"] == dict(zip(names, [1e-3, 1e-3, 1e-5, 1e-5], strict=True))  # before the warm-up, not its start
    assert params["weight_decay"] == dict(zip(names, [0.1, 0.0, 0.1, 0.0], strict=True))
    assert params["eps"] == 1e-8
    schedule = shown["scheduler"]
    assert schedule["type"] == "warmup_cosine"
    assert schedule["params"]["warmup_min_lr"] == 0
    assert schedule["params"]["warmup_max_lr"] == params["lr"]
    assert schedule["params"]["warmup_num_steps"] == 3
    assert schedule["params"]["total_num_steps"] == 100


def test_an_auto_without_a_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"config\.zero_optimization\.reduce_bucket_size=auto"):
        resolve({"zero_optimization": {"reduce_bucket_size": "auto"}}, values())


def test_without_deepspeed_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[deepspeed\]'"):
        Zero(config=document())


def test_stage_three_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="stage=3: 1 or 2"):
        Zero(config={"zero_optimization": {"stage": 3}})


def test_the_strategy_takes_the_configuration() -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed (pip install -e '.[deepspeed]')")
    assert Zero(config=document()).document == document()


def test_what_deepspeed_sends_as_bytes_has_its_shape_and_order_afterwards() -> None:
    frozen = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last).requires_grad_(False)
    single = nn.Conv2d(4, 6, 1).to(memory_format=torch.channels_last)  # is_contiguous() is true of both orders
    temperature = nn.Parameter(torch.tensor(2.5))
    parameters = [*frozen.parameters(), *single.parameters(), temperature]
    values, strides = [each.detach().clone() for each in parameters], [each.stride() for each in parameters]
    with sendable(parameters):
        for each in parameters:
            each.data.view(torch.uint8)
    for each, value in zip(parameters, values, strict=True):
        assert torch.equal(each, value)
    assert [each.stride() for each in frozen.parameters()] == strides[:2]
    assert frozen.weight.is_contiguous(memory_format=torch.channels_last)


def test_autocast_is_on_in_mixed_precision_alone() -> None:
    table = (("bf16-mixed", True, True), ("bf16-true", True, False), ("32-true", False, False))
    for precision, weights, autocast in table:
        resolved = resolve(document(), values(precision))
        assert resolved["bf16"]["enabled"] is weights
        assert resolved["torch_autocast"]["enabled"] is autocast
