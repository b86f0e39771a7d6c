"""What trains in which stage, what it depends on, and that the tower is reached."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.callbacks.seeding import Seeding
from common.checkpoint import load_file
from common.encoders.tower import ContrastiveTower, load_tower
from common.types import Pick
from projects.genhancer.distillation import Distillation
from projects.genhancer.guards import TowerLearnsNothingError
from projects.genhancer.module import GenHancer
from tests.projects.genhancer.small_run import (
    CLIP,
    LORA,
    Squares,
    batch_of,
    configured,
    fit,
    make_data,
    make_module,
    trainer_of,
)


def state_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def moved(module: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}


# What trains


def test_the_first_stage_trains_projectors_and_denoiser_alone(tmp_path: Path) -> None:
    module = configured()
    before = state_of(module)
    tower = module.seeing()
    frozen = state_of(tower)
    fit(module, make_data(), tmp_path)
    assert moved(module, before) == before.keys()
    assert all(name.startswith("reconstructor.") for name in before)
    assert not moved(tower, frozen)
    assert not tower.training
    assert not any(each.requires_grad for each in tower.parameters())


@pytest.mark.parametrize("conditions", [1, 3])
@pytest.mark.parametrize("condition", ["class", "patches"])
def test_the_second_stage_trains_the_vision_tower_too(condition: str, conditions: int, tmp_path: Path) -> None:
    module = configured(second=True, condition=condition)
    before = state_of(module)
    fit(module, make_data(steps=3, conditions=conditions), tmp_path)
    changed = moved(module, before)
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    assert changed == trained
    tower = {name for name in changed if name.startswith("tower.")}
    assert tower
    assert all("lora_" in name for name in tower)
    assert not any("text" in name for name in tower)
    assert {name for name in before if name.startswith("reconstructor.")} <= changed


def test_only_trains_the_tower_only(tmp_path: Path) -> None:
    fit(make_module(), make_data(), tmp_path / "first")
    module = configured(second=True, train="only", stage1=str(tmp_path / "first"))
    before = state_of(module)
    trainer = fit(module, make_data(steps=2), tmp_path / "second")
    assert all(name.startswith("tower.") for name in moved(module, before))
    saved = load_file(Path(trainer.default_root_dir) / "checkpoints" / "step_0000002.ckpt")["state_dict"]
    assert saved.keys() == {name for name, value in module.named_parameters() if value.requires_grad}


def test_a_whole_tower_learns_but_its_texts_do_not(tmp_path: Path) -> None:
    module = configured(second=True, adapters=None, whole=True)
    before = state_of(module)
    fit(module, make_data(), tmp_path)
    tower = {name for name in moved(module, before) if name.startswith("tower.")}
    sides = ("tower.model.vision_model.", "tower.model.visual_projection.")
    assert tower == {name for name in before if name.startswith(sides)}


def test_texts_are_read_as_by_the_base_bit_by_bit(tmp_path: Path) -> None:
    module = make_module(second=True)
    base = module.recipes["tower"]()
    fit(module, make_data(), tmp_path)
    words = ["a red circle", "two blue squares"]
    module.eval()
    assert torch.equal(module.tower.texts(words), base.texts(words))
    pictures = batch_of(Squares()).conditions
    assert pictures is not None
    assert not torch.equal(module.tower.images(pictures[:, 0]), base.images(pictures[:, 0]))


def test_masters_are_float32_whatever_the_base_is_read_in() -> None:
    module = configured(second=True, tower=partial(load_tower, weights=CLIP, dtype="bfloat16"))
    assert {value.dtype for value in module.parameters() if value.requires_grad} == {torch.float32}


def test_weight_decay_leaves_what_is_frozen_alone(tmp_path: Path) -> None:
    module = configured(second=True, weight_decay=0.5)
    frozen = {name: value for name, value in state_of(module).items() if not module.get_parameter(name).requires_grad}
    fit(module, make_data(), tmp_path)
    assert frozen
    assert all(torch.equal(module.get_parameter(name), value) for name, value in frozen.items())


# The first stage in the second


def test_the_second_stage_starts_where_the_first_ended(tmp_path: Path) -> None:
    first = make_module()
    fit(first, make_data(), tmp_path)
    second = configured(second=True, stage1=str(tmp_path))
    for name, value in first.reconstructor.state_dict().items():
        assert torch.equal(second.reconstructor.state_dict()[name], value), name
    batch = batch_of(Squares())
    with torch.no_grad():
        assert torch.equal(first.errors(batch, first.see(batch)), second.errors(batch, second.eval().see(batch)))


# Gradients into the tower


def test_embeddings_of_the_second_stage_carry_gradients_and_of_the_first_none() -> None:
    batch = batch_of(Squares(rows=2))
    assert configured(second=True).see(batch).embeddings.requires_grad
    assert not configured().see(batch).embeddings.requires_grad


def test_a_tower_inside_no_grad_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault of the published video mode."""
    plain = ContrastiveTower.forward
    monkeypatch.setattr(ContrastiveTower, "forward", lambda self, pixels: torch.no_grad()(plain)(self, pixels))
    with pytest.raises(TowerLearnsNothingError, match="ran under no_grad"):
        fit(make_module(second=True), make_data(), tmp_path)


