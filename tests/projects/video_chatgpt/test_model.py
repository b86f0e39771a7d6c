"""The model against a plain loop and transformers' own loss; what it computes, counted; what it learns, counted."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from common.chat.decoder import Decoding, answer, target_logits
from common.chat.loss import global_mean, per_sample, token_losses
from common.chat.rows import Branches
from common.text.language_model import blocks, build_causal_lm, recompute
from projects.video_chatgpt.model import VideoLanguageModel, count_trainable

TINY = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
PUBLISHED = {
    "model_type": "llama",
    "vocab_size": 32003,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
N, D = 5, 8


@pytest.fixture
def model() -> VideoLanguageModel:
    torch.manual_seed(0)
    language_model = build_causal_lm(weights="random", architecture=TINY).requires_grad_(False)
    return VideoLanguageModel(language_model=language_model, feature_width=D)


def batch(rows: int = 3, length: int = 14) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (rows, length), generator=generator)
    starts = torch.tensor([1, 3, 2])[:rows]
    return ids, starts, torch.randn(rows, N, D, generator=generator)


def test_visual_rows_replace_their_places_and_nothing_else(model: VideoLanguageModel) -> None:
    ids, starts, features = batch()
    embeddings = model.embed(ids, starts, features)
    table = model.language_model.get_input_embeddings()
    for row in range(3):
        expected = table(ids[row]).clone()
        begin = int(starts[row])
        expected[begin] = model.boundary[0]
        for place in range(N):
            expected[begin + 1 + place] = model.projector(features[row, place])
        expected[begin + 1 + N] = model.boundary[1]
        torch.testing.assert_close(embeddings[row], expected)


def test_loss_at_targets_equals_the_loss_over_all_logits(model: VideoLanguageModel) -> None:
    ids, starts, features = batch()
    labels = torch.full_like(ids, -100)
    labels[0, 10:13], labels[1, 12:14], labels[2, 9:11] = ids[0, 10:13], ids[1, 12:14], ids[2, 9:11]
    embeddings = model.embed(ids, starts, features)
    whole = model.language_model(inputs_embeds=embeddings).logits
    expected = F.cross_entropy(whole[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    rows, places = (labels != -100).nonzero(as_tuple=True)
    flat = rows * ids.shape[1] + places - 1
    losses = token_losses(target_logits(model.language_model, embeddings, flat), labels[rows, places])
    ours = global_mean(losses, rows, 3, torch.tensor(float(len(rows))), per="token")
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_only_target_rows_enter_the_head(model: VideoLanguageModel) -> None:
    ids, starts, features = batch()
    entered = []
    model.language_model.get_output_embeddings().register_forward_hook(lambda _, x, __: entered.append(x[0].shape[0]))
    target_logits(model.language_model, model.embed(ids, starts, features), torch.tensor([9, 12, 30]))
    assert entered == [3]


def test_padding_on_the_right_changes_nothing(model: VideoLanguageModel) -> None:
    ids, starts, features = batch(rows=1)
    places = torch.tensor([11, 12])
    short = target_logits(model.language_model, model.embed(ids, starts, features), places)
    padded = target_logits(model.language_model, model.embed(F.pad(ids, (0, 6)), starts, features), places)
    torch.testing.assert_close(short, padded)


@pytest.mark.parametrize("per", ["token", "sample"])
def test_micro_batches_average_to_the_global_loss(per: str) -> None:
    losses, rows = torch.rand(10), torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])
    total = torch.tensor(10.0 if per == "token" else 4.0)
    whole = global_mean(losses, rows, 4, total, per=per)
    halves = [
        global_mean(losses[rows < 2], rows[rows < 2], 2, total / 2, per=per),
        global_mean(losses[rows >= 2], rows[rows >= 2] - 2, 2, total / 2, per=per),
    ]
    torch.testing.assert_close(sum(halves) / 2, whole)
    means = per_sample(losses, rows, 4) / per_sample(torch.ones(10), rows, 4)
    torch.testing.assert_close(whole, losses.mean() if per == "token" else means.mean())


def test_gradient_reaches_the_bridge_only(model: VideoLanguageModel) -> None:
    ids, starts, features = batch()
    target_logits(model.language_model, model.embed(ids, starts, features), torch.tensor([12])).sum().backward()
    assert model.projector.weight.grad is not None
    assert model.projector.weight.grad.abs().sum() > 0
    assert model.boundary.grad is not None
    assert (model.boundary.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in model.language_model.parameters())


def test_changed_and_reversed_features_change_the_loss(model: VideoLanguageModel) -> None:
    ids, starts, features = batch()
    place = torch.tensor([12, 26, 40])
    original, zeroed, turned = (
        target_logits(model.language_model, model.embed(ids, starts, x), place)
        for x in (features, features * 0, features.flip(1))
    )
    assert not torch.allclose(original, zeroed, atol=1e-4)
    assert not torch.allclose(original, turned, atol=1e-4)


def test_greedy_answers_agree_with_the_argmax_of_targets(model: VideoLanguageModel) -> None:
    ids, starts, features = batch(rows=1, length=9)
    prompt = model.embed(ids, starts, features)[0]
    (generated,) = answer(
        model.language_model, [prompt], decoding=Decoding(max_new_tokens=4), ends=[49], names=["only"]
    )
    full = torch.cat([ids, torch.tensor([generated])], dim=1)
    places = torch.arange(8, 8 + len(generated))
    logits = target_logits(model.language_model, model.embed(full, starts, features), places)
    assert logits.argmax(dim=-1).tolist() == generated


def test_the_model_of_transformers_is_the_one_that_is_built() -> None:
    torch.manual_seed(0)
    ours = build_causal_lm(weights="random", architecture=TINY)
    assert isinstance(ours, LlamaForCausalLM)
    assert {name: p.shape for name, p in ours.named_parameters()} == {
        name: p.shape
        for name, p in LlamaForCausalLM(
            LlamaConfig(**{k: v for k, v in TINY.items() if k != "model_type"})
        ).named_parameters()
    }


# At published size, without storage


@pytest.fixture(scope="module")
def fake() -> FakeTensorMode:
    return FakeTensorMode()


@pytest.fixture(scope="module")
def published(fake: FakeTensorMode) -> VideoLanguageModel:
    with fake:
        language_model = build_causal_lm(weights="random", architecture=PUBLISHED).requires_grad_(False)
        return VideoLanguageModel(language_model=language_model, feature_width=1024)


def flops(
    model: VideoLanguageModel,
    fake: FakeTensorMode,
    *,
    backward: bool,
    length: int = 600,
    branches: Branches | None = None,
) -> int:
    with fake:
        ids = torch.zeros(1, length, dtype=torch.long)
        starts, features = torch.zeros(1, dtype=torch.long), torch.zeros(1, 356, 1024)
        places, targets = torch.arange(400, 420), torch.zeros(20, dtype=torch.long)
    with fake, FlopCounterMode(display=False) as counter:
        loss = token_losses(
            target_logits(model.language_model, model.embed(ids, starts, features), places), targets
        ).sum()
        if backward:
            loss.backward()
    return counter.get_total_flops()


def test_learned_numbers_at_published_size(published: VideoLanguageModel) -> None:
    counts = count_trainable(published)
    assert counts == (4_198_400, 8_192, 0)
    assert sum(counts) == 4_206_592
    assert sum(p.numel() for p in published.language_model.parameters()) == 6_738_440_192


def test_a_frozen_decoder_costs_two_forwards(published: VideoLanguageModel, fake: FakeTensorMode) -> None:
    forward = flops(published, fake, backward=False)
    assert 7.5e12 < forward < 8.3e12  # 7.9 TFLOP at 600 tokens, without the head
    assert flops(published, fake, backward=True) / forward == pytest.approx(2.0, abs=0.02)


def test_recomputation_adds_exactly_its_share(published: VideoLanguageModel, fake: FakeTensorMode) -> None:
    forward, plain = flops(published, fake, backward=False), flops(published, fake, backward=True)
    added = {}
    for fraction in (0.25, 1.0):
        recompute(blocks(published.language_model), fraction=fraction)
        added[fraction] = (flops(published, fake, backward=True) - plain) / forward
    recompute(blocks(published.language_model), fraction=0.0)
    # A whole forward less its last product, the down projection of each block, where recomputation stops early.
    down = 2 * 600 * 32 * 11008 * 4096 / forward
    assert added[1.0] == pytest.approx(1.0 - down, abs=0.02)
    assert added[0.25] == pytest.approx(0.25 * added[1.0], rel=0.01)


def test_a_trained_decoder_costs_three_forwards(fake: FakeTensorMode) -> None:
    with fake:
        language_model = build_causal_lm(weights="random", architecture=PUBLISHED | {"num_hidden_layers": 4})
        model = VideoLanguageModel(language_model=language_model, feature_width=1024)
    assert flops(model, fake, backward=True) / flops(model, fake, backward=False) == pytest.approx(3.0, abs=0.03)


def test_sharing_a_video_halves_the_arithmetic(published: VideoLanguageModel, fake: FakeTensorMode) -> None:
    questions, shared, own = 4, 394, 200  # instruction and video; question and answer
    separate = questions * flops(published, fake, backward=True, length=shared + own)
    with fake:
        branch = torch.cat([torch.zeros(shared), torch.arange(1, questions + 1).repeat_interleave(own)])[None].long()
        position = torch.cat([torch.arange(shared), (shared + torch.arange(own)).repeat(questions)])[None]
    branches = Branches(position, branch)
    together = flops(published, fake, backward=True, length=shared + questions * own, branches=branches)
    assert separate / together == pytest.approx(1.99, abs=0.05)


def test_share_of_blocks_is_rounded_up() -> None:
    model = build_causal_lm(weights="random", architecture=TINY, checkpoint_fraction=0.4)
    assert [layer.gradient_checkpointing for layer in blocks(model)] == [True, True, False]
    assert math.ceil(0.4 * 3) == 2
