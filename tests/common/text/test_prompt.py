import pytest

from common.text.prompt import (
    VICUNA_V1_1,
    VIDEO_CHATGPT_V1,
    Segment,
    Template,
    Turn,
    place_video,
    render,
    vicuna_v1,
)

ONE = (Turn("<video>\nWhat is it?", "A dog."),)
TWO = (*ONE, Turn("And then?", "It runs."))


def text(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def test_published_format_letter_by_letter() -> None:
    assert text(render(TWO, template=vicuna_v1())) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions. "
        "USER: <video>\nWhat is it? ASSISTANT: A dog.</s>"
        "USER: And then? ASSISTANT: It runs.</s>"
    )


def test_learned_segments_are_the_answers_and_their_end_tokens() -> None:
    learned = [segment.text for segment in render(TWO, template=vicuna_v1()) if segment.learned]
    assert learned == [" A dog.</s>", " It runs.</s>"]


def test_generation_prompt_ends_without_a_space() -> None:
    segments = render((*ONE, Turn("And then?", None)), template=vicuna_v1(prompt="inference"))
    assert text(segments).startswith(VIDEO_CHATGPT_V1 + " USER: <video>")
    assert text(segments).endswith("A dog.</s>USER: And then? ASSISTANT:")
    assert not segments[-1].learned


def test_no_system_text_begins_with_the_user() -> None:
    assert text(render(ONE, template=vicuna_v1(prompt="none"))).startswith("USER: <video>")
    assert text(render(ONE, template=vicuna_v1(), system="")).startswith("USER: <video>")


def test_system_of_a_conversation_replaces_that_of_the_template() -> None:
    assert text(render(ONE, template=vicuna_v1(), system="Be brief.")).startswith("Be brief. USER: ")
    assert VICUNA_V1_1 not in text(render(ONE, template=vicuna_v1(), system="Be brief."))


def test_other_templates_are_data_alone() -> None:
    chatml = Template(
        system="",
        after_system="",
        before_user="<|im_start|>user\n",
        before_assistant="<|im_end|>\n<|im_start|>assistant\n",
        before_answer="\n",
        end="<|im_end|>",
        after_end="\n",
    )
    segments = render(TWO, template=chatml)
    assert segments[1] == Segment("\nA dog.<|im_end|>", learned=True)
    assert segments[2].text.startswith("\n<|im_start|>user\nAnd then?<|im_end|>\n")
    assert segments[-1] == Segment("\n", learned=False)


def test_unknown_prompt_is_named() -> None:
    with pytest.raises(ValueError, match="prompt='v1'"):
        vicuna_v1(prompt="v1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("turns", "message"),
    [((), "without a turn"), ((Turn("a", None), Turn("b", "c")), "turn 1 of 2 has no answer")],
)
def test_conversations_that_cannot_be_rendered(turns: tuple[Turn, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(turns, template=vicuna_v1())


@pytest.mark.parametrize(
    ("written", "where", "expected"),
    [
        ("<video>\nWhat is it?", "last", "What is it?\n<video>"),
        ("What is it?\n<video>", "first", "<video>\nWhat is it?"),
        ("<video>What is it?", "first", "<video>\nWhat is it?"),
        ("In <video> who runs?", "last", "In who runs?\n<video>"),
        ("In <video> who runs?", "as_written", "In <video> who runs?"),
        ("<video>", "last", "<video>"),
    ],
)
def test_place_of_the_video(written: str, where: str, expected: str) -> None:
    placed = place_video((Turn("Hello.", "Hi."), Turn(written, "A dog.")), where=where)  # type: ignore[arg-type]
    assert placed == (Turn("Hello.", "Hi."), Turn(expected, "A dog."))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((Turn("What is it?", "A dog."),), "0 markers"),
        ((Turn("<video><video>", "A dog."),), "2 markers"),
        ((Turn("<video>a", "b"), Turn("<video>c", "d")), "2 markers"),
        ((Turn("<video>a", "see <video>"),), "an answer contains"),
    ],
)
def test_one_video_block_or_an_error(turns: tuple[Turn, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place_video(turns, where="last")


def test_unknown_place_is_named() -> None:
    with pytest.raises(ValueError, match="where='middle'"):
        place_video(ONE, where="middle")  # type: ignore[arg-type]
