"""What trains and what does not: each part whole, by adapters, or not at all."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from common.data.module import StreamData
from common.lora import add_lora
from common.optim import trainable_table, warmup_constant
from projects.llava_video.families import PARTS, part_of, unused_vision
from projects.llava_video.module import LlavaVideo
from tests.projects.llava_video.tiny import (
    LORA,
    VISION,
    architecture,
    batch_of,
    entry,
    family_of,
    make_module,
    make_rows,
)

ENTRIES = [entry("long.mp4"), entry("four", "Red?", "Yes, it is."), entry(None, "Is it?", "Yes."), entry("seven.mp4")]
TARGETS = {
    "vision": ["q_proj", "v_proj", "fc1", "out_proj"],
    "projector": ["linear_1", "linear_2"],
    "language_model": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
ADAPTERS = {part: partial(add_lora, targets=targets, **LORA) for part, targets in TARGETS.items()}
WHOLE = [parts for count in (1, 2, 3) for parts in itertools.combinations(PARTS, count)]
# (learns whole, learns by adapters)
MIXED = [
    ((), PARTS),
    ((), ("language_model",)),
    (("projector",), ("language_model", "vision")),
    (("vision",), PARTS[1:]),
]
CASES = [("llava", whole, ()) for whole in WHOLE] + [("llava", *each) for each in MIXED]
CASES += [("onevision", PARTS, ()), ("onevision", ("projector",), ()), ("onevision", *MIXED[0])]


def learner(
    tokenizer: PreTrainedTokenizerFast, whole: Sequence[str], adapted: Sequence[str] = (), **changes: Any
) -> LlavaVideo:
    adapters = {part: ADAPTERS[part] for part in adapted}
    return make_module(tokenizer, train=whole, adapters=adapters, **changes)


def fit(
    module: LlavaVideo, clips: Path, tokenizer: PreTrainedTokenizerFast, *, steps: int = 3, name: str = "llava"
) -> tuple[Trainer, dict[str, Tensor]]:
    module.configure_model()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    rows = partial(make_rows, clips, ENTRIES, tokenizer, name=name)
    data = StreamData(
        train=rows,
        val=rows,
        test={},
        predict=rows,
        global_batch=4,
        micro_batch=2,
        eval_batch=4,
        seed=0,
        steps=steps,
        epochs=None,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    return trainer, before


@pytest.mark.parametrize(("name", "whole", "adapted"), CASES)
def test_what_learns_moves_and_the_rest_stays_bit_equal(
    name: str, whole: Sequence[str], adapted: Sequence[str], clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    module = learner(tokenizer, whole, adapted, name=name, weight_decay=0.5)
    trainer, before = fit(module, clips, tokenizer, name=name)
    trains = {name: p for name, p in module.named_parameters() if p.requires_grad}
    still = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    assert not [name for name, p in still.items() if not torch.equal(p, before[name])]
    assert {part_of(name.removeprefix("model.vlm.")) for name in trains} == {*whole, *adapted}
    for part in adapted:
        own = [name for name in trains if part_of(name.removeprefix("model.vlm.")) == part]
        assert own
        assert all("lora_" in name for name in own)
    groups = trainer.optimizers[0].param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in trains.values())
    names = {id(p): part_of(name.removeprefix("model.vlm.")) for name, p in trains.items()}
    for group in groups:
        assert {names[id(p)] for p in group["params"]} == {group["name"].partition("/")[0]}
        assert group["initial_lr"] == module.lr[group["name"].partition("/")[0]]
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.5}


@pytest.mark.parametrize(("name", "whole", "adapted"), CASES)
def test_every_trainable_moves_without_weight_decay(
    name: str, whole: Sequence[str], adapted: Sequence[str], clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    module = learner(tokenizer, whole, adapted, name=name)
    _, before = fit(module, clips, tokenizer, name=name)
    stuck = [name for name, p in module.named_parameters() if p.requires_grad and torch.equal(p, before[name])]
    # The keys' bias shifts all scores of a query alike: softmax does not see it.
    assert not [name for name in stuck if not name.endswith("k_proj.bias")]


@pytest.mark.parametrize(
    ("layer", "kind", "blocks"), [(-1, "siglip", ()), (-2, "siglip", (2,)), (-2, "clip", (2,)), (1, "clip", (1, 2))]
)
@pytest.mark.parametrize("adapted", [False, True])
def test_blocks_behind_the_selected_layer_are_frozen(
    layer: int, kind: str, blocks: Sequence[int], adapted: bool, clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    vision = VISION if kind == "siglip" else {**VISION, "model_type": "clip_vision_model", "vision_use_head": None}
    vision = {key: value for key, value in vision.items() if value is not None}
    strategy = "full" if kind == "siglip" else "default"
    shape = architecture(
        tokenizer,
        family=family_of("llava")[0],
        vision_config=vision,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    parts = ((), ("vision",)) if adapted else (("vision",), ())
    module = learner(tokenizer, *parts, model={"architecture": shape})
    module.configure_model()
    vlm = module.model.vlm
    frozen = set(unused_vision(vlm))
    idle = {int(name.split("layers.")[1].split(".")[0]) for name in frozen if "layers." in name}
    assert idle == set(blocks)
    assert any("post_layernorm" in name for name in frozen)
    batch = batch_of(make_rows(clips, ENTRIES, tokenizer))
    module.training_step(batch, 0).backward()
    for name, parameter in vlm.named_parameters():
        if part_of(name) == "vision":
            if name in frozen:
                assert not parameter.requires_grad, name
            elif parameter.requires_grad:
                assert parameter.grad is not None, name  # none is left without: data parallelism would wait for it
    assert not adapted or any("lora_" in name for name in frozen) == bool(blocks)


def test_adapters_are_float32_in_a_base_of_bfloat16(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    module = learner(tokenizer, (), ("language_model",), model={"dtype": "bfloat16"})
    _, before = fit(module, clips, tokenizer)
    trains = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trains.values()} == {torch.float32}
    assert {p.dtype for name, p in module.named_parameters() if name not in trains} == {torch.bfloat16}
    assert not [name for name, p in trains.items() if torch.equal(p, before[name])]


# Keys that contradict each other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": ()}, "nothing learns"),
        ({"train": ("vision",), "adapters": {"vision": ADAPTERS["vision"]}}, r"model\.adapters\.vision=null"),
        ({"train": ("vision",), "lr": {"vision": 1.0, "projector": 1.0}}, r"model\.lr\.projector belongs"),
        ({"train": ("vision", "projector"), "lr": {"vision": 1.0}}, r"model\.lr\.projector belongs"),
        (
            {"train": (), "adapters": {"projector": ADAPTERS["projector"]}, "lr": {"vision": 1.0}},
            r"model\.lr\.vision belongs",
        ),
    ],
)
def test_keys_that_contradict_are_refused(
    arguments: Mapping[str, Any], message: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(tokenizer, **arguments)


def test_unknown_parts_are_named(tokenizer: PreTrainedTokenizerFast) -> None:
    module = make_module(tokenizer)
    module.train_whole["audio"] = True
    with pytest.raises(ValueError, match=r"model\.train names vision, projector, language_model, audio"):
        module._check_parts()


@pytest.mark.parametrize("part", PARTS)
def test_a_pattern_that_matches_nothing_is_an_error(part: str, tokenizer: PreTrainedTokenizerFast) -> None:
    adapters = {part: partial(add_lora, targets=[*TARGETS[part], "nowhere"], **LORA)}
    module = make_module(tokenizer, train=(), adapters=adapters)
    with pytest.raises(ValueError, match=r"nowhere matches no linear layer; there is .*" + TARGETS[part][0]):
        module.configure_model()


# What is told


def test_the_table_has_the_numbers(
    clips: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    module = learner(tokenizer, ("projector",), ("language_model",))
    with caplog.at_level(logging.INFO):
        fit(module, clips, tokenizer, steps=1)
    (table,) = [record.getMessage() for record in caplog.records if "what trains:" in record.getMessage()]
    lines = {line.split()[0]: line for line in table.splitlines()[1:]}
    width, hidden = 16, 32
    projector = (width * hidden + hidden) + (hidden * hidden + hidden)
    shapes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]  # of q k v o gate up down
    adapters = 2 * sum(2 * (first + second) for first, second in shapes)  # two blocks, rank 2
    assert f"{projector:,} of {projector:,} (float32)" in " ".join(lines["projector"].split())
    assert f" {adapters:,} of " in " ".join(lines["language_model"].split())
    assert " 0 of " in " ".join(lines["vision"].split())


def test_the_table_tells_types_apart() -> None:
    mixed = [
        torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16), requires_grad=False),
        torch.nn.Parameter(torch.zeros(2)),
    ]
    assert trainable_table({"part": mixed}).split() == [
        "what",
        "trains:",
        "part",
        "2",
        "of",
        "5",
        "(bfloat16,",
        "float32)",
    ]


@pytest.mark.parametrize(("steps", "warmup", "rates"), [(5, 2, [0, 0.5, 1, 1, 1]), (4, 100, [0, 0.25, 0.5, 0.75])])
def test_warm_up_is_clamped_to_the_run_with_a_warning(
    steps: int, warmup: int, rates: Sequence[float], caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with caplog.at_level(logging.WARNING):
        schedule = warmup_constant(optimizer, steps=steps, warmup=warmup)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(rates)
    assert ("warmup=100 in a run of 4 steps" in caplog.text) == (warmup > steps)
