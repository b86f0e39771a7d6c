"""The tokenizer and the files that the tests of this folder share."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.projects.llava_video.tiny import make_tokenizer, write_media


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Splits text as Qwen's does."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, a GIF, a folder of images, single images, and a file that is no video."""
    return write_media(tmp_path_factory.mktemp("clips"))
