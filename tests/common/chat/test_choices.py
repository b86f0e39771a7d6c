"""Options scored by likelihood, against a plain loop over the model of transformers; order, sharing, ranks, ties."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.chat.choice_rows import ChoiceRows, chat_rows
from common.chat.choice_scores import ChoiceScores, new_scores
from common.chat.choices import Choices
from common.chat.decoder import target_logits
from common.chat.loss import token_losses
from common.chat.rows import ChatFormat, ChatRows
from common.chat.scores import AnswerScores
from common.data.choices import ChoiceQuestion
from common.data.conversations import Conversation, Turn
from common.text.language_model import build_causal_lm
from common.text.mask import VisualTokens
from common.text.prompt import vicuna_v1
from common.text.tokenizer import load_tokenizer
from common.types import Pick

TINY = Path(__file__).resolve().parents[3] / "common" / "tiny" / "weights" / "causal_lm"
TOKENIZER = TINY
CPU = torch.device("cpu")
ASKED = [
    ("what colour is the ring ?", ("red", "blue", "cyan", "the red square"), 1, "colour"),
    ("how many objects are there ?", ("one", "two"), 0, "count"),
    ("which appears first ?", ("the red ring", "the red cross", "the blue ring"), 2, "order"),
]


def questions() -> list[ChoiceQuestion]:
    """Some have an exchange before the question, which is not scored."""
    asked = []
    for number, (text, choices, right, kind) in enumerate(ASKED):
        turns = (Turn(f"<video>{text}", None),)
        if number == 2:
            turns = (Turn("<video>what shape is it ?", "ring"), Turn(text, None))
        row = Conversation(id=str(number), video="a.mp4", turns=turns, where=f"rows.json row {number}", type=kind)
        asked.append(ChoiceQuestion(asked=row, choices=choices, right=right))
    return asked


@pytest.fixture(scope="module", autouse=True)
def lettered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny tokenizer with letters in the place of words that the questions do not use."""
    folder = tmp_path_factory.mktemp("lettered")
    for file in TINY.glob("tokenizer*.json"):
        text = file.read_text()
        for word, letter in (("column0", "b"), ("column1", "c"), ("column2", "d")):
            text = text.replace(f'"{word}"', f'"{letter}"')
        (folder / file.name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.TOKENIZER", folder)
        yield folder


def rows(choices: Choices, asked: Sequence[ChoiceQuestion] | None = None, **changes: Any) -> ChoiceRows:
    settings: dict[str, Any] = {"video_place": "first", "questions_at_once": 8} | changes
    chat_format = ChatFormat(
        tokenizer=load_tokenizer(path=str(TOKENIZER), extra_tokens=["<vid_patch>", "<vid_start>", "<vid_end>"]),
        template=vicuna_v1(prompt="none"),
        visual=VisualTokens(count=3),
        max_tokens=200,
        **settings,
    )
    options = [option for number, each in enumerate(asked or questions()) for option in choices.options(each, number)]
    made = chat_rows(options, chat_format, choices=choices)
    assert isinstance(made, ChoiceRows)
    return made


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return build_causal_lm(weights=str(TINY)).eval()


def score(model: PreTrainedModel, data: ChoiceRows, *, micro: int, order: Sequence[int] | None = None) -> ChoiceScores:
    scores = new_scores(data, device=CPU)
    assert isinstance(scores, ChoiceScores)
    order = range(len(data)) if order is None else order
    for start in range(0, len(order), micro):
        text = data.collate([Pick(row, row, 1.0) for row in order[start : start + micro]])
        with torch.no_grad():
            embeddings = model.get_input_embeddings()(text.ids)
            scores.update(target_logits(model, embeddings, text.target_places, branches=text.branches), text)
    return scores


def plain_loop(model: PreTrainedModel, data: ChoiceRows) -> tuple[Tensor, Tensor]:
    """Sum and mean of the log-probabilities of each option's last answer and end token, one forward pass an option."""
    tokenizer = data.format.tokenizer
    sums, means = [], []
    for number, option in enumerate(data.options):
        ids = torch.from_numpy(data.text_ids(number))
        answer = tokenizer(f" {option.turns[-1].assistant}</s>", add_special_tokens=False).input_ids
        assert ids[-len(answer) :].tolist() == answer
        with torch.no_grad():
            logs = model(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
        places = range(len(ids) - len(answer), len(ids))
        each = torch.stack([logs[place - 1, ids[place]] for place in places])
        sums.append(each.sum())
        means.append(each.mean())
    return torch.stack(sums), torch.stack(means)


@pytest.mark.parametrize("at_once", [1, 2, 8])
@pytest.mark.parametrize("place", ["first", "last"])
def test_likelihoods_are_those_of_a_plain_loop(model: PreTrainedModel, at_once: int, place: str) -> None:
    for scored in ("sum", "mean", "letter"):
        data = rows(Choices(scored=scored), video_place=place, questions_at_once=at_once)
        sums, means = plain_loop(model, data)
        ours = score(model, data, micro=2).likelihoods()
        torch.testing.assert_close(ours, means if scored == "mean" else sums, rtol=1e-4, atol=1e-4)


def test_options_share_all_but_their_answers() -> None:
    shared, alone = (rows(Choices(), questions_at_once=most) for most in (8, 1))
    assert (len(shared), len(alone)) == (3, 9)
    text = shared.collate([Pick(0, 0, 1.0)])
    whole = len(alone.encoded[0].ids)
    assert text.ids.shape[1] < whole + 4 * 8
    assert int((text.branches.branch == 0).sum()) == alone.prompt_length(0) - 1  # type: ignore[union-attr]
    assert shared.lengths[0] == text.ids.shape[1]


def test_the_sum_and_the_mean_can_choose_differently(model: PreTrainedModel) -> None:
    data = rows(Choices())
    sums, means = plain_loop(model, data)
    lengths = sums / means
    assert len(set(lengths.round().tolist())) > 1
    assert score(model, rows(Choices(scored="mean")), micro=3).likelihoods()[3] > sums[3]


@pytest.mark.parametrize("scored", ["sum", "mean"])
def test_the_order_of_the_options_does_not_change_what_is_chosen(model: PreTrainedModel, scored: Any) -> None:
    turned = [
        replace(each, choices=each.choices[::-1], right=len(each.choices) - 1 - each.right) for each in questions()
    ]
    chosen = []
    for asked in (questions(), turned):
        data = rows(Choices(scored=scored), asked)
        likelihoods = score(model, data, micro=3).likelihoods()
        best = [max(numbers, key=lambda number: likelihoods[number].item()) for numbers in data.questions]
        chosen.append([data.options[number].turns[-1].assistant for number in best])
    assert chosen[0] == chosen[1]


def test_numbers_do_not_depend_on_batches_or_ranks(model: PreTrainedModel) -> None:
    data = rows(Choices(), questions_at_once=2)
    whole = score(model, data, micro=len(data))
    parts = [score(model, data, micro=1, order=range(rank, len(data), 2)) for rank in range(2)]
    assert all(part.likelihoods().isnan().any() for part in parts)
    together = ChoiceScores(data, device=CPU)
    for part in parts:  # what the sum over ranks does
        together.table.total += part.table.total
        together.table.seen += part.table.seen
    together.table.update(torch.empty(0), torch.empty(0, dtype=torch.long))
    torch.testing.assert_close(together.likelihoods(), whole.likelihoods(), rtol=1e-4, atol=1e-4)
    loss, estimates = together.compute()
    expected_loss, expected = whole.compute()
    assert estimates == expected
    torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=1e-4)
    assert (expected["overall"].cases, expected["count"].cases) == (3, 1)


def test_the_loss_is_that_of_the_right_answers(model: PreTrainedModel) -> None:
    for scored in ("sum", "mean"):
        data = rows(Choices(scored=scored))
        sums, means = plain_loop(model, data)
        right = [number for number, option in enumerate(data.options) if option.right]
        expected = -sums[right].sum() / (sums / means)[right].sum()
        torch.testing.assert_close(score(model, data, micro=3).compute()[0], expected, rtol=1e-4, atol=1e-4)


def test_hits_are_counted_by_question_and_a_tie_is_a_miss() -> None:
    data = rows(Choices())
    scores = ChoiceScores(data, device=CPU)
    likelihoods = torch.full((9,), -5.0)
    likelihoods[[1, 6]] = torch.tensor([-1.0, -1.0])  # the right colour; a wrong order; count is a tie
    scores.table.update(likelihoods, torch.arange(9))
    estimates = scores.compute()[1]
    assert {kind: estimate.value for kind, estimate in estimates.items()} == {
        "colour": 1.0,
        "count": 0.0,
        "order": 0.0,
        "overall": pytest.approx(1 / 3),
        "macro": pytest.approx(1 / 3),
    }


def test_a_question_that_was_seen_in_part_is_not_counted() -> None:
    scores = ChoiceScores(rows(Choices()), device=CPU)
    scores.table.update(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([4, 5, 0]))
    estimates = scores.compute()[1]
    assert set(estimates) == {"count", "overall", "macro"}
    assert estimates["count"].value == 1.0


def test_guessing_is_right_once_in_as_many_as_there_are_options() -> None:
    more = [*questions(), replace(questions()[1], choices=("one", "two", "red", "blue"))]
    assert rows(Choices(), more).chance() == {
        "colour": 0.25,
        "count": pytest.approx(0.375),
        "order": pytest.approx(1 / 3),
    }


def test_letters_stand_for_listed_options() -> None:
    choices = Choices(
        scored="letter", listed="Question: {question}\n{options}", line="({letter}) {option}", reply="Best: ({letter})"
    )
    first, second, *_ = choices.options(questions()[1], 0)
    assert first.turns == (Turn("<video>\nQuestion: how many objects are there ?\n(A) one\n(B) two", "Best: (A)"),)
    assert second.turns[0].assistant == "Best: (B)"
    assert (first.right, second.right) == (True, False)
    braces = replace(questions()[1], choices=("{letter}", "{option} {x}"))
    assert "(A) {letter}\n(B) {option} {x}" in choices.options(braces, 0)[0].turns[0].user


def test_an_instruction_of_its_own_replaces_the_templates() -> None:
    assert Choices(system="Choose.").options(questions()[0], 0)[0].system == "Choose."
    assert Choices().options(questions()[0], 0)[0].system is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scored": "best"}, r"choices\.scored=best; there is sum, mean, letter"),
        ({"listed": "{question}"}, r"choices\.listed=.*needs \{question\} and \{options\}"),
        ({"line": "{letter}"}, r"choices\.line"),
        ({"reply": "{letter} {answer}"}, r"choices\.reply.*letter, option alone"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Choices(**wrong)


def test_options_are_scored_and_not_answered() -> None:
    data = rows(Choices())
    with pytest.raises(ValueError, match="leave them out of"):
        chat_rows(data.options, data.format, choices=Choices(), asked=True)
    others = ChatRows([replace(each.asked, turns=(Turn("<video>a", "b"),)) for each in questions()], data.format)
    assert isinstance(new_scores(others, device=CPU), AnswerScores)


def test_options_that_a_tokenizer_does_not_tell_apart_are_refused() -> None:
    unknown = replace(questions()[1], choices=("zebra", "gnu"))
    with pytest.raises(ValueError, match=r"rows\.json row 1: to the tokenizer 2 options are 1 different texts"):
        rows(Choices(), [unknown])


def test_a_file_becomes_options_in_order(tmp_path: Path) -> None:
    row = {"video": "a.mp4", "question": "What?", "candidates": ["x", "y"], "answer": "y"}
    (tmp_path / "task.json").write_text(json.dumps([row, row]))
    options = Choices().load(tmp_path / "task.json")
    assert [(each.question, each.right, each.turns[0].assistant) for each in options] == [  # type: ignore[attr-defined]
        (0, False, "x"),
        (0, True, "y"),
        (1, False, "x"),
        (1, True, "y"),
    ]


@pytest.mark.parametrize("scored", ["sum", "mean", "letter"])
def test_a_few_steps_of_training_make_the_trained_answer_the_choice(scored: Any) -> None:
    torch.manual_seed(0)
    learner = build_causal_lm(weights=str(TINY))
    data = rows(Choices(scored=scored), questions_at_once=1)
    right = [number for number, option in enumerate(data.options) if option.right]
    text = data.collate([Pick(row, row, 1.0) for row in right])
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    before = score(learner, data, micro=9).compute()
    for _ in range(25):
        logits = target_logits(learner, learner.get_input_embeddings()(text.ids), text.target_places)
        loss = token_losses(logits, text.targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = score(learner, data, micro=9).compute()
    assert after[0] < before[0]
    assert after[1]["overall"].value == 1.0


def test_every_letter_is_one_token_of_its_own_to_a_real_tokenizer(media: Path) -> None:
    extra = ["<vid_patch>", "<vid_start>", "<vid_end>"]
    chat_format = ChatFormat(
        tokenizer=load_tokenizer(path=str(media / "tokenizers" / "llama"), extra_tokens=extra, legacy=True),
        template=vicuna_v1(prompt="inference"),
        visual=VisualTokens(count=5),
        video_place="last",
        max_tokens=1000,
        questions_at_once=26,
    )
    asked = replace(questions()[0], choices=tuple(f"Option {number}." for number in range(26)))
    for reply, tokens in (("{letter}", 2), ("Best option:({letter})", 6)):
        choices = Choices(scored="letter", reply=reply, line="({letter}) {option}")
        data = chat_rows(choices.options(asked, 0), chat_format, choices=choices)
        assert len(data) == 1
        assert {int(encoded.learned.sum()) for encoded in data.encoded} == {tokens}
        assert len({encoded.ids[-3:].tobytes() for encoded in data.encoded}) == 26
