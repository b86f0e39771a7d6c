"""Loading a tokenizer, and proving that it is the one that was meant before anything is encoded with it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import sentencepiece
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import normalizers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

SENTENCEPIECE = "tokenizer.model"
HUB_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)
PROBE = "In 2023, what's  the   man doing?\n\tA b\u00e9b\u00e9 \u89c6\u9891 \U0001f600 (unhappily)."


def load_tokenizer(
    *, path: str, extra_tokens: Sequence[str] = (), legacy: bool | None = None
) -> PreTrainedTokenizerFast:
    """Loads a fast tokenizer with character offsets; nothing is downloaded.

    A `tokenizer.json` is taken to the letter. A folder with a sentencepiece `tokenizer.model` and without one
    is converted here: transformers 5 ranks merges by row instead of by score, which splits runs of spaces
    otherwise than the model was trained with, and adds no opening token.

    Args:
        path: a folder, or the name of a Hub repository whose tokenizer files are in the local cache.
        extra_tokens: special tokens to append, in this order, where the vocabulary lacks them.
        legacy: whether a stretch of text after a special token begins with an extra U+2581, as it did for the
            checkpoints of 2023 (True). None: what the files say; a `tokenizer.model` with no word on it is
            legacy.

    Returns:
        Tokenizer with padding on the right and a padding token (the unknown token if it had none). It adds no
        end token; it adds the opening token at the front, or none at all.

    Raises:
        ValueError: no usable file, not a fast tokenizer, `legacy` other than the files', or special tokens
            that are ordinary text there.
    """
    folder = _folder(path)
    if (folder / "tokenizer.json").is_file():
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    elif (folder / SENTENCEPIECE).is_file():
        tokenizer = _from_sentencepiece(folder, legacy)
    elif (folder / "vocab.json").is_file():
        tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))
    else:
        raise ValueError(f"{folder}: no tokenizer.json, {SENTENCEPIECE} or vocab.json; name a folder that has one")
    if not tokenizer.is_fast:
        raise ValueError(f"{path}: {type(tokenizer).__name__} gives no character offsets; save a tokenizer.json")
    tokenizer.padding_side = "right"
    _settle_special_tokens(tokenizer, path, extra_tokens)
    if legacy is not None and is_legacy(tokenizer) != legacy:
        raise ValueError(
            f"{path}: asked for legacy={legacy}, its tokenizer.json says otherwise; "
            f"leave legacy out, or use a folder with only {SENTENCEPIECE}"
        )
    return tokenizer


def is_legacy(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether text after a special token begins with an extra U+2581, as for the checkpoints of 2023."""
    ids = tokenizer(f"{tokenizer.eos_token}\n", add_special_tokens=False).input_ids
    return bool(tokenizer.convert_ids_to_tokens(ids[1]) == "\u2581")


def _folder(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path)
    if Path(path).is_absolute() or path.startswith(".") or path.count("/") != 1:
        raise ValueError(f"{path}: no such folder; the tokenizer is read from a folder or a cached Hub repository")
    try:
        return Path(snapshot_download(path, allow_patterns=list(HUB_FILES), local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise ValueError(f"{path}: neither a folder nor in the local Hub cache; run: hf download {path}") from error


def _from_sentencepiece(folder: Path, legacy: bool | None) -> PreTrainedTokenizerFast:
    source = sentencepiece.SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE))
    config = _json(folder / "tokenizer_config.json")
    legacy = bool(config.get("legacy", True)) if legacy is None else legacy
    vocab = {source.id_to_piece(row): row for row in range(source.get_piece_size())}
    tokenizer: PreTrainedTokenizerFast = LlamaTokenizer(
        vocab=vocab,
        merges=_merges(source),
        unk_token=source.id_to_piece(source.unk_id()),
        bos_token=source.id_to_piece(source.bos_id()),
        eos_token=source.id_to_piece(source.eos_id()),
        legacy=legacy,
        add_bos_token=True,
        model_max_length=config.get("model_max_length") or int(1e30),
    )
    if legacy:
        # sentencepiece puts its space before every stretch of text, also before one that begins with a space.
        backend = tokenizer.backend_tokenizer
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        backend.pre_tokenizer = None
    found, wanted = tokenizer(PROBE).input_ids[1:], source.encode(PROBE)
    if found != wanted:
        raise ValueError(
            f"{folder / SENTENCEPIECE}: not a byte-pair vocabulary of the LLaMA kind (a line of text splits "
            "otherwise than in sentencepiece); give a folder with a tokenizer.json"
        )
    _append(tokenizer, _added(folder, config), str(folder))
    return tokenizer


def _merges(source: sentencepiece.SentencePieceProcessor) -> list[tuple[str, str]]:
    """Pairs in the order in which sentencepiece joins them: by the score of what they make, best first."""
    scores = {
        source.id_to_piece(row): source.get_score(row)
        for row in range(source.get_piece_size())
        if not (source.is_control(row) or source.is_unknown(row) or source.is_byte(row))
    }
    pairs = [
        (-score, -cut, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    pairs.sort(key=lambda pair: pair[:2])
    return [(left, right) for _, _, left, right in pairs]


def _added(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    """Tokens that the files add to the vocabulary, with their ids; old and new files say it in two ways."""
    added = {str(token): int(row) for token, row in _json(folder / "added_tokens.json").items()}
    for row, token in config.get("added_tokens_decoder", {}).items():
        added[token["content"]] = int(row)
    return added


def _append(tokenizer: PreTrainedTokenizerFast, added: dict[str, int], name: str) -> None:
    present = tokenizer.get_vocab()
    ordered = sorted((row, token) for token, row in added.items() if token not in present)
    tokenizer.add_tokens([token for _, token in ordered], special_tokens=True)
    for token, row in added.items():
        got = tokenizer.convert_tokens_to_ids(token)
        if got != row:
            raise ValueError(f"{name}: added token {token} should have id {row}, the vocabulary gives {got}")


def _settle_special_tokens(tokenizer: PreTrainedTokenizerFast, path: str, extra_tokens: Sequence[str]) -> None:
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{path}: the tokenizer has no end token, without which no answer ever ends")
    if tokenizer.pad_token_id is None:
        if tokenizer.unk_token is None:
            raise ValueError(f"{path}: neither a padding nor an unknown token; add pad_token to its files")
        tokenizer.pad_token = tokenizer.unk_token
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([token for token in extra_tokens if token not in known], special_tokens=True)
    ordinary = [token for token in (tokenizer.eos_token, *extra_tokens) if token not in tokenizer.get_added_vocab()]
    if ordinary:
        raise ValueError(f"{path}: {ordinary[0]!r} is an ordinary piece of text there, not a special token")
    ids = tokenizer("a").input_ids
    if tokenizer.bos_token_id in ids[1:]:
        raise ValueError(f"{path}: the opening token {tokenizer.bos_token} is not where it belongs, at the front")
    if ids[-1] == tokenizer.eos_token_id:
        raise ValueError(f"{path}: the tokenizer adds its end token by itself; set add_eos_token to false")


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
