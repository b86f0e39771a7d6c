"""Texts and labels against the shipped chat templates, token by token."""

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from common.text.prompt import Turn, llava_onevision, llava_qwen, place_video, render
from tests.projects.llava_video.shipped import INTERLEAVE, ONEVISION, messages, rendered
from tests.projects.llava_video.tiny import GRID, batch_of, entry, make_rows

TALK = [
    Turn("<video>What is it?", "It is a dog."),
    Turn("Is it red?", "Yes, it is."),
    Turn("What does it do?\nSay it.", "It runs.\n\nIt\nruns."),
]
FRAMES = 5


def ours(turns: list[Turn], name: str, system: str | None = None) -> str:
    template = llava_qwen() if name == "llava" else llava_onevision()
    placed = place_video(turns, where="first")
    return "".join(segment.text for segment in render(placed, template=template, system=system))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_interleave_is_written_as_shipped(count: int, system: str | None, tokenizer: PreTrainedTokenizerFast) -> None:
    chat = messages(TALK[:count], kind="image", count=FRAMES, system=system)
    shipped = rendered(tokenizer, chat, INTERLEAVE)
    assert "assistant\n\nIt is a dog.<|im_end|>\n" in shipped
    assert "<image>" * FRAMES + "\nWhat is it?" in shipped
    text = ours(TALK[:count], "llava", system).replace("<video>", "<image>" * FRAMES)
    assert text == shipped
    assert tokenizer(text).input_ids == tokenizer(shipped).input_ids


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_onevision_asks_as_shipped(count: int, system: str | None, tokenizer: PreTrainedTokenizerFast) -> None:
    asked = [*TALK[: count - 1], TALK[count - 1]._replace(assistant=None)]
    shipped = rendered(tokenizer, messages(asked, kind="video", count=1, system=system), ONEVISION, asks=True)
    assert shipped.endswith("<|im_end|><|im_start|>assistant\n")
    assert "<|im_start|>user <video>\nWhat is it?<|im_end|>" in shipped
    # An answer that was given stands there behind a blank that the question for it does not end with.
    assert shipped.count("assistant \n") == count - 1
    assert ours(asked, "onevision", system) == shipped.replace("assistant \n", "assistant\n")


def test_the_shipped_mask_of_interleave_lacks_the_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = messages(TALK[:1], kind="image", count=1)
    made = tokenizer.apply_chat_template(
        chat, chat_template=INTERLEAVE, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    learned = [id_ for id_, mask in zip(made["input_ids"], made["assistant_masks"], strict=True) if mask]
    assert "It is a dog." in tokenizer.decode(learned)
    assert tokenizer.eos_token_id not in learned


@pytest.mark.parametrize("name", ["llava", "onevision"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_learned_is_the_answers_and_their_end_tokens(
    name: str, count: int, clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    said = [words for turn in TALK[:count] for words in (turn.user.replace("<video>", ""), turn.assistant)]
    data = make_rows(clips, [entry("long.mp4", *map(str, said))], tokenizer, name=name)
    (encoded,) = data.text.encoded
    runs = np.split(encoded.ids, np.flatnonzero(np.diff(encoded.learned)) + 1)
    learned = [tokenizer.decode(run) for run in runs[1::2]]
    assert learned == [f"{turn.assistant}<|im_end|>" for turn in TALK[:count]]
    patch = tokenizer.convert_tokens_to_ids(data.family.patch)
    rows = data.family.count(FRAMES, GRID)
    places = np.flatnonzero(encoded.ids == patch)
    assert np.array_equal(places, encoded.visual_start + np.arange(rows))
    assert not encoded.learned[places].any()


@pytest.mark.parametrize("name", ["llava", "onevision"])
def test_no_placeholder_is_ever_a_target(name: str, clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    entries = [entry("long.mp4"), entry("four"), entry(None), entry("one.png", "And?", "Yes.", "Red?", "It is.")]
    data = make_rows(clips, entries, tokenizer, name=name)
    text = batch_of(data).text
    reserved = {tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<video>", "<|im_start|>")}
    assert not reserved & set(text.targets.tolist())
    assert not set(text.visual_places.tolist()) & set((text.target_places + 1).tolist())
    assert len(text.targets) == sum(row.learned.sum() for row in data.text.encoded)


@pytest.mark.parametrize("name", ["llava", "onevision"])
def test_a_question_ends_where_the_learned_answer_begins(
    name: str, clips: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = make_rows(clips, [entry("long.mp4", "What is it?", "It is.", "Red?", "Yes.")], tokenizer, name=name)
    asked = make_rows(clips, [entry("long.mp4", "What is it?", "It is.", "Red?")], tokenizer, name=name, request={})
    start = data.text.prompt_length(0)
    assert np.array_equal(asked.text.encoded[0].ids, data.text.encoded[0].ids[:start])


def test_a_reserved_token_in_a_question_is_refused(clips: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"rows\.json row 0.*reserved token <image>"):
        make_rows(clips, [entry("long.mp4", "What is <image>?", "A dog.")], tokenizer)
