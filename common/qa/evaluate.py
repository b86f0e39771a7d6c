"""Generated answers of a benchmark to figures: joined, scored without a judge, judged, written, shown."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from common.data.fields import Video
from common.files import atomic_write_text, digest, write_jsonl
from common.qa.benchmarks import ANSWER, Benchmark, BenchmarkError, missing_videos, some
from common.qa.cache import open_cache
from common.qa.judges import Judge
from common.qa.judging import Key, Verdict, judge_all
from common.qa.predictions import Answers, join, prediction_files
from common.qa.prompts import Prompts, load
from common.qa.replies import Rounding, rounded
from common.qa.report import figures, show
from common.run import git_state

log = logging.getLogger(__name__)

RESULT, ITEMS, REPLIES = "result.json", "items.jsonl", "replies.jsonl"


def evaluate(
    *,
    questions: Benchmark,
    predictions: Sequence[str],
    output: str,
    judge: Judge | None,
    rounding: Rounding = "truncate",
    tries: int = 3,
    prompts: str | None = None,
    media: str | None = None,
    max_refused: float = 0.01,
) -> dict[str, Any]:
    """Scores predictions and writes `result.json`, `items.jsonl` (each item with its grades) and `replies.jsonl`.

    Replies are kept as they come in: the same call after a kill, or with another rounding, asks nothing twice.

    Args:
        questions: the benchmark.
        predictions: files of predicted answers, or folders of such files; see `common.qa.predictions.join`.
        output: folder of the results.
        judge: who grades; null for the scores without a judge alone.
        rounding: "truncate" (published) or "exact".
        tries: most replies that are asked for until one can be read.
        prompts: file of other prompts; see `common.qa.prompts.load`.
        media: folder of the videos, to count those that are not there; null skips this.
        max_refused: share of the questions that the judge may refuse before the evaluation stops.

    Returns:
        The headline figures.

    Raises:
        ValueError: a file does not hold what it should, an argument is out of range, a prediction is about a video
            that is not there, or the judge cannot go on.
    """
    if rounding not in get_args(Rounding) or tries < 1 or not 0 <= max_refused <= 1:
        raise ValueError(f"rounding is one of {get_args(Rounding)}, tries >= 1 and max_refused in 0..1")
    wording = load(Path(prompts) if prompts else None)
    unworded = [aspect for aspect in questions.aspects if aspect not in wording.aspects]
    if unworded and judge is not None:
        raise ValueError(f"{prompts}: no prompt for {', '.join(unworded)}")
    files = prediction_files([Path(path) for path in predictions])
    answers = join(questions, files)
    missing = _missing_videos(questions, answers, media)
    folder = Path(output)
    verdicts: dict[Key, Verdict] | None = None
    if judge is not None:
        with open_cache(folder / REPLIES) as cache:
            verdicts = judge_all(
                questions.items,
                answers.texts,
                judge=judge,
                prompts=wording,
                cache=cache,
                tries=tries,
                max_refused=max_refused,
            )
    revision, dirty = git_state(Path(__file__).parent)
    result = {
        "benchmark": questions.name,
        "revision": revision,
        "dirty": dirty,
        "questions": {path.name: digest(path) for path in questions.files},
        "predictions": {path.name: digest(path) for path in files},
        "missing_videos": missing,
        "judge": None if judge is None else _judge_record(judge, wording, questions, verdicts or {}, rounding, tries),
        **figures(questions, answers, verdicts, rounding),
    }
    write_jsonl(folder / ITEMS, _item_rows(questions, answers, verdicts or {}, rounding))
    atomic_write_text(folder / RESULT, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    show(result)
    log.info("wrote %s", folder / RESULT)
    return _headline(result)


def _missing_videos(benchmark: Benchmark, answers: Answers, media: str | None) -> list[Video] | None:
    if media is None:
        return None
    missing = missing_videos(benchmark, Path(media))
    gone = set(missing)
    made_up = [item.id for item in benchmark.items if item.video in gone and item.id in answers.texts]
    if made_up:
        raise BenchmarkError(
            f"{len(made_up)} predictions are about videos that are not in {media}: {some(made_up)}; what did the model "
            "see? Give the folder that it was run on, or media=null"
        )
    return missing


def _judge_record(
    judge: Judge,
    prompts: Prompts,
    benchmark: Benchmark,
    verdicts: Mapping[Key, Verdict],
    rounding: Rounding,
    tries: int,
) -> dict[str, Any]:
    """All that the grades depend on: who, when, which words, which rule."""
    times = sorted(verdict.time for verdict in verdicts.values() if verdict.time is not None)
    models = Counter(verdict.model for verdict in verdicts.values() if verdict.model is not None)
    return {
        "identity": dict(judge.identity),
        "models": dict(sorted(models.items())),
        "first_reply": times[0] if times else None,
        "last_reply": times[-1] if times else None,
        "prompts": {"version": prompts.version, "digest": prompts.digest(benchmark.aspects)},
        "rounding": rounding,
        "tries": tries,
    }


def _item_rows(
    benchmark: Benchmark, answers: Answers, verdicts: Mapping[Key, Verdict], rounding: Rounding
) -> list[dict[str, Any]]:
    rows = []
    for item in benchmark.items:
        row: dict[str, Any] = {
            "id": item.id,
            "video": item.video,
            "type": item.type,
            "questions": item.questions,
            "reference": item.reference,
            "predictions": answers.texts.get(item.id),
            "failed": answers.failed.get(item.id),
            "grades": {},
        }
        for aspect in item.aspects:
            if (verdict := verdicts.get((aspect, item.id))) is not None:
                row["grades"][aspect] = _grade_row(verdict, rounding)
        rows.append(row)
    return rows


def _grade_row(verdict: Verdict, rounding: Rounding) -> dict[str, Any]:
    grade = verdict.grade
    return {
        "score": None if grade is None else rounded(grade.score, rounding),
        "right": None if grade is None else grade.right,
        "reply": verdict.reply,
        "attempts": verdict.attempts,
        "refusal": verdict.refusal,
    }


def _headline(result: Mapping[str, Any]) -> dict[str, Any]:
    free = {name: each["value"] for name, each in result["judge_free"].items() if name != "predictions"}
    graded = {name: each["score"] and each["score"]["value"] for name, each in result["aspects"].items()}
    if ANSWER in result["aspects"]:
        accuracy = result["aspects"][ANSWER]["accuracy"]
        graded["accuracy"] = accuracy and accuracy["value"]
    return {**graded, **free, "answered": result["counts"]["answered"], "items": result["counts"]["items"]}
