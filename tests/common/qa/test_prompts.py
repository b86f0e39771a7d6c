"""Prompts are filled once, known by their wording, and may come from a file."""

import json
from pathlib import Path

import pytest
import yaml

from common.qa.benchmarks import ANSWER, ASPECTS, Item
from common.qa.prompts import VERSION, load

PAIR = Item("1", "v", ("who?", "which one?"), "he", None, ("consistency",))
ITEM = Item("1", "v", ("what?",), "it costs $5", None, ("answer",))


def test_every_aspect_shows_the_judge_all_texts_and_the_reply_that_is_wanted() -> None:
    prompts = load(None)
    assert set(prompts.aspects) == {*ASPECTS, ANSWER}
    for aspect in prompts.aspects:
        pair = aspect == "consistency"
        item, predictions = (PAIR, ["him", "her"]) if pair else (ITEM, ["$question is {open}"])
        system, user = prompts.messages(aspect, item, predictions)
        assert (system["role"], user["role"]) == ("system", "user")
        for text in (*item.questions, item.reference, *predictions):
            assert text in user["content"]  # a placeholder inside a prediction stays as it is
        assert ("'pred'" in user["content"]) == (aspect == ANSWER)
        assert "'score'" in user["content"]
    assert len({prompt.system for prompt in prompts.aspects.values()}) == 6


def test_the_digest_is_that_of_the_words(tmp_path: Path) -> None:
    ours = load(None)
    assert ours.digest(["temporal", "detail"]) == ours.digest(["detail", "temporal"]) != ours.digest(["detail"])
    texts = {"system": ours.aspects["detail"].system, "user": ours.aspects["detail"].user}
    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump({"version": "copy", "prompts": {"detail": texts}}))
    copy = load(path)
    assert (copy.version, ours.version) == ("copy", VERSION)
    assert copy.digest(["detail"]) == ours.digest(["detail"])
    texts["system"] += "!"
    path.write_text(json.dumps({"version": "copy", "prompts": {"detail": texts}}))
    assert load(path).digest(["detail"]) != ours.digest(["detail"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"prompts": {}}, "should hold version and prompts"),
        ({"version": 1, "prompts": {"style": {}}}, "no aspect 'style'; there is correctness"),
        ({"version": 1, "prompts": {"detail": {"user": "x"}}}, "detail: should hold system and user"),
        (
            {"version": 1, "prompts": {"detail": {"system": "", "user": "$question $reference"}}},
            r"should hold \$prediction, \$question, \$reference;",
        ),
        (
            {"version": 1, "prompts": {"detail": {"system": "", "user": "$question $reference $prediction costs 5$"}}},
            r"a dollar sign itself is written \$\$",
        ),
    ],
)
def test_a_file_that_could_not_be_filled_is_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load(path)
