"""The learning rung of text to video: what captions say of colour, shape and direction is seen in the clips."""

from pathlib import Path

import pytest

from tests.learning import call, evaluation, values, write_results

pytestmark = [pytest.mark.learning, pytest.mark.nightly]

TOLD = (
    "Share of clips of held-out captions in which a tracker finds what the caption says, and all of it (joint), with "
    "95 % intervals; novel are pairs of colour and shape that no training clip shows (the base saw them in pictures). "
    "The image model is the frozen base, each frame by itself."
)


@pytest.mark.parametrize("kind", ["joint", "distributed", "autoregressive", "chunks"])
def test_captions_are_followed(kind: str, tmp_path: Path) -> None:
    name = f"text_to_video_{kind}_tiny"
    call(f"launchers.train experiment={name}", tmp_path)
    call(f"launchers.evaluate experiment={name} ckpt=last", tmp_path)
    record = evaluation(tmp_path, name)
    write_results(f"Text to video, tiny, {kind}, on the built-in moving shapes", record, told=TOLD)
    value = values(record)
    assert record["rows"]["real"]["joint"]["cases"] >= 120
    assert value["novel"]["colour"] >= 0.5  # pairs that no training clip shows are among them
    assert value["real"]["colour"] >= 0.8
    assert value["real"]["shape"] >= 0.8
    if kind == "joint":
        assert value["real"]["direction"] >= 0.8
    assert value["image_model"]["direction"] < 0.5
