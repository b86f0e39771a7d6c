"""Perfect predictions follow every instruction; those that ignore the instruction or the history follow none."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from common.shapes_world.edits import INSTRUCTIONS, Edit, draw_edits
from projects.pix2pix_video.instruction_check import Sighting, followed, follows, sighting

SIZE = 32
Pairs = list[tuple[Edit, Edit]]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return [draw_edits(seed=9, split="test", index=index, size=SIZE, frames=20, lead=4) for index in range(40)]


def tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


def smeared(picture: Tensor) -> Tensor:
    """As a coarse autoencoder leaves it: half the resolution, and noise."""
    small = torch.nn.functional.avg_pool2d(picture.float()[None], 2)
    large = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")[0]
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(0)) * 10
    return (large + noise).round().clamp(0, 255).to(torch.uint8)


def seen(pairs: Pairs, predict: object) -> dict[str, Sighting]:
    """Sightings where row `side` of each pair predicts `predict(pair, side)`."""
    rows = {}
    for index, pair in enumerate(pairs):
        for side, edit in enumerate(pair):
            rows[f"{index}/{side}"] = sighting(
                row=f"{index}/{side}",
                pair=str(index),
                kind=edit.kind,
                pred=predict(pair, side),  # type: ignore[operator]
                truth=tensor(edit.target(size=SIZE)),
            )
    return rows


def test_true_targets_follow_every_instruction(pairs: Pairs) -> None:
    found = followed(seen(pairs, lambda pair, side: tensor(pair[side].target(size=SIZE))))
    assert found["followed"].value == 1
    assert found["followed"].cases == 40
    kinds = {f"followed/{one}+{two}" for one, two in combinations(sorted(INSTRUCTIONS), 2)}
    assert set(found) == {"followed", *kinds}
    assert sum(found[kind].cases for kind in kinds) == 40


def test_smeared_targets_do_too(pairs: Pairs) -> None:
    found = followed(seen(pairs, lambda pair, side: smeared(tensor(pair[side].target(size=SIZE)))))
    assert found["followed"].value == 1


@pytest.mark.parametrize(
    "predict",
    [
        lambda pair, side: tensor(pair[1 - side].target(size=SIZE)),  # the other instruction
        lambda pair, side: tensor(pair[0].target(size=SIZE)),  # always the same one
        lambda pair, side: tensor(pair[0].history(size=SIZE)[-1]),  # a copy of the last frame
        lambda pair, side: torch.full((3, SIZE, SIZE), 30, dtype=torch.uint8),  # nothing
    ],
)
def test_what_ignores_the_instruction_follows_no_pair(pairs: Pairs, predict: object) -> None:
    assert followed(seen(pairs, predict))["followed"].value == 0


def test_a_prediction_that_guesses_the_way_follows_half_of_the_pairs_it_recolours(pairs: Pairs) -> None:
    # Right colour, but continuing or returning by a coin: pairs of these two kinds fail half of the time or more.
    coin = np.random.default_rng(0)

    def guess(pair: tuple[Edit, Edit], side: int) -> Tensor:
        edit = pair[side]
        kind = edit.kind if edit.kind == "recolour" else ("continue", "return")[int(coin.integers(2))]
        return tensor(Edit(edit.thing, edit.background, kind, edit.colour, edit.frames, edit.lead).target(size=SIZE))

    found = followed(seen(pairs, guess))
    assert found["followed/continue+return"].high < 0.6
    assert found["followed/continue+recolour"].value == 1  # they differ in colour alone
    assert 0 < found["followed/recolour+return"].value < 1


def test_rows_without_their_partner_make_no_pair(pairs: Pairs) -> None:
    rows = seen(pairs[:3], lambda pair, side: tensor(pair[side].target(size=SIZE)))
    del rows["1/0"]
    assert followed(rows)["followed"].cases == 2
    assert followed({"1/1": rows["1/1"]}) == {}


def test_what_is_not_of_this_world_is_named() -> None:
    grey = torch.full((3, SIZE, SIZE), 30, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"row 7: no object .*follow=false"):
        sighting(row="7", pair="a", kind="continue", pred=grey, truth=grey)


def test_targets_that_do_not_differ_are_an_error(pairs: Pairs) -> None:
    rows = seen(pairs[:1], lambda pair, side: tensor(pair[side].target(size=SIZE)))
    with pytest.raises(ValueError, match="do not differ"):
        follows(rows["0/0"], rows["0/0"])
