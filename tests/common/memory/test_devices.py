"""The division over devices: against published arithmetic, and by made-up steps."""

from dataclasses import replace

import pytest

from common.memory.devices import CONTEXT, Need, need
from common.memory.ledger import Moment
from common.memory.run import MemoryRun, strategy_of
from common.memory.sizes import Sizes
from common.memory.trace import Trace
from launchers.command import compose
from launchers.machine import memory_run

# 1,000 trained numbers in float32 and 100 frozen in bfloat16; blocks of 200 numbers, 180 of them trained.
SIZES = Sizes(
    frozen=200,
    trained=4000,
    frozen_count=100,
    trained_count=1000,
    root=400,
    root_trained=400,
    units_count=1000,
    largest_count=200,
    largest_trained_count=180,
    packable=0,
    packable_count=0,
    packable_largest_count=0,
)


def made_up(weights: str) -> Trace:
    width = 4 if weights == "own" else 2
    moments = (Moment(5000, 100, 0), Moment(3000, 50, 1000 * width))
    return Trace(sizes=SIZES, gradients=1000 * width, states=2000 * width, moments=moments, step=1000 * width)


def test_one_device_holds_everything_at_the_highest_moment() -> None:
    alone = need(made_up, strategy="ddp", devices=1, gpu=False)
    assert alone == Need(200, 4000, 4000, 8000, 0, 4000, "the optimizer step")
    kept = need(made_up, strategy="ddp", devices=1, gpu=True, accumulate=2)
    assert kept == Need(200, 4000, 4000, 8000, 5000, 100 + CONTEXT, "forward and backward")


def test_ddp_adds_buckets_as_large_as_the_gradients() -> None:
    alone, two = (need(made_up, strategy="ddp", devices=count, gpu=False, accumulate=2) for count in (1, 2))
    assert two.total - alone.total == 4000


def test_zero2_divides_gradients_and_states() -> None:
    for devices in (1, 2, 8):
        found = need(made_up, strategy="zero2", devices=devices, gpu=False)
        assert (found.frozen, found.trained) == (200, 2000)
        assert found.gradients == 2000 / devices
        assert found.optimizer == 12_000 / devices


def test_fsdp_divides_everything_and_gathers_a_few_blocks() -> None:
    found = need(made_up, strategy="fsdp", devices=4, gpu=False)
    assert (found.frozen, found.trained, found.gradients, found.optimizer) == (50, 1000, 1000, 2000)
    assert found.rest == 100 + 400 + 400 + 3 * 2 * 200 + 10 * 180


@pytest.fixture(scope="module")
def full() -> MemoryRun:
    return memory_run(compose("experiment=llava_video", "hardware=a100x8_zero2", "paths.run=unused"))


def test_zero2_of_the_published_model(full: MemoryRun) -> None:
    """16.3 GB of weights, 16.3 GB / N of gradients, 97.8 GB / N of master and Adam: 130, 73, 45, 31 GB."""
    for devices, expected in {1: 130e9, 2: 73e9, 4: 45e9, 8: 31e9}.items():
        found = full.need(strategy="zero2", devices=devices)
        held = found.frozen + found.trained + found.gradients + found.optimizer
        assert held == pytest.approx(expected, rel=0.03)


def test_the_guides_hardware_holds_the_published_model(full: MemoryRun) -> None:
    assert (full.strategy, full.devices, full.capacity) == ("zero2", 8, 80e9)
    assert full.need().total < 80e9
    assert full.need(devices=2).total > 80e9


def test_adapters_fit_a_card_of_24_gb_by_recomputation() -> None:
    small, large = (
        memory_run(
            compose(
                "experiment=llava_video_lora",
                "hardware=rtx4090",
                "paths.run=unused",
                f"model.model.checkpoint_fraction={share}",
            )
        )
        for share in (1.0, 0.5)
    )
    found = small.need()
    assert small.capacity is not None
    assert found.frozen == pytest.approx(16.3e9, rel=0.01)
    assert found.total < small.capacity < large.need().total
    every_logit = 3800 * 152_000 * (2 + 4 + 4)  # bfloat16, float32 and the gradient, were they at all positions
    assert found.total + every_logit > small.capacity
    assert small.need(packed=True).total < found.total - 9e9


def test_without_mixed_precision_blocks_are_gathered_in_float32() -> None:
    mixed = need(made_up, strategy="fsdp", devices=4, gpu=False)
    whole = need(lambda form: replace(made_up(form), width=4), strategy="fsdp", devices=4, gpu=False)
    assert whole.total > mixed.total
    words = ("hardware=a100x8_fsdp", "hw=cpu", "trainer.accelerator=cpu", "trainer.precision=32-true")
    run = memory_run(compose("experiment=pix2pix_video_tiny", "paths.run=unused", *words, "batch.micro=1"))
    assert run.need().total > 0


def test_activations_of_a_frozen_decoder() -> None:
    """129 KiB a token and layer: 2.4 GiB for 600 tokens."""
    run = memory_run(
        compose("experiment=video_chatgpt", "hardware=rtx4090", "batch.micro_on.gpu24=1", "paths.run=unused")
    )
    assert run.need().activations == pytest.approx(600 * 32 * 129 * 1024, rel=0.05)


@pytest.mark.parametrize(
    ("node", "strategy"),
    [
        ("auto", "ddp"),
        ("ddp", "ddp"),
        ({"_target_": "common.parallel.FullySharded"}, "fsdp"),
        ({"_target_": "common.zero.Zero"}, "zero2"),
        ("deepspeed_stage_2", "zero2"),
    ],
)
def test_a_strategy_is_known_by_its_name(node: object, strategy: str) -> None:
    assert strategy_of(node) == strategy
