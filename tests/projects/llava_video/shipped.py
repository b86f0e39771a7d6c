"""The chat templates of the published models, written from what they are known to render.

LLaVA-interleave: a message opens with its role and a line break, its images follow without anything between them,
each text begins with a line break of its own, and the end token is followed by a line break; what an assistant
says is marked as generated with its line break and without the end token. LLaVA-OneVision: a blank for the line break
behind the role, videos behind the images, nothing behind the end token.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from common.text.prompt import Turn


def jinja(*, after_role: str, after_end: str) -> str:
    """A template of this kind."""
    pick = "{%- for part in message.content if part.type == '"
    said = "{%- if message.role == 'assistant' %}{% generation %}{{ '\\n' + part.text }}{% endgeneration %}"
    said += "{%- else %}{{ '\\n' + part.text }}{% endif %}"
    return (
        "{%- for message in messages %}{{ '<|im_start|>' + message.role + '" + after_role + "' }}"
        f"{pick}image' %}}{{{{ '<image>' }}}}{{% endfor %}}"
        f"{pick}video' %}}{{{{ '<video>' }}}}{{% endfor %}}"
        f"{pick}text' %}}{said}{{% endfor %}}"
        "{{- '<|im_end|>" + after_end + "' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


INTERLEAVE = jinja(after_role="\\n", after_end="\\n")
ONEVISION = jinja(after_role=" ", after_end="")


def messages(turns: Sequence[Turn], *, kind: str, count: int, system: str | None = None) -> list[dict[str, Any]]:
    """Turns as messages of parts, `count` visual parts behind the text of the first."""
    made = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    for number, turn in enumerate(turns):
        parts: list[dict[str, str]] = [{"type": "text", "text": turn.user.replace("<video>", "")}]
        parts += [{"type": kind}] * (count if number == 0 else 0)
        made.append({"role": "user", "content": parts})
        if turn.assistant is not None:
            made.append({"role": "assistant", "content": [{"type": "text", "text": turn.assistant}]})
    return made


def rendered(tokenizer: PreTrainedTokenizerFast, chat: Sequence[Any], template: str, *, asks: bool = False) -> str:
    """The text of a chat."""
    text = tokenizer.apply_chat_template(list(chat), chat_template=template, tokenize=False, add_generation_prompt=asks)
    assert isinstance(text, str)
    return text
