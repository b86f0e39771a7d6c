"""From the turns of a conversation to text, with the stretches that a language model is trained on marked.

A rendered conversation is a list of `Segment`; what is learned is marked here, on the text, so that nothing
later has to find the answers again by counting tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

VIDEO = "<video>"  # marker of the video's place inside a user text; never a token

VICUNA_V1_1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# The missing space after "language." is in the published text.
VIDEO_CHATGPT_V1 = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video content "
    "that the user provides, and assist the user with a variety of tasks using natural language."
    "Follow the instructions carefully and explain your answers in detail based on the provided video."
)


class Turn(NamedTuple):
    """One question and its answer; `assistant` is None where the answer is to be generated."""

    user: str
    assistant: str | None


class Segment(NamedTuple):
    """A stretch of text; `learned` says whether its tokens are training targets."""

    text: str
    learned: bool


@dataclass(frozen=True, kw_only=True)
class Template:
    """The fixed strings around the texts of a conversation.

    A conversation reads `before_system + system + after_system`, then for each turn
    `before_user + user + before_assistant` (given) and `before_answer + answer + end` (learned), then
    `after_end`.
    The opening token of the sequence (BOS) is not part of it: the tokenizer adds it.

    Attributes:
        system: instruction at the start; may be empty, then what stands around it is left out too.
        after_system: what separates the instruction from the first turn.
        before_user: opens the user's text.
        before_assistant: closes the user's text and hands over; a generation prompt ends with it.
        before_answer: opens the answer, learned with it.
        end: closes the answer, learned with it; must be the tokenizer's end token.
        after_end: follows a closed answer, not learned.
        before_system: opens the instruction.
        before_plain_user: follows `before_user` in a turn without a video. Where a template begins every text on a new
            line, the line break between a video and its question comes from `place_video`, and here from this.
    """

    system: str
    after_system: str
    before_user: str
    before_assistant: str
    before_answer: str
    end: str
    after_end: str = ""
    before_system: str = ""
    before_plain_user: str = ""


def vicuna_v1(*, prompt: Literal["training", "inference", "none"] = "training") -> Template:
    """The conversation format of Video-ChatGPT: `{system} USER: {question} ASSISTANT: {answer}</s>USER: ...`.

    Args:
        prompt: which published system text. The released model was trained with "training" and is questioned
            with "inference"; "none" leaves it out, and the text begins with "USER:".

    Raises:
        ValueError: another word.
    """
    systems = {"training": VICUNA_V1_1, "inference": VIDEO_CHATGPT_V1, "none": ""}
    if prompt not in systems:
        raise ValueError(f"vicuna_v1: prompt={prompt!r} is not one of {', '.join(systems)}")
    return Template(
        system=systems[prompt],
        after_system=" ",
        before_user="USER: ",
        before_assistant=" ASSISTANT:",
        before_answer=" ",
        end="</s>",
    )


def llava_qwen() -> Template:
    """The conversation format of LLaVA-interleave on Qwen, as its shipped chat template writes it.

    `<|im_start|>user`, a line with the images, the question, `<|im_end|>`; every text, also the answer, begins with a
    newline of its own, so that there is a blank line where no image stands before it. Qwen's tokenizer makes one token
    of the two newlines, which can only be given or learned as a whole: it is given, and a question ends with it. (The
    shipped template ends a question after the first.) What that template marks as generated ends before `<|im_end|>`,
    so that training on its mask never teaches a model to stop; here the end token is learned.
    """
    return Template(
        system="",
        after_system="<|im_end|>\n",
        before_user="<|im_start|>user\n",
        before_assistant="<|im_end|>\n<|im_start|>assistant\n\n",
        before_answer="",
        end="<|im_end|>",
        after_end="\n",
        before_system="<|im_start|>system\n\n",
        before_plain_user="\n",
    )


def llava_onevision() -> Template:
    """The conversation format of LLaVA-OneVision: `<|im_start|>user`, a blank, the video, the question on a new line.

    Its shipped chat template asks for an answer with `assistant` and a newline, and writes an answer that was given
    with a blank between the two. Here every answer stands where it is asked for.
    """
    return Template(
        system="",
        after_system="<|im_end|>",
        before_user="<|im_start|>user ",
        before_assistant="<|im_end|><|im_start|>assistant\n",
        before_answer="",
        end="<|im_end|>",
        before_system="<|im_start|>system \n",
        before_plain_user="\n",
    )


def render(turns: Sequence[Turn], *, template: Template, system: str | None = None) -> list[Segment]:
    """Writes a conversation as text.

    Args:
        turns: question and answer pairs; only the last may lack its answer (a generation prompt).
        template: the strings around them.
        system: instruction of this conversation, in place of the template's.

    Returns:
        Given and learned segments in turn; joined they are the whole text. `<video>` is left as it stands.

    Raises:
        ValueError: no turn at all, or a turn before the last without an answer.
    """
    if not turns:
        raise ValueError("a conversation without a turn cannot be rendered")
    system = template.system if system is None else system
    given = template.before_system + system + template.after_system if system else ""
    segments: list[Segment] = []
    for number, turn in enumerate(turns, start=1):
        plain = "" if VIDEO in turn.user else template.before_plain_user
        given += template.before_user + plain + turn.user + template.before_assistant
        segments.append(Segment(given, learned=False))
        if turn.assistant is None:
            if number < len(turns):
                raise ValueError(f"turn {number} of {len(turns)} has no answer; only the last may lack one")
            return segments
        segments.append(Segment(template.before_answer + turn.assistant + template.end, learned=True))
        given = template.after_end
    if given:
        segments.append(Segment(given, learned=False))
    return segments


def place_video(turns: Sequence[Turn], *, where: Literal["first", "last", "as_written"]) -> tuple[Turn, ...]:
    """Settles where the video stands in a conversation that has one.

    Args:
        turns: with exactly one `<video>` among the user texts.
        where: "first": before the text of its turn, on a line of its own; "last": after it (what the released
            Video-ChatGPT is questioned with); "as_written": left where it stands.

    Raises:
        ValueError: no marker, more than one, one inside an answer, or an unknown `where`.
    """
    if where not in ("first", "last", "as_written"):
        raise ValueError(f"where={where!r} is not one of first, last, as_written")
    if any(turn.assistant is not None and VIDEO in turn.assistant for turn in turns):
        raise ValueError(f"an answer contains {VIDEO}; the marker belongs into a user text")
    count = sum(turn.user.count(VIDEO) for turn in turns)
    if count != 1:
        raise ValueError(f"{count} markers {VIDEO} in a conversation with one video; write exactly one")
    if where == "as_written":
        return tuple(turns)
    return tuple(turn._replace(user=_moved(turn.user, where)) if VIDEO in turn.user else turn for turn in turns)


def _moved(text: str, where: str) -> str:
    parts = [part.strip() for part in text.split(VIDEO)]
    question = " ".join(part for part in parts if part)
    ordered = (VIDEO, question) if where == "first" else (question, VIDEO)
    return "\n".join(part for part in ordered if part)
