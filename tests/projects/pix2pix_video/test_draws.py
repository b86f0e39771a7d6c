"""What is drawn for a sample: how often what is hidden, from what it comes, and what the model then sees."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.data.module import StreamData
from projects.pix2pix_video.data import EditBatch
from projects.pix2pix_video.draws import Draws, draw, stack
from projects.pix2pix_video.latents import NULL
from tests.projects.pix2pix_video.small_run import Small, batch_of, configured, make_data, make_small
from tests.projects.pix2pix_video.small_set import HISTORY, TEXT

COUNT, P = 20_000, 0.05


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


def drawn(position: int, *, seed: int = 0, purpose: str = "train", **changes: Any) -> Draws:
    settings: dict[str, Any] = {"shape": (1, 2, 2), "steps": 1000, "dropout": P}
    return draw(seed, purpose, position, **{**settings, **changes})


def same(first: Draws, second: Draws) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def within(found: int, share: float, count: int = COUNT) -> bool:
    """Inside four standard deviations of the binomial: one of 16,000 such tests fails by chance."""
    return abs(found - count * share) < 4 * (count * share * (1 - share)) ** 0.5


def test_frequencies_are_inside_binomial_bounds() -> None:
    draws = stack([drawn(position) for position in range(COUNT)])
    text, history = ~draws.keep_text, ~draws.keep_history
    found = {
        "text": int((text & ~history).sum()),
        "both": int((text & history).sum()),
        "history": int((history & ~text).sum()),
        "none": int((~text & ~history).sum()),
    }
    assert all(within(found[name], P) for name in ("text", "both", "history")), found
    assert within(found["none"], 1 - 3 * P), found
    # Bounds that can fail: neither twice a share of .05 nor .04 would be inside.
    assert not within(int(2 * COUNT * P), P)
    assert not within(int(0.8 * COUNT * P), P)
    tenths = torch.bincount(draws.timesteps // 100, minlength=10).tolist()
    assert all(within(tenth, 0.1) for tenth in tenths), tenths
    late, hidden = draws.timesteps >= 500, text | history
    assert within(int(late[hidden].sum()), 0.5, int(hidden.sum()))  # what is hidden and how noisy are independent
    for noise in (draws.noise, draws.posterior):
        assert abs(float(noise.mean())) < 4 / noise.numel() ** 0.5
        assert abs(float(noise.std()) - 1) < 4 / (2 * noise.numel()) ** 0.5
    assert abs(float((draws.noise * draws.posterior).mean())) < 4 / draws.noise.numel() ** 0.5


def test_without_dropout_nothing_is_hidden_and_the_rest_is_the_same() -> None:
    kept, some = (stack([drawn(position, dropout=dropout) for position in range(200)]) for dropout in (0.0, 0.3))
    assert kept.keep_text.all()
    assert kept.keep_history.all()
    assert not some.keep_text.all()
    assert torch.equal(kept.noise, some.noise)
    assert torch.equal(kept.timesteps, some.timesteps)


def test_a_draw_depends_on_seed_purpose_and_position() -> None:
    first = drawn(7)
    torch.manual_seed(1)
    assert same(first, drawn(7))
    for other in (drawn(8), drawn(7, purpose="val"), drawn(7, seed=1)):
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.posterior, other.posterior)
    assert not torch.equal(first.noise, first.posterior)


def test_seed_zero_is_a_seed() -> None:
    assert same(drawn(3, seed=0), drawn(3, seed=0))
    assert not torch.equal(drawn(3, seed=0).noise, drawn(3, seed=1).noise)
    state = torch.random.get_rng_state()
    drawn(3, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing comes from, or goes to, the process


# Batches, ranks, worlds


def batches(data: StreamData, *, rank: int, world: int) -> Iterator[EditBatch]:
    """Micro-batches of one rank."""
    accumulate = data.global_batch // (data.micro_batch * world)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, accumulate_grad_batches=accumulate)  # type: ignore[assignment]
    yield from data.train_dataloader()


def by_noise(small: Small, *, micro: int, world: int) -> dict[bytes, tuple[int, str, list[Any]]]:
    """What each sample of four global batches is, by its noise: row, prompt, and the rest of its draws."""
    found: dict[bytes, tuple[int, str, list[Any]]] = {}
    for rank in range(world):
        for batch in batches(make_data(small, steps=4, micro=micro, dropout=0.25), rank=rank, world=world):
            for place, row in enumerate(batch.rows.tolist()):
                own = [part[place].tolist() for part in batch.draws]
                key = batch.draws.noise[place].numpy().tobytes()
                assert key not in found
                found[key] = (row, batch.prompts[place], own)
    return found


def test_draws_are_the_same_whatever_the_micro_batch_the_rank_and_the_world(small: Small) -> None:
    whole = by_noise(small, micro=4, world=1)
    assert len(whole) == 16
    assert len({row for row, _, _ in whole.values()}) < 16  # rows come again in the next epoch, with other noise
    for micro, world in ((1, 1), (2, 1), (2, 2), (1, 2), (1, 4)):
        assert by_noise(small, micro=micro, world=world) == whole


def test_validation_draws_are_its_own_and_fixed(small: Small) -> None:
    train, val = small.rows(), small.rows(split="val")
    first = batch_of(val)
    assert same(first.draws, batch_of(val).draws)
    assert not torch.equal(first.draws.noise, batch_of(train, 0, 1, 2, 3).draws.noise)


# What is hidden


class Seen(nn.Module):
    """A model that keeps what it is shown."""

    def forward(self, noisy: Tensor, history: Tensor, t: Tensor, text: Tensor) -> Tensor:
        self.history, self.t, self.text = history, t, text
        return torch.zeros_like(noisy)


@pytest.mark.parametrize("cached", [True, False])
def test_text_and_history_are_hidden_exactly_where_the_flags_say(small: Small, cached: bool) -> None:
    rows = small.rows(cached=cached, dropout=0.25)
    module = configured()
    module.model = seen = Seen()  # type: ignore[assignment]
    whole = small.rows(cached=cached)
    states = TEXT()([NULL, *rows.prompts])
    kinds = set()
    for first in (0, 9, 18, 27):
        batch = batch_of(rows, first=first)
        module.errors(batch)
        history, _ = module.latents(batch_of(whole))
        assert history.shape[1] == HISTORY
        assert torch.equal(seen.t, batch.draws.timesteps)
        for row in range(len(rows)):
            text, image = bool(batch.draws.keep_text[row]), bool(batch.draws.keep_history[row])
            kinds.add((text, image))
            assert torch.equal(seen.history[row], history[row] if image else torch.zeros_like(history[row]))
            torch.testing.assert_close(seen.text[row], states[row + 1 if text else 0], rtol=1e-3, atol=1e-4)
    assert len(kinds) == 4  # none, either and both


def test_the_instruction_that_is_hidden_is_the_null_one_in_the_batch(small: Small) -> None:
    batch = batch_of(small.rows(dropout=0.25))
    rows = small.rows()
    for row, kept in enumerate(batch.draws.keep_text.tolist()):
        assert batch.prompts[row] == (rows.prompts[row] if kept else NULL)
        assert batch.text is not None
        assert batch.null_text is not None
        assert torch.equal(batch.text[row], batch.null_text[0]) == (not kept)
