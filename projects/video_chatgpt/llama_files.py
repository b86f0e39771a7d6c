"""The files beside the weights of a LLaMA of 2023: configurations with their true token ids, and tokenizer files."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from common.weights.source import WeightsError

log = logging.getLogger(__name__)

# LLaMA's tokenizer.model has <unk> 0, <s> 1, </s> 2. The repositories of LLaVA-Lightning say 0, 1, -1 or 0, 1, 0
# instead, with which nothing stops at </s>.
TOKEN_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder.

    Raises:
        WeightsError: there is none.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"{path} is not there; fetch it with the weights")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def tokenizer_files(folder: Path) -> list[Path]:
    """Files of the tokenizer of a folder.

    Raises:
        WeightsError: neither a `tokenizer.model` nor a `tokenizer.json`.
    """
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not {"tokenizer.model", "tokenizer.json"} & {path.name for path in found}:
        raise WeightsError(f"{folder}: neither tokenizer.model nor tokenizer.json; fetch the tokenizer too")
    return found


def copy_llama_files(source: Path, target: Path, *, as_llama: bool, changes: dict[str, Any] | None = None) -> int:
    """Copies configurations and tokenizer, with the token ids corrected.

    Args:
        source: folder to read.
        target: folder to write.
        as_llama: whether `model_type` becomes "llama". The repositories say "llava", by which transformers now means
            another model; the keys that begin with mm_ stay, and the projector's tensors with them.
        changes: further entries of `config.json`.

    Returns:
        How many entries were corrected. Each is logged.
    """
    config = read_config(source)
    wanted = dict(TOKEN_IDS) | (changes or {})
    if as_llama:
        wanted |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    corrected = _write(target / "config.json", config, wanted)
    generation = source / "generation_config.json"
    if generation.is_file():
        content = json.loads(generation.read_text(encoding="utf-8"))
        corrected += _write(target / generation.name, content, TOKEN_IDS)
    for path in tokenizer_files(source):
        shutil.copyfile(path, target / path.name)
    return corrected


def _write(path: Path, content: dict[str, Any], wanted: dict[str, Any]) -> int:
    differing = {key: value for key, value in wanted.items() if content.get(key) != value}
    for key, value in differing.items():
        log.warning("%s: %s was %s, is now %s", path.name, key, content.get(key), value)
    path.write_text(json.dumps(content | wanted, indent=2) + "\n", encoding="utf-8")
    return len(differing)
