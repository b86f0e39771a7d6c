"""`evaluate` over questions with options: the built-in view, files of MVBench and Video-MME, one process and two."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from common.files import write_jsonl
from launchers import evaluate
from launchers.command import compose

ROOT = Path(__file__).resolve().parents[3]
VIEWS = ("novel", "blind", "middle", "shuffled")
TINY = ["prepare=[]", "batch.eval=3", "~compare.before_training"]


def evaluated(shapes: Path, run: Path, *overrides: str, experiment: str = "video_chatgpt_tiny") -> dict[str, Any]:
    where = [f"paths.data='{shapes}'", f"paths.run='{run}'"]
    dropped = [f"~data.test.{view}" for view in VIEWS]
    dropped += ["~compare.projector_only"] if experiment == "video_chatgpt_tiny" else []
    evaluate.main(compose(f"experiment={experiment}", *TINY, *dropped, *where, *overrides))
    rows: dict[str, Any] = json.loads((run / "metrics.json").read_text())["rows"]
    return rows


def annotated(shapes: Path) -> list[dict[str, Any]]:
    rows = json.loads((shapes / "shapes" / "chat" / "test.json").read_text())
    return [row for row in rows if not row["novel"]]


def test_the_built_in_questions_are_chosen_from_too(shapes: Path, tmp_path: Path) -> None:
    rows = evaluated(shapes, tmp_path)
    asked = annotated(shapes)
    assert rows["choices"]["overall"]["cases"] == rows["real"]["macro"]["cases"] == len(asked)
    kinds = {row["type"] for row in asked}
    assert set(rows["choices"]) == kinds | {"overall", "macro"}
    for kind in kinds:
        assert rows["choices"][kind]["cases"] == sum(row["type"] == kind for row in asked)
        # Who says a right answer word for word finds it the most likely of those that are offered.
        assert rows["choices"][kind]["value"] >= rows["real"][kind]["value"]


@pytest.mark.parametrize("experiment", ["video_chatgpt_tiny", "llava_video_tiny"])
def test_benchmark_files_are_views_of_both_methods(experiment: str, shapes: Path, tmp_path: Path) -> None:
    asked = annotated(shapes)[:12]
    folder = tmp_path / "json"
    folder.mkdir()
    for task in sorted({row["type"] for row in asked}):
        rows = [mvbench(row) for row in asked if row["type"] == task]
        (folder / f"{task}_task.json").write_text(json.dumps(rows))
    write_jsonl(tmp_path / "mme.jsonl", [video_mme(row) for row in asked])
    media = shapes / "shapes" / "clips"
    folders = ",".join(f"{row['type']}_task: test" for row in {row["type"]: row for row in asked}.values())
    common = ["~data.test.real", f"data.test.choices.media='{media}'", "data.test.choices.novel=null"]
    common += ["data.test.choices.cache=null", "+data.test.choices.choices.cut=true"]
    scored = evaluated(
        shapes,
        tmp_path,
        *common,
        f"data.test.choices.annotations='{folder}'",
        f"+data.test.choices.choices.folders={{{folders}}}",
        "data.test.choices.choices.scored=mean",
        experiment=experiment,
    )
    assert scored["choices"]["overall"]["cases"] == 12
    assert {kind for kind in scored["choices"] if kind.endswith("_task")} == {f"{row['type']}_task" for row in asked}
    again = evaluated(
        shapes,
        tmp_path,
        *common,
        f"data.test.choices.annotations='{tmp_path / 'mme.jsonl'}'",
        "data.test.choices.choices.scored=mean",
        "data.test.choices.questions_at_once=1",
        "+data.test.choices.choices.kind=duration",
        experiment=experiment,
    )
    assert again["choices"]["short"] == again["choices"]["overall"] == scored["choices"]["overall"]
    assert again["chance"]["short"] == pytest.approx(sum(1 / row["options"] for row in asked) / 12)


def mvbench(row: dict[str, Any]) -> dict[str, Any]:
    question, answer = (message["content"].removeprefix("<video>") for message in row["messages"])
    video = Path(row["videos"][0]).name
    return {"video": video, "question": question, "candidates": row["choices"], "answer": answer, "start": 0, "end": 2}


def video_mme(row: dict[str, Any]) -> dict[str, Any]:
    question, answer = (message["content"].removeprefix("<video>") for message in row["messages"])
    letters = "ABCDEFGH"[: row["options"]]
    return {
        "videoID": f"test/{Path(row['videos'][0]).stem}",
        "question_id": row["id"],
        "duration": "short",
        "question": question,
        "options": [f"{letter}. {choice}" for letter, choice in zip(letters, row["choices"], strict=True)],
        "answer": letters[row["choices"].index(answer)],
    }


@pytest.mark.slow
def test_two_processes_count_each_question_once(shapes: Path, tmp_path: Path) -> None:
    rows = [command(shapes, tmp_path / name, more) for name, more in (("one", []), ("two", TWO))]
    assert rows[0]["choices"] == rows[1]["choices"]


TWO = ["trainer.devices=2", "trainer.strategy=ddp", "batch.micro=1", "data.test.choices.questions_at_once=2"]


def command(shapes: Path, run: Path, more: Sequence[str]) -> dict[str, Any]:
    where = [f"paths.data={shapes}", f"paths.outputs={run}", f"paths.run={run}"]
    dropped = [f"~data.test.{view}" for view in VIEWS]
    words = ["experiment=video_chatgpt_tiny", "~compare.projector_only", *TINY, *dropped, *where, *more]
    subprocess.run([sys.executable, "-m", "launchers.evaluate", *words], cwd=ROOT, check=True)
    rows: dict[str, Any] = json.loads((run / "metrics.json").read_text())["rows"]
    return rows
