"""Four conversations learned by heart: no answer loss is left, and each is said again, to its end and no further."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from common.chat import answers, decoder
from common.loggers import read_metrics
from launchers import generate, train
from launchers.command import compose

# Words that end in letters of "</s>", of several lengths, some the start of another.
ANSWERS = ["two small squares", "two small squares and one cross", "it vanishes", "yes"]


@pytest.fixture
def rows(shapes: Path, tmp_path: Path) -> Path:
    """One question about four clips, so that the video alone tells the answer."""
    clips = sorted((shapes / "shapes" / "clips" / "test").glob("*.mp4"))[: len(ANSWERS)]
    conversations = [
        {
            "id": str(number),
            "messages": [
                {"role": "user", "content": "<video>what is in the video ?"},
                {"role": "assistant", "content": answer},
            ],
            "videos": [f"clips/test/{clip.name}"],
        }
        for number, (clip, answer) in enumerate(zip(clips, ANSWERS, strict=True))
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(conversations))
    return path


def configure(shapes: Path, rows: Path, run: Path, *overrides: str) -> DictConfig:
    small = ["steps=240", "validate_every=240", "batch.global=4", "batch.micro=4", "batch.eval=4", "prepare=[]"]
    where = [f"paths.data='{shapes}'", f"paths.run='{run}'", "objective=val/loss", "direction=min"]
    where += [f"data.{split}.annotations='{rows}'" for split in ("train", "val")]
    return compose("experiment=video_chatgpt_tiny", *small, *where, "callbacks.metrics_log.every=1", *overrides)


def test_answers_are_learned_by_heart_and_end_where_they_end(
    shapes: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = train.main(configure(shapes, rows, tmp_path / "run"))
    assert loss is not None
    assert loss < 0.01
    losses = read_metrics(tmp_path / "run" / "metrics.csv")["train/loss"]
    assert losses[1] > 1.0
    assert losses[240] < 0.01
    asked = [f"ckpt='{tmp_path}/run'", f"request.file='{rows}'", f"request.media='{shapes}/shapes'"]
    said: list[list[int]] = []

    def answer(*arguments: Any, **settings: Any) -> list[list[int]]:
        said.extend(ids := decoder.answer(*arguments, **settings))
        return ids

    monkeypatch.setattr(answers, "answer", answer)
    generate.main(configure(shapes, rows, tmp_path / "answers", *asked, "model.max_new_tokens=16"))
    lines = [json.loads(line) for line in (tmp_path / "answers" / "generated.jsonl").read_text().splitlines()]
    assert [line["pred"] for line in lines] == ANSWERS
    assert [len(ids) for ids in said] == [len(words.split()) for words in ANSWERS]  # a token a word, none after the end
