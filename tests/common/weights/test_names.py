"""What transformers makes of names in files, against what it writes and loads itself."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

from common.weights.names import empty_model, file_names, names_in_files, wanted_shapes
from common.weights.source import Header, WeightsError

VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
TEXT = {
    "model_type": "llama",
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}
NORM, HEAD = "language_model.model.norm.weight", "language_model.lm_head.weight"


def config(*, tied: bool) -> LlavaConfig:
    vision = {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **VISION}
    return LlavaConfig(vision_config=vision, text_config=TEXT, image_token_index=11, tie_word_embeddings=tied)


def saved(folder: Path, *, tied: bool) -> dict[str, Header]:
    model: PreTrainedModel = LlavaForConditionalGeneration(config(tied=tied))
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    return {name: Header(tuple(value.shape), value.dtype) for name, value in tensors.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_names_are_those_that_transformers_writes(tied: bool, tmp_path: Path) -> None:
    headers = saved(tmp_path, tied=tied)
    model = empty_model(LlavaForConditionalGeneration, config(tied=tied))
    assert all(value.is_meta for value in model.state_dict().values())
    names = file_names(model, wanted_shapes(model))
    assert set(names.values()) == set(headers)
    assert (HEAD in headers) == (not tied)
    assert names["model.language_model.norm.weight"] == NORM
    assert names_in_files(model, headers, source="x") == names
    assert names_in_files(model, {own: headers[name] for own, name in names.items()}, source="x") == {
        own: own for own in names
    }


def test_what_the_model_does_not_have_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    headers = saved(tmp_path, tied=True)
    model = empty_model(LlavaForConditionalGeneration, config(tied=True))
    wanted = names_in_files(model, headers, source="x")
    more = headers | {HEAD: headers["language_model.model.embed_tokens.weight"], "other.weight": headers[NORM]}
    with caplog.at_level("INFO"):
        assert names_in_files(model, more, source="x") == wanted
    assert "1 tensors are of no use to LlavaForConditionalGeneration, such as other.weight" in caplog.text


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    headers = saved(tmp_path, tied=True)
    model = empty_model(LlavaForConditionalGeneration, config(tied=True))
    less = {name: header for name, header in headers.items() if name != NORM}
    with pytest.raises(WeightsError, match=r"x lacks 1 parameters .*model\.language_model\.norm\.weight"):
        names_in_files(model, less, source="x")
    with pytest.raises(WeightsError, match=r"is \(9,\), model\.language_model\.norm\.weight of .* is \(8,\)"):
        names_in_files(model, headers | {NORM: Header((9,), torch.float32)}, source="x")
    with pytest.raises(WeightsError, match=r"are both model\.language_model\.norm\.weight"):
        names_in_files(model, headers | {"model.language_model.norm.weight": headers[NORM]}, source="x")
