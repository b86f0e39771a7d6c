"""The files beside the weights: what turns frames and messages into the input that a run trained on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    LlavaForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from common.config import build
from common.export import TrainedRun
from common.text.jinja import chat_template
from common.text.prompt import VIDEO, Template, Turn, place_video, render
from common.text.tokenizer import PROBE
from common.weights.source import WeightsError
from projects.llava_video.base import Base
from projects.llava_video.families import Family

RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling
IMAGE_PROCESSORS = {"clip_vision_model": "CLIPImageProcessor", "siglip_vision_model": "SiglipImageProcessor"}
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Shown:
    """How a run turned clips and conversations into input.

    Attributes:
        family: of the model.
        tokenizer: with the placeholder, padding on the left as generation wants it.
        template: strings around the texts.
        place: of the video in its message.
        squash: settings of an image processor that does what the run did to its frames.
        patches: of a frame, those that the processor keeps places for.
    """

    family: Family
    tokenizer: PreTrainedTokenizerFast
    template: Template
    place: Any
    squash: Mapping[str, Any]
    patches: int

    @property
    def patch_id(self) -> int:
        """Id of the placeholder."""
        return int(self.tokenizer.get_added_vocab()[self.family.patch])

    @property
    def end_id(self) -> int:
        """Id of the token that ends an answer."""
        return int(self.tokenizer.get_added_vocab()[self.template.end])


def shown_by(run: TrainedRun, base: Base, family: Family) -> Shown:
    """Reads it from the configuration of the run.

    Raises:
        WeightsError: the resize is one that an image processor has no word for.
    """
    model, rows = run.config["model"], run.config["data"]["train"]
    recipe = dict(model["tokenizer"])
    if recipe.get("path") == model["model"]["weights"]:  # the base may have moved
        recipe["path"] = base.name
    tokenizer = build(recipe)()
    tokenizer.padding_side = "left"
    vision: Any = base.config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    if rows["resize_mode"] not in RESAMPLE:
        raise WeightsError(f"data.train.resize_mode={rows['resize_mode']}: an image processor has no such filter")
    squash = {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": RESAMPLE[rows["resize_mode"]],
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model["mean"]),
        "image_std": list(model["std"]),
    }
    template, place = build(rows["template"])(), rows["video_place"]
    return Shown(family, tokenizer, template, place, squash, rows["tokens_per_frame"])


# One entry a family


@dataclass(frozen=True)
class Kind:
    """What a class of transformers asks of its processor.

    Attributes:
        index: entry of `config.json` that holds the id of the placeholder.
        tokens: placeholders of what a message may show, by the type of its part.
        settings: of the processor, with those of its image and video processors inside.
    """

    index: str
    tokens: Mapping[str, str]
    settings: Callable[[Shown, Base], dict[str, Any]]


def _llava(shown: Shown, base: Base) -> dict[str, Any]:
    config: Any = base.config
    vision = config.vision_config
    if vision.model_type not in IMAGE_PROCESSORS:
        raise WeightsError(
            f"no image processor is known for {vision.model_type}; there is one for {', '.join(IMAGE_PROCESSORS)}"
        )
    extra = int("model.vision_tower.embeddings.class_embedding" in base.headers)
    strategy = config.vision_feature_select_strategy
    places = (vision.image_size // vision.patch_size) ** 2 + extra - (strategy == "default")
    _refuse_other_count(places, shown)
    return {
        "processor_class": "LlavaProcessor",
        "patch_size": vision.patch_size,
        "num_additional_image_tokens": extra,
        "vision_feature_select_strategy": strategy,
        "image_token": shown.family.patch,
        "image_processor": {"image_processor_type": IMAGE_PROCESSORS[vision.model_type], **shown.squash},
    }


def _onevision(shown: Shown, base: Base) -> dict[str, Any]:
    config: Any = base.config
    vision = config.vision_config
    places = (vision.image_size // vision.patch_size) ** 2
    _refuse_other_count(places, shown)
    pinpoints = {"image_grid_pinpoints": config.image_grid_pinpoints, "do_pad": True}
    return {
        "processor_class": "LlavaOnevisionProcessor",
        "num_image_tokens": places,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_aspect_ratio": config.vision_aspect_ratio,
        "image_token": "<image>",
        "video_token": shown.family.patch,
        "image_processor": {"image_processor_type": "LlavaOnevisionImageProcessor", **shown.squash, **pinpoints},
        "video_processor": {
            "video_processor_type": "LlavaOnevisionVideoProcessor",
            "do_sample_frames": False,
            **shown.squash,
        },
    }


def _refuse_other_count(places: int, shown: Shown) -> None:
    if places != shown.patches:
        raise WeightsError(
            f"transformers would keep {places} places for a frame of this model, the run had data.train."
            f"tokens_per_frame={shown.patches}; it cannot be exported"
        )


KINDS = {
    LlavaForConditionalGeneration: Kind("image_token_index", {"image": "<image>"}, _llava),
    LlavaOnevisionForConditionalGeneration: Kind(
        "video_token_index", {"image": "<image>", "video": "<video>"}, _onevision
    ),
}


def kind_of(family: Family) -> Kind:
    """What the class of a family asks for.

    Raises:
        WeightsError: nothing is known of it.
    """
    for model_class, kind in KINDS.items():
        if family.model_class is model_class:
            return kind
    raise WeightsError(f"no processor is known for {family.model_class.__name__}; take export.layout=trained")


# Files


def write_processor(folder: Path, *, shown: Shown, base: Base) -> None:
    """Processor, tokenizer, chat template and generation settings, then read back through transformers.

    Raises:
        WeightsError: the model has no processor that does what the run did.
        OSError: the tokenizer or the chat template does not come back as it was.
    """
    kind = kind_of(shown.family)
    settings = kind.settings(shown, base)
    _write(folder / "processor_config.json", settings)
    for name, part in (("preprocessor", "image_processor"), ("video_preprocessor", "video_processor")):
        if part in settings:  # where releases before the fifth look for it
            _write(folder / f"{name}_config.json", {**settings[part], "processor_class": settings["processor_class"]})
    shown.tokenizer.chat_template = chat_template(shown.template, tokens=kind.tokens, place=shown.place)
    shown.tokenizer.save_pretrained(folder)
    _write(folder / "generation_config.json", _generation(shown, base))
    _compare(folder, shown, seen=next(part for part, token in kind.tokens.items() if token == shown.family.patch))


def _generation(shown: Shown, base: Base) -> dict[str, Any]:
    """The base's settings, and an answer ends with the token that the run learned to end with."""
    path = base.folder / "generation_config.json" if base.folder is not None else None
    given = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
    ends = given.get("eos_token_id", [])
    ends = ends if isinstance(ends, list) else [ends]
    special = {"bos_token_id": shown.tokenizer.bos_token_id, "pad_token_id": shown.tokenizer.pad_token_id}
    known = {name: number for name, number in special.items() if number is not None}
    return {**known, **given, "eos_token_id": [shown.end_id, *(each for each in ends if each != shown.end_id)]}


def _compare(folder: Path, shown: Shown, *, seen: str) -> None:
    """Reads tokenizer and template as their user will, and compares a conversation with what the run would write."""
    turns = [Turn(f"{VIDEO}\n{PROBE}", "Yes."), Turn("And then?", None)]
    text = "".join(part.text for part in render(place_video(turns, where=shown.place), template=shown.template))
    messages: list[Any] = [
        {"role": "user", "content": [{"type": seen}, {"type": "text", "text": PROBE}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And then?"},
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    wanted = text.replace(VIDEO, shown.family.patch)
    if written != wanted or tokenizer(wanted).input_ids != shown.tokenizer(wanted).input_ids:
        raise OSError(f"{folder}: tokenizer or chat template do not read back as the run used them: {written!r}")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
