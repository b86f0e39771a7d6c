"""Texts of conversations with clips of their own lengths: places, targets, groups, batches."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from common.chat.rows import ChatFormat, ChatRows
from common.data.conversations import Conversation, Turn
from common.text.mask import VisualTokens
from common.text.prompt import vicuna_v1
from common.types import Pick

WORDS = ["<unk>", "<s>", "</s>", "USER", "ASSISTANT", ":", "what", "is", "it", "?", "a", "dog", "red", "yes", "no"]
PATCH = VisualTokens(count=2, start=None, patch="<image>", end=None)
BOUND = VisualTokens(count=2, start="<from>", patch="<image>", end="<to>")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    made.add_tokens(["<image>", "<from>", "<to>"], special_tokens=True)
    return made


def conversation(video: str | None, *said: str) -> Conversation:
    said = said or ("what is it ?", "a dog")
    turns = [Turn(user, answer) for user, answer in zip(said[::2], said[1::2], strict=True)]
    if video is not None:
        turns[0] = turns[0]._replace(user="<video>" + turns[0].user)
    return Conversation(id="", video=video, turns=tuple(turns), where="row")


TALKS = [
    conversation("a", "what is it ?", "a dog"),
    conversation(None, "is it red ?", "yes"),
    conversation("b", "what ?", "red dog", "is it ?", "no"),
    conversation("a", "is it red ?", "no"),
]
COUNTS = [3, 0, 5, 3]


def rows(tokenizer: PreTrainedTokenizerFast, visual: VisualTokens = PATCH, **changes: object) -> ChatRows:
    settings: dict[str, object] = {"video_place": "first", "max_tokens": 64}
    chat_format = ChatFormat(
        tokenizer=tokenizer,
        template=vicuna_v1(prompt="none"),
        visual=visual,
        **{**settings, **changes},  # type: ignore[arg-type]
    )
    return ChatRows(TALKS, chat_format, counts=COUNTS)


def picks(text: ChatRows) -> list[Pick]:
    return [Pick(row, row, 7.0) for row in range(len(text))]


@pytest.mark.parametrize("visual", [PATCH, BOUND])
def test_each_row_keeps_the_places_of_its_own_clip(visual: VisualTokens, tokenizer: PreTrainedTokenizerFast) -> None:
    text = rows(tokenizer, visual)
    batch = text.collate(picks(text))
    length = batch.ids.shape[1]
    patch = tokenizer.convert_tokens_to_ids("<image>")
    ends = 0 if visual is PATCH else 2
    expected = []
    for place, (encoded, count) in enumerate(zip(text.encoded, COUNTS, strict=True)):
        found = np.flatnonzero(encoded.ids == patch)
        assert len(found) == count
        if count:
            expected += [place * length + encoded.visual_start + n for n in range(count + ends)]
    assert batch.visual_places.tolist() == expected
    assert not (batch.ids == patch).any()  # its id may lie outside the vocabulary of the model
    assert (batch.visual_start < 0).tolist() == [False, True, False, False]


def test_targets_are_answers_and_their_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    text = rows(tokenizer)
    batch = text.collate(picks(text))
    said = [tokenizer.decode(batch.targets[batch.target_rows == row]) for row in range(4)]
    joined = [each.replace(" ", "") for each in said]
    assert joined == ["adog</s>", "yes</s>", "reddog</s>no</s>", "no</s>"]
    assert torch.equal(batch.ids.flatten()[batch.target_places + 1], batch.targets)
    assert text.weights is not None
    assert text.weights.tolist() == [3, 2, 5, 2]
    assert float(batch.normalizer) == 7.0


def test_padding_stands_behind_and_is_no_target(tokenizer: PreTrainedTokenizerFast) -> None:
    text = rows(tokenizer)
    batch = text.collate(picks(text))
    for row, length in enumerate(text.lengths):
        assert (batch.ids[row, length:] == text.pad).all()
        own = batch.target_places[batch.target_rows == row] - row * batch.ids.shape[1]
        assert own.max() < length - 1
    assert text.lengths.tolist() == [len(encoded.ids) for encoded in text.encoded]


def test_rows_that_share_a_clip_are_joined_and_texts_are_not(tokenizer: PreTrainedTokenizerFast) -> None:
    text = rows(tokenizer, questions_at_once=4)
    assert text.groups == [(0, 3), (1,), (2,)]
    batch = text.collate(picks(text))
    assert batch.branches is not None
    assert batch.conversations.tolist() == [0, 3, 1, 2]
    alone = rows(tokenizer)
    apart = alone.collate([Pick(row, row, 7.0) for row in (0, 3, 1, 2)])
    assert torch.equal(batch.targets, apart.targets)
    assert torch.equal(batch.target_rows, apart.target_rows)
    assert len(batch.visual_places) == 3 + 5
    shared = text.shared(0)
    first = batch.branches.branch[0].tolist()
    assert first[:shared] == [0] * shared
    assert set(first[shared : text.lengths[0]]) == {1, 2}
    assert batch.branches.position[0].max() < max(alone.lengths[0], alone.lengths[3])
    assert text.weights is not None
    assert text.weights.tolist() == [5, 2, 5]


def test_the_fingerprint_sees_tokens_clips_and_groups(tokenizer: PreTrainedTokenizerFast) -> None:
    seen = {rows(tokenizer).fingerprint, rows(tokenizer, questions_at_once=4).fingerprint}
    other = ChatRows([TALKS[0]], rows(tokenizer).format, counts=[4])
    moved = ChatRows([conversation("c")], rows(tokenizer).format, counts=[4])
    assert len(seen | {other.fingerprint, moved.fingerprint}) == 4


def test_a_question_alone_has_no_targets(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = Conversation(id="", video="a", turns=(Turn("<video>what ?", None),), where="row")
    text = rows(tokenizer).asking([asked], counts=[3])
    batch = text.collate([Pick(0, 0, 1.0)])
    assert len(batch.targets) == 0
    assert text.prompt_length(0) == len(text.encoded[0].ids)
    with pytest.raises(ValueError, match="nothing is learned"):
        ChatRows([asked], rows(tokenizer).format, counts=[3])
