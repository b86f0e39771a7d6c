"""The chat template as transformers renders it, against our own rendering of the same conversation."""

import itertools
from typing import Any, Literal

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from common.text.jinja import chat_template
from common.text.prompt import VIDEO, Template, Turn, llava_onevision, llava_qwen, place_video, render, vicuna_v1

TEMPLATES = {
    "qwen": llava_qwen(),
    "onevision": llava_onevision(),
    "vicuna": vicuna_v1(),
    "none": vicuna_v1(prompt="none"),
}
ODD = "  \"What\" is {{ it }} \u00e9 {% raw %} 'there'?\n\\n  "
Place = Literal["first", "last", "as_written"]


def user(*parts: str) -> dict[str, Any]:
    shown = [{"type": "image"} if part == VIDEO else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": shown}


def rendered(messages: list[dict[str, Any]], template: Template, place: Place, **settings: Any) -> str:
    text = chat_template(template, tokens={"image": "<image>", "video": "<video>"}, place=place)
    return str(render_jinja_template([messages], chat_template=text, **settings)[0][0])


def ours(turns: list[Turn], template: Template, place: Place, system: str | None = None) -> str:
    placed = place_video(turns, where=place) if any(VIDEO in turn.user for turn in turns) else turns
    text = "".join(part.text for part in render(placed, template=template, system=system))
    return text.replace(VIDEO, "<image>")


@pytest.mark.parametrize(("name", "place"), [*itertools.product(TEMPLATES, ["first", "last", "as_written"])])
def test_a_conversation_reads_as_in_training(name: str, place: Place) -> None:
    template = TEMPLATES[name]
    for parts in ((VIDEO, ODD), (ODD, VIDEO), ("Look:", VIDEO, ODD), (VIDEO,), (VIDEO, "a", "b")):
        messages = [user(*parts), {"role": "assistant", "content": "A dog."}, {"role": "user", "content": ODD}]
        turns = [Turn("\n".join(parts), "A dog."), Turn(ODD, None)]
        assert rendered(messages, template, place, add_generation_prompt=True) == ours(turns, template, place)
        closed = [*messages, {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}]
        turns = [Turn("\n".join(parts), "A dog."), Turn(ODD, "Yes.")]
        assert rendered(closed, template, place) == ours(turns, template, place)


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_instruction_takes_the_place_of_the_own_one(name: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, user(VIDEO, "Why?")]
    turns = [Turn(f"{VIDEO}\nWhy?", None)]
    template = TEMPLATES[name]
    assert rendered(messages, template, "first", add_generation_prompt=True) == ours(
        turns, template, "first", system="Be brief."
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learned_stands_between_the_markers(name: str) -> None:
    template = TEMPLATES[name]
    turns = [Turn(f"{VIDEO}\nWhy?", "So."), Turn("And?", "Thus.")]
    messages = [user(VIDEO, "Why?"), {"role": "assistant", "content": "So."}, user("And?")]
    messages += [{"role": "assistant", "content": "Thus."}]
    text = chat_template(template, tokens={"image": "<image>"}, place="first")
    ((whole,), (marked,)) = render_jinja_template([messages], chat_template=text, return_assistant_tokens_mask=True)
    learned = [part.text for part in render(place_video(turns, where="first"), template=template) if part.learned]
    assert [whole[start:stop] for start, stop in marked] == learned


def test_images_stand_together_and_a_last_question_stays_open() -> None:
    template = llava_qwen()
    messages = [user(VIDEO, VIDEO, VIDEO, "Why?")]
    for place, seen in (("first", "<image><image><image>\nWhy?"), ("last", "Why?\n<image><image><image>")):
        assert rendered(messages, template, place) == f"<|im_start|>user\n{seen}"  # type: ignore[arg-type]
    videos = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Why?"}]}]
    assert "<video>\nWhy?" in rendered(videos, template, "first")


def test_a_part_of_another_type_is_refused() -> None:
    messages = [{"role": "user", "content": [{"type": "audio"}]}]
    with pytest.raises(jinja2.TemplateError, match="audio has no place"):
        rendered(messages, llava_qwen(), "first")
