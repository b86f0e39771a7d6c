"""The word-level tokenizer of the tiny base models."""

import re
from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from common.shapes_world.edits import INSTRUCTIONS
from common.shapes_world.language import COLUMNS, NUMBERS, QUESTIONS, ROWS
from common.shapes_world.scene import COLOURS, DIRECTIONS, SHAPES

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0, 1, 2, 3, as LLaMA's but for the padding
# CLIP in transformers takes an end id of 2 for the faulty configurations of 2021 and looks for the largest id instead.
CLIP_SPECIAL = ("<pad>", "<s>", "<unk>", "</s>")
PLURALS = ("squares", "triangles", "crosses", "rings")
CELLS = 4  # columns, and rows, in which a log gives places
COLUMN_WORDS = tuple(f"column{i}" for i in range(CELLS))
ROW_WORDS = tuple(f"row{i}" for i in range(CELLS))
TEMPLATE = "user assistant : ; , . ? ! a an the and at is it with in on of there small large moves"
MORE = "nothing yes no video picture frame object objects appears vanishes first second then describe what"


def vocabulary(special: Sequence[str] = SPECIAL) -> list[str]:
    """All words, lower case: the special ones first, then the rest in alphabetical order."""
    asked = [wording for wordings in QUESTIONS.values() for wording in wordings]
    lists = (COLOURS, SHAPES, PLURALS, DIRECTIONS, NUMBERS, ROWS, COLUMNS, COLUMN_WORDS, ROW_WORDS)
    listed = [word for words in lists for word in words]
    text = " ".join([*listed, *asked, *INSTRUCTIONS.values(), TEMPLATE, MORE])
    words = set(re.findall(r"[a-z0-9]+|[^\sa-z0-9]", re.sub(r"\{\w+\}", " ", text).lower()))
    return [*special, *sorted(words)]


def build_tokenizer(*, clip: bool, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, split at spaces and punctuation, in lower case; an unknown word is `<unk>`.

    Args:
        clip: whether it is CLIP's, which ends each text with `</s>`; both begin it with `<s>`.
        max_length: tokens that the model has places for.
    """
    words = vocabulary(CLIP_SPECIAL if clip else SPECIAL)
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if clip else "<s> $A",
        special_tokens=[(token, vocab[token]) for token in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
