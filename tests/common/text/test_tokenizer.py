import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
from transformers import PreTrainedTokenizerFast

from common.text.tokenizer import is_legacy, load_tokenizer

IMAGE = ("<im_patch>", "<im_start>", "<im_end>")
VIDEO = ("<vid_patch>", "<vid_start>", "<vid_end>")
LINES = (
    "Hello  world",
    "a\n\nb\tc",
    "na\u00efve \u89c6\u9891 \U0001f600 x",
    "trail ",
    "USER: hi ASSISTANT: 12,345.67",
    "def f(x):\n        return x",
    *("a" + " " * count + "b" for count in range(2, 40)),
)


@pytest.fixture
def llama(media: Path) -> Path:
    return media / "tokenizers" / "llama"


def copy(folder: Path, to: Path, **files: object) -> Path:
    """`folder` again at `to`, with JSON files beside its own."""
    shutil.copytree(folder, to)
    for name, content in files.items():
        (to / f"{name}.json").write_text(json.dumps(content))
    return to


@pytest.mark.parametrize("legacy", [True, False])
def test_llama_splits_as_sentencepiece_does(llama: Path, legacy: bool) -> None:
    source = sentencepiece.SentencePieceProcessor(model_file=str(llama / "tokenizer.model"))
    tokenizer = load_tokenizer(path=str(llama), legacy=legacy)
    assert [tokenizer(line).input_ids for line in LINES] == [[1, *source.encode(line)] for line in LINES]


def test_llama_ids_that_are_published(llama: Path) -> None:
    tokenizer = load_tokenizer(path=str(llama), extra_tokens=(*IMAGE, *VIDEO), legacy=True)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.convert_tokens_to_ids([*IMAGE, *VIDEO]) == [32000, 32001, 32002, 32003, 32004, 32005]
    assert len(tokenizer) == 32006


def test_llama_tokens_in_files_keep_their_ids(llama: Path, tmp_path: Path) -> None:
    folder = copy(llama, tmp_path / "llava", added_tokens={"<im_end>": 32002, "<im_patch>": 32000, "<im_start>": 32001})
    tokenizer = load_tokenizer(path=str(folder), extra_tokens=VIDEO, legacy=True)
    assert tokenizer.convert_tokens_to_ids([*IMAGE, *VIDEO]) == [32000, 32001, 32002, 32003, 32004, 32005]


def test_llama_after_a_special_token(llama: Path) -> None:
    text = "<vid_end>\nq</s>USER"
    old = load_tokenizer(path=str(llama), extra_tokens=VIDEO, legacy=True)
    new = load_tokenizer(path=str(llama), extra_tokens=VIDEO, legacy=False)
    assert old.tokenize(text) == ["<vid_end>", "\u2581", "<0x0A>", "q", "</s>", "\u2581US", "ER"]
    assert new.tokenize(text) == ["<vid_end>", "<0x0A>", "q", "</s>", "USER"]


def test_small_sentencepiece_splits_as_it_does_itself(pieces: Path) -> None:
    source = sentencepiece.SentencePieceProcessor(model_file=str(pieces / "tokenizer.model"))
    tokenizer = load_tokenizer(path=str(pieces))
    assert [tokenizer(line).input_ids for line in LINES] == [[1, *source.encode(line)] for line in LINES]
    assert tokenizer.padding_side == "right"


def test_bare_model_is_legacy_and_its_config_may_say_otherwise(pieces: Path, tmp_path: Path) -> None:
    assert is_legacy(load_tokenizer(path=str(pieces)))
    newer = copy(pieces, tmp_path / "newer", tokenizer_config={"legacy": False})
    assert not is_legacy(load_tokenizer(path=str(newer)))
    assert is_legacy(load_tokenizer(path=str(newer), legacy=True))


@pytest.mark.parametrize("text", ["  two in front", " one", " ", "\n two"])
def test_legacy_puts_its_space_before_a_space_too(pieces: Path, text: str) -> None:
    source = sentencepiece.SentencePieceProcessor(model_file=str(pieces / "tokenizer.model"))
    tokenizer = load_tokenizer(path=str(pieces), legacy=True)
    assert tokenizer(text).input_ids == [1, *source.encode(text)]
    assert tokenizer(f"x</s>{text}").input_ids[-len(source.encode(text)) - 1 :] == [2, *source.encode(text)]


@pytest.mark.parametrize("legacy", [True, False])
def test_saved_and_loaded_again_is_the_same(pieces: Path, tmp_path: Path, legacy: bool) -> None:
    tokenizer = load_tokenizer(path=str(pieces), extra_tokens=VIDEO, legacy=legacy)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(path=str(tmp_path), extra_tokens=VIDEO, legacy=legacy)
    text = "a  b</s>USER <vid_start><vid_end>\nq"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert (again.pad_token_id, len(again)) == (tokenizer.pad_token_id, len(tokenizer))


def test_legacy_other_than_the_file_says(pieces: Path, tmp_path: Path) -> None:
    load_tokenizer(path=str(pieces), legacy=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"asked for legacy=True.*only tokenizer\.model"):
        load_tokenizer(path=str(tmp_path), legacy=True)


def test_words_get_padding_and_extra_tokens(words: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    words.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(path=str(tmp_path), extra_tokens=VIDEO)
    assert tokenizer.pad_token == "<unk>"
    assert tokenizer.convert_tokens_to_ids(list(VIDEO)) == [len(words), len(words) + 1, len(words) + 2]
    assert tokenizer("What is<vid_patch>it", add_special_tokens=False).input_ids[2] == len(words)


def test_vocabulary_of_another_kind_is_refused(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["what is the man doing in the video", "the ball is red and it is round"] * 50),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=26,
        model_type="unigram",
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="not a byte-pair vocabulary"):
        load_tokenizer(path=str(tmp_path))


def test_added_token_with_a_wrong_id(pieces: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"<im_patch> should have id 9999"):
        load_tokenizer(path=str(copy(pieces, tmp_path / "odd", added_tokens={"<im_patch>": 9999})))


def test_extra_token_that_is_a_common_word(pieces: Path) -> None:
    with pytest.raises(ValueError, match="ordinary piece of text"):
        load_tokenizer(path=str(pieces), extra_tokens=("a",))


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere"])
def test_folder_that_is_not_there(path: str) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load_tokenizer(path=path)


def test_hub_name_that_is_not_cached_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match="run: hf download nobody/nothing"):
        load_tokenizer(path="nobody/nothing")


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_tokenizer(path=str(tmp_path))
