from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from common.text.mask import Encoded, TooLongError, VisualTokens, encode, longer_than
from common.text.prompt import Segment, Turn, render, vicuna_v1
from common.text.tokenizer import load_tokenizer

EXTRA = ("<vid_patch>", "<vid_start>", "<vid_end>")
VISUAL = VisualTokens(count=7)
TURNS = (
    Turn("<video>\nWhat is it?", "Ok man."),
    Turn("And then?", "It runs.  Fast."),
    Turn("Why?", "x"),
)


@pytest.fixture(scope="module", params=["legacy", "new"])
def tokenizer(request: pytest.FixtureRequest, pieces: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(path=str(pieces), extra_tokens=EXTRA, legacy=request.param == "legacy")


@pytest.fixture(scope="module", params=["legacy", "new"])
def llama(request: pytest.FixtureRequest, media: Path) -> PreTrainedTokenizerFast:
    folder = str(media / "tokenizers" / "llama")
    return load_tokenizer(path=folder, extra_tokens=EXTRA, legacy=request.param == "legacy")


def one(turns: tuple[Turn, ...], tokenizer: PreTrainedTokenizerFast, **settings: object) -> Encoded:
    rows = [render(turns, template=vicuna_v1())]
    return encode(rows, tokenizer=tokenizer, visual=VISUAL, **settings)[0]  # type: ignore[arg-type]


def learned_runs(row: Encoded, tokenizer: PreTrainedTokenizerFast) -> list[list[str]]:
    """Tokens of each run of learned places."""
    places = np.flatnonzero(row.learned)
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return [tokenizer.convert_ids_to_tokens(row.ids[run].tolist()) for run in runs]


def test_learned_tokens_of_llama(llama: PreTrainedTokenizerFast) -> None:
    assert learned_runs(one(TURNS[:1], llama), llama) == [["\u2581Ok", "\u2581man", ".", "</s>"]]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_exactly_answers_and_ends_are_learned(tokenizer: PreTrainedTokenizerFast, count: int) -> None:
    row = one(TURNS[:count], tokenizer)
    expected = [[*tokenizer.tokenize(turn.assistant), "</s>"] for turn in TURNS[:count]]
    assert learned_runs(row, tokenizer) == expected
    assert row.ids.dtype == np.int32
    assert row.learned.dtype == np.bool_
    assert row.ids[0] == tokenizer.bos_token_id
    assert not row.learned[0]


@pytest.mark.parametrize(
    "answer", ["He said ASSISTANT: go. USER: no", "a </s> b", "</s>", " lead", "line\n\nline ", ""]
)
def test_odd_answers_are_learned_whole(tokenizer: PreTrainedTokenizerFast, answer: str) -> None:
    turns = (Turn("<video>\nWhat is it?", answer), Turn("And then?", "It runs."))
    row = one(turns, tokenizer)
    before = "".join(segment.text for segment in render(turns, template=vicuna_v1())[:1])
    prefix = tokenizer(before.replace("<video>", "<vid_start>" + "<vid_patch>" * 7 + "<vid_end>")).input_ids
    with_answer = render(turns, template=vicuna_v1())[1].text
    text = before.replace("<video>", "<vid_start>" + "<vid_patch>" * 7 + "<vid_end>") + with_answer
    first_run = tokenizer(text).input_ids[len(prefix) :]
    assert row.learned[: len(prefix)].sum() == 0
    assert row.learned[len(prefix) : len(prefix) + len(first_run)].all()
    assert row.ids[len(prefix) : len(prefix) + len(first_run)].tolist() == first_run
    assert learned_runs(row, tokenizer)[-1] == [*tokenizer.tokenize("It runs."), "</s>"]
    assert len(learned_runs(row, tokenizer)) == 2


@pytest.mark.parametrize("user", ["<video>\nWhat is it?", "What is it?\n<video>", "In <video>, who runs?", "<video>"])
def test_patches_put_in_later_equal_the_expanded_text(tokenizer: PreTrainedTokenizerFast, user: str) -> None:
    turns = (Turn(user, "Ok man."), TURNS[1])
    row = one(turns, tokenizer)
    text = "".join(segment.text for segment in render(turns, template=vicuna_v1()))
    expanded = text.replace("<video>", "<vid_start>" + "<vid_patch>" * 7 + "<vid_end>")
    assert row.ids.tolist() == tokenizer(expanded).input_ids
    span = tokenizer.convert_ids_to_tokens(row.ids[row.visual_start : row.visual_start + 9].tolist())
    assert span == ["<vid_start>", *["<vid_patch>"] * 7, "<vid_end>"]
    assert not row.learned[row.visual_start : row.visual_start + 9].any()


def test_published_count_of_visual_tokens(llama: PreTrainedTokenizerFast) -> None:
    rows = [render(TURNS, template=vicuna_v1())]
    row = encode(rows, tokenizer=llama, visual=VisualTokens(count=356))[0]
    text = "".join(segment.text for segment in rows[0])
    expanded = text.replace("<video>", "<vid_start>" + "<vid_patch>" * 356 + "<vid_end>")
    assert row.ids.tolist() == llama(expanded).input_ids


def test_words_give_the_same_marks(words: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    words.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(path=str(tmp_path), extra_tokens=EXTRA)
    turns = (Turn("<video>\nWhat is it?", "A dog."), Turn("And then?", "It runs."))
    row = encode([render(turns, template=vicuna_v1(prompt="none"))], tokenizer=tokenizer, visual=VISUAL)[0]
    assert learned_runs(row, tokenizer) == [["A", "dog", ".", "</s>"], ["It", "runs", ".", "</s>"]]


def test_rows_without_a_video_stand_beside_rows_with_one(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [render((turn,), template=vicuna_v1()) for turn in TURNS]
    starts = [row.visual_start for row in encode(rows, tokenizer=tokenizer, visual=VISUAL)]
    assert starts[0] > 0
    assert starts[1:] == [-1, -1]


def test_many_rows_equal_each_row_alone(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.text.mask.ROWS_AT_A_TIME", 2)
    rows = [render(TURNS[: 1 + number % 3], template=vicuna_v1()) for number in range(5)]
    for row, many in zip(rows, encode(rows, tokenizer=tokenizer, visual=VISUAL), strict=True):
        alone = encode([row], tokenizer=tokenizer, visual=VISUAL)[0]
        assert np.array_equal(alone.ids, many.ids)
        assert np.array_equal(alone.learned, many.learned)


@pytest.mark.parametrize("reserved", ["<vid_start>", "<vid_patch>", "<vid_end>"])
def test_reserved_token_in_a_text(tokenizer: PreTrainedTokenizerFast, reserved: str) -> None:
    for turn in (Turn(f"<video> a {reserved}", "b"), Turn("<video> a", f"b {reserved}")):
        with pytest.raises(ValueError, match=f"f.json row 3: .*{reserved}"):
            one((turn,), tokenizer, where=["f.json row 3"])


@pytest.mark.parametrize(
    ("turn", "message"),
    [(Turn("<video><video>", "b"), "2 markers"), (Turn("<video>", "see <video>"), "an answer contains")],
)
def test_marker_too_many(tokenizer: PreTrainedTokenizerFast, turn: Turn, message: str) -> None:
    with pytest.raises(ValueError, match=f"row 0: .*{message}"):
        one((turn,), tokenizer)


def test_marker_where_no_video_is_expected(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="row 0: 1 markers <video>; these rows are encoded without a video"):
        encode([render(TURNS, template=vicuna_v1())], tokenizer=tokenizer, visual=None)


def test_long_rows_are_named_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [render(TURNS[:count], template=vicuna_v1()) for count in (1, 3, 3)]
    names = ["f.json row 0", "f.json row 1", "f.json row 2"]
    encoded = encode(rows, tokenizer=tokenizer, visual=VISUAL)
    limit = len(encoded[0].ids)
    assert longer_than(encoded, limit) == [1, 2]
    assert longer_than(encoded, limit - 1) == [0, 1, 2]
    with pytest.raises(TooLongError, match=r"f\.json row 1: \d+ tokens.*2 of 3 rows") as error:
        encode(rows, tokenizer=tokenizer, visual=VISUAL, max_tokens=limit, where=names)
    assert error.value.rows == [1, 2]
    encode(rows, tokenizer=tokenizer, visual=VISUAL, max_tokens=len(encoded[1].ids))


def test_row_that_teaches_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = (Turn("<video>\nWhat is it?", None),)
    with pytest.raises(ValueError, match="row 0: nothing is learned"):
        one(prompt, tokenizer)
    assert not one(prompt, tokenizer, require_learned=False).learned.any()


def test_token_that_is_half_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    # "man" is one token of this vocabulary, so that a boundary inside it belongs to neither side.
    assert len(tokenizer.tokenize("the man")) == len(tokenizer.tokenize("the")) + 1
    with pytest.raises(ValueError, match="row 0: a token is half answer"):
        encode([[Segment("the m", False), Segment("an</s>", True)]], tokenizer=tokenizer, visual=None)


def test_tokenizer_without_the_visual_tokens(words: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"lacks <vid_start>, <vid_patch>, <vid_end>.*extra_tokens"):
        encode([], tokenizer=words, visual=VISUAL)


def test_names_of_other_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="2 names for 1 rows"):
        one(TURNS, tokenizer, where=["a", "b"])
