"""Tokenizers of two kinds that need no download: words, and byte pairs by sentencepiece."""

import io
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "USER: What is the man doing in the video? ASSISTANT: The man is running after a dog.",
    "USER: Which colour does the ball have? ASSISTANT: The ball is red, and it is round.",
    "Ok man. It runs.  Two spaces, then   three.",
]


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    """One token a word; a bare vocabulary, without the visual tokens."""
    vocab = ["<unk>", "<s>", "</s>", "USER", "ASSISTANT", ":", "What", "is", "it", "?", "A", "dog", "."]
    vocab += ["It", "runs", "And", "then"]
    backend = Tokenizer(models.WordLevel({word: row for row, word in enumerate(vocab)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with nothing but a small `tokenizer.model` of the LLaMA kind."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 50),
        model_writer=written,
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    return folder