def test_a_denoiser_that_does_not_look_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings with a gradient that is zero: the guard looks at what arrives."""
    monkeypatch.setattr(GenHancer, "see", blind)
    with pytest.raises(TowerLearnsNothingError, match="in 2 steps no gradient reached"):
        fit(make_module(second=True, guard_steps=2), make_data(steps=4), tmp_path)


PLAIN_SEE = GenHancer.see


def blind(module: GenHancer, batch: Any) -> Any:
    seen = PLAIN_SEE(module, batch)
    return seen._replace(embeddings=seen.embeddings * 0)


def test_cached_embeddings_are_refused_where_the_tower_learns_or_patches_are_wanted() -> None:
    batch = batch_of(Squares(rows=2, cached=True))
    for module in (configured(second=True), configured(condition="patches")):
        with pytest.raises(ValueError, match=r"cached embeddings .* data\.train\.embeddings=null"):
            module.see(batch)
    assert torch.equal(configured().see(batch).embeddings, batch.embeddings)


# Dropout of the adapters


def test_dropout_is_active_in_training_and_nowhere_else() -> None:
    module = configured(second=True, adapters=partial(LORA, dropout=0.5))
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = batch_of(Squares(rows=2))

    def twice() -> tuple[Tensor, Tensor]:
        return module.see(batch).embeddings, module.see(batch).embeddings

    assert not torch.equal(*twice())
    module.eval()
    assert torch.equal(*twice())
    module.train()
    assert not torch.equal(*twice())


# The term that keeps embeddings where they were


def test_distillation_is_measured_from_the_tower_before_its_adapters() -> None:
    batch = batch_of(Squares(rows=2))
    assert batch.conditions is not None
    module = configured(second=True, distillation=Distillation(weight=3.0)).eval()
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    base = module.recipes["tower"]().images(batch.conditions.flatten(0, 1))
    distance = 1 - torch.nn.functional.cosine_similarity(base, module.tower.images(batch.conditions.flatten(0, 1)))
    assert distance.min() > 1e-4
    kept = module.training_step(batch, 0)
    kept.backward()
    assert all(value.grad is not None for value in module.tower.parameters() if value.requires_grad)
    module.distillation = None
    plain = module.training_step(batch, 0)
    assert float(kept.detach() - plain.detach()) == pytest.approx(3.0 * float(distance.detach().mean()), rel=1e-3)


def test_of_captions_only_the_nearness_is_held(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red ring\n\na blue square\n")
    batch = batch_of(Squares(rows=2))
    assert batch.conditions is not None
    distillation = Distillation(weight=30.0, captions=str(tmp_path / "captions.txt"))
    module = configured(second=True, distillation=distillation).eval()
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    base, changed = module.recipes["tower"](), module.tower
    pictures, texts = batch.conditions.flatten(0, 1), ["a red ring", "a blue square"]
    before, after = (each.logits(each.images(pictures), base.texts(texts)) for each in (base, changed))
    wanted = ((after - before) / base.model.logit_scale.exp()).square().mean()
    kept = module.training_step(batch, 0)
    module.distillation = None
    plain = module.training_step(batch, 0)
    assert float(wanted) > 1e-6
    assert float(kept - plain) == pytest.approx(30.0 * float(wanted), rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight": -1.0}, ValueError, r"distillation\.weight=-1\.0: 0 or more"),
        ({"weight": 1.0, "captions": []}, ValueError, r"holds no texts; null holds the whole embedding"),
        ({"weight": 1.0, "captions": "no.txt"}, FileNotFoundError, r"captions=no\.txt is not a file"),
    ],
)
def test_distillation_refuses_what_it_cannot_hold(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Distillation(**arguments)


def test_distillation_needs_a_base_to_compare_with() -> None:
    with pytest.raises(ValueError, match=r"model\.adapters\.biases=false"):
        configured(second=True, distillation=Distillation(weight=1.0), adapters=partial(LORA, biases=True))
    with pytest.raises(ValueError, match=r"model\.whole=true has none"):
        make_module(second=True, distillation=Distillation(weight=1.0), adapters=None, whole=True)


# The control


def test_shuffled_conditions_are_those_of_another_sample() -> None:
    rows = Squares(rows=2)
    module = configured(shuffle=True)
    batch = batch_of(rows, 0, 1)
    swapped = batch._replace(conditions=batch.conditions.flip(0))  # type: ignore[union-attr]
    with torch.no_grad():
        found = module.errors(batch, module.see(batch))
        module.shuffle = False
        assert torch.allclose(found, module.errors(swapped, module.see(swapped)))
        assert not torch.allclose(found, module.errors(batch, module.see(batch)), rtol=1e-5)
    with pytest.raises(ValueError, match=r"shuffle=true needs 2 samples"):
        configured(shuffle=True).training_step(batch_of(rows, 0), 0)


# The loss


def test_the_loss_by_hand() -> None:
    module = configured()
    batch = batch_of(Squares(rows=3, conditions=2))
    with torch.no_grad():
        posterior = module.codec.encode(batch.target)
        mean, logvar = posterior.mean.half().float(), posterior.logvar.half().float()
        clean = (mean + (logvar / 2).exp() * batch.draws.posterior) * module.codec.scaling_factor
        t = torch.sigmoid(batch.draws.normal)
        share = t.view(-1, 1, 1, 1)
        noisy = (1 - share) * clean + share * batch.draws.noise
        embeddings = module.seeing().images(batch.conditions.flatten(0, 1)).view(3, 2, 64)
        found = module.reconstructor(noisy, t, embeddings, batch.times)
        wanted = ((found - (batch.draws.noise - clean)) ** 2).mean(dim=(1, 2, 3))
        torch.testing.assert_close(module.errors(batch, module.see(batch)), wanted)
        torch.testing.assert_close(module.training_step(batch, 0), wanted.mean())


def test_micro_batches_add_up() -> None:
    module = configured(second=True).eval()
    rows = Squares(rows=4)
    whole = batch_of(rows)
    parts = [rows.collate([Pick(row, row, 2.0) for row in numbers]) for numbers in ([0, 1, 2], [3])]
    with torch.no_grad():
        mean = sum(float(module.training_step(part, 0)) for part in parts) / 2
        assert mean == pytest.approx(float(module.training_step(whole, 0)), rel=1e-5)


# Keys


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tower_lr": 1e-5}, r"tower_lr belongs to a tower that learns"),
        ({"second": True, "tower_lr": None}, r"tower_lr belongs to a tower that learns"),
        ({"second": True, "whole": True}, r"set model\.adapters=null"),
        ({"second": True, "train": "some"}, r'train=some: "all" or "only"'),
        ({"train": "only"}, r"belong to the second stage"),
        ({"stage1": "x"}, r"belong to the second stage"),
        ({"distillation": Distillation(weight=1.0)}, r"belong to the second stage"),
        ({"second": True, "train": "only"}, r"must come from model\.stage1"),
    ],
)
def test_keys_that_contradict_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(**changes)


# Resumption


@pytest.mark.parametrize("second", [False, True])
def test_a_run_goes_on_exactly(second: bool, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"second": second}
    if second:
        fit(make_module(), make_data(), tmp_path / "first")
        changes |= {"stage1": str(tmp_path / "first"), "adapters": partial(LORA, dropout=0.3)}
    seeding = {"callbacks": [Seeding(seed=0)]}
    whole = make_module(**changes)
    fit(whole, make_data(steps=4), tmp_path / "whole", **seeding)
    again = make_module(**changes)
    data = make_data(steps=4)
    trainer = trainer_of(tmp_path / "again", data, **seeding)
    checkpoint = tmp_path / "whole" / "checkpoints" / "step_0000002.ckpt"
    trainer.fit(again, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    assert trainer.global_step == 4
    assert all(torch.equal(value, dict(again.named_parameters())[name]) for name, value in whole.named_parameters())
