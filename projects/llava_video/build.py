"""Vision language models of transformers: published, composed of two published parts, or random."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils.import_utils import is_bitsandbytes_available

from common.random import mix
from common.text.language_model import blocks, recompute
from common.weights.pretrained import load_pretrained
from projects.llava_video.families import Family


def build_vlm(
    *,
    family: Family,
    weights: str,
    architecture: Mapping[str, Any] | None = None,
    vision: str | None = None,
    language_model: str | None = None,
    dtype: str = "bfloat16",
    quantize: bool = False,
    checkpoint_fraction: float = 0.0,
    compile_blocks: bool = False,
    liger: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """A model of a family.

    Args:
        family: its class and its placeholder.
        weights: Hub id or folder, or "random" for `architecture` with random weights.
        architecture: arguments of the config class; only for "random".
        vision: folder or Hub id whose vision tower replaces the random one.
        language_model: folder or Hub id of a causal language model that replaces the random one.
        dtype: of the weights: bfloat16 for frozen ones, float32 for those that train.
        quantize: hold the language model's frozen matrices in 4 bits (NF4, arXiv:2305.14314); needs bitsandbytes.
        checkpoint_fraction: share of the language model's blocks that recompute their activations.
        compile_blocks: run `torch.compile` on each of them.
        liger: use the fused kernels of liger-kernel (optional, GPU).
        seed: of the random weights.

    Raises:
        ValueError: "random" without an architecture or with `quantize`, parts without "random", a fraction outside
            0..1, or an optional package that is missing.
    """
    if not 0 <= checkpoint_fraction <= 1:
        raise ValueError(f"model.model.checkpoint_fraction={checkpoint_fraction}: a share of the blocks, 0..1")
    if quantize and weights == "random":
        raise ValueError("model.model.quantize=true packs weights as they are read from a file; name one in weights")
    if weights == "random":
        model = _random(family, architecture, getattr(torch, dtype), seed)
        _compose(model, vision=vision, language_model=language_model)
    elif vision is not None or language_model is not None:
        raise ValueError("model.model.vision and .language_model are parts of a new model; they need weights=random")
    else:
        settings = {"quantization_config": _four_bits()} if quantize else {}
        model = load_pretrained(family.model_class, weights, dtype=getattr(torch, dtype), **settings)
    model.config.use_cache = False
    if liger:
        _use_liger(model)
    layers = blocks(model)
    recompute(layers, fraction=checkpoint_fraction)
    if compile_blocks:
        for block in layers:
            block.compile()
    return model


def _random(family: Family, architecture: Mapping[str, Any] | None, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    if architecture is None:
        raise ValueError("model.model.weights=random needs model.model.architecture, the arguments of its config class")
    config_class: Any = family.model_class.config_class
    config = config_class(**{name: value for name, value in architecture.items() if value is not None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("vlm", seed))
        model = family.model_class._from_config(config, dtype=dtype)
    return model


def _compose(model: Any, *, vision: str | None, language_model: str | None) -> None:
    """Copies the weights of published parts into a model of their architecture."""
    if vision is not None:
        tower = load_pretrained(type(model.model.vision_tower), vision, dtype=model.dtype)
        model.model.vision_tower.load_state_dict(tower.state_dict())
    if language_model is not None:
        decoder = load_pretrained(AutoModelForCausalLM, language_model, dtype=model.dtype)
        model.model.language_model.load_state_dict(decoder.model.state_dict())
        model.lm_head.load_state_dict(decoder.lm_head.state_dict())


def _four_bits() -> BitsAndBytesConfig:
    if not is_bitsandbytes_available():
        raise ValueError("model.model.quantize=true needs bitsandbytes: pip install -e '.[4bit]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    )


def _use_liger(model: PreTrainedModel) -> None:
    try:
        from liger_kernel.transformers import monkey_patch as liger  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError("model.model.liger=true needs liger-kernel: pip install -e '.[liger]'") from error
    decoder = model.get_decoder()
    if decoder.config.model_type not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(
            f"model.model.liger=true: there are no such kernels for {decoder.config.model_type}; leave it out"
        )
    # The loss stays ours, at the targets alone: the fused one would take the place of the decoder's forward pass.
    settings = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    liger._apply_liger_kernel_to_instance(model=decoder, **settings)
