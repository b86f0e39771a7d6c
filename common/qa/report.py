"""The result of an evaluation: figures per aspect and type, and the table beside published rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from common.metrics.interval import Estimate, wilson
from common.qa.benchmarks import ANSWER, Benchmark, Item
from common.qa.judging import Key, Verdict
from common.qa.predictions import Answers
from common.qa.published import JUDGE, VCGBENCH, rows_for
from common.qa.replies import TOP, Rounding, rounded
from common.qa.scores import mean, score_all


def judged_figures(
    items: Sequence[Item], aspect: str, verdicts: Mapping[Key, Verdict], rounding: Rounding
) -> dict[str, Any]:
    """Figures of one aspect.

    `score` and `accuracy` are over the graded answers, as published; `score_of_all` and `accuracy_of_all` count what
    has no answer or no readable grade as 0 and as wrong, so that a lost item cannot raise them.
    """
    asked = [item for item in items if aspect in item.aspects]
    known = [verdict for item in asked if (verdict := verdicts.get((aspect, item.id))) is not None]
    grades = [verdict.grade for verdict in known if verdict.grade is not None]
    scores = [rounded(grade.score, rounding) for grade in grades]
    figures: dict[str, Any] = {
        "items": len(asked),
        "judged": len(grades),
        "unparsed": sum(verdict.grade is None and verdict.refusal is None for verdict in known),
        "refused": sum(verdict.refusal is not None for verdict in known),
        "without_answer": len(asked) - len(known),
        "score": _estimate(mean(scores, top=TOP)) if scores else None,
        "score_of_all": sum(scores) / len(asked),
    }
    if aspect == ANSWER:
        right = sum(grade.right is True for grade in grades)
        figures["accuracy"] = _estimate(wilson(right, len(grades))) if grades else None
        figures["accuracy_of_all"] = _estimate(wilson(right, len(asked)))
    return figures


def plain_figures(items: Sequence[Item], texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Scores that need no judge, over answered items; the two predictions of a pair count as two."""
    pairs = [(text, item.reference) for item in items for text in texts.get(item.id, ())]
    if not pairs:
        return {"predictions": 0}
    return {"predictions": len(pairs)} | {name: _estimate(each) for name, each in score_all(pairs)._asdict().items()}


def figures(
    benchmark: Benchmark, answers: Answers, verdicts: Mapping[Key, Verdict] | None, rounding: Rounding
) -> dict[str, Any]:
    """All figures of an evaluation, over everything and by type; `aspects` is empty without a judge."""
    kinds: dict[str, list[Item]] = {}
    for item in benchmark.items:
        kinds.setdefault(item.type or "all", []).append(item)

    def block(items: Sequence[Item]) -> dict[str, Any]:
        asked = [aspect for aspect in benchmark.aspects if any(aspect in item.aspects for item in items)]
        judged = {} if verdicts is None else {each: judged_figures(items, each, verdicts, rounding) for each in asked}
        return {"aspects": judged, "judge_free": plain_figures(items, answers.texts)}

    counts = {
        "items": len(benchmark.items),
        "answered": len(answers.texts),
        "failed": len(answers.failed),
        "unanswered": len(answers.unanswered),
        "repeated_rows": answers.repeated,
        "rows_with_another_reference": answers.other_reference,
        "failures": dict(Counter(answers.failed.values()).most_common()),
    }
    total = block(benchmark.items)
    average = _average(total["aspects"])
    return {
        "counts": counts,
        **total,
        "average": average,
        "types": {kind: block(kinds[kind]) for kind in sorted(kinds)},
    }


def _average(aspects: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean over the aspects, each with the same weight; None where one has no score."""
    scores = [aspect["score"] for aspect in aspects.values()]
    return None if not scores or None in scores else sum(score["value"] for score in scores) / len(scores)


def show(result: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Prints our row below the published ones, and what it rests on."""
    aspects: Mapping[str, Any] = result["aspects"]
    zero_shot = list(aspects) == [ANSWER]
    published = rows_for(result["benchmark"])
    heads = ["accuracy %", "score"] if zero_shot else [*aspects, *(["average"] if len(aspects) > 1 else [])]
    free = {name: each for name, each in result["judge_free"].items() if name != "predictions"}
    judged_by = ["judged by"] if aspects else []
    table = Table("", *heads, *free, *judged_by, title=f"{result['benchmark']}: answers", caption=_caption(result))
    whole = zero_shot or len(heads) == 6 or result["benchmark"] != VCGBENCH  # a part of the five is not comparable
    for model, values in published if aspects and whole else []:
        cells = ["-" if value is None else f"{value:g}" for value in values]
        table.add_row(model, *cells, *([""] * len(free)), JUDGE)
    table.add_section()
    table.add_row("this", *_ours(result, zero_shot), *map(_percent, free.values()), *(_name(result) if aspects else []))
    (console or Console(width=max(100, 60 + 16 * (len(heads) + len(free))))).print(table)


def _ours(result: Mapping[str, Any], zero_shot: bool) -> list[str]:
    scores = [aspect["score"] for aspect in result["aspects"].values()]
    cells = ["-" if score is None else f"{score['value']:.2f}" for score in scores]
    if zero_shot:
        return [_percent(result["aspects"][ANSWER]["accuracy"]), *cells]
    if len(cells) > 1:
        cells.append("-" if result["average"] is None else f"{result['average']:.2f}")
    return cells


def _percent(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "-"
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.0f}-{high:.0f})"


def _name(result: Mapping[str, Any]) -> list[str]:
    judge = result["judge"]["identity"]
    return [", ".join(result["judge"]["models"]) or str(judge.get("model", judge["kind"]))]


def _caption(result: Mapping[str, Any]) -> str:
    counts = result["counts"]
    lines = [
        f"{counts['items']} items: {counts['answered']} answered, {counts['failed']} failed, "
        f"{counts['unanswered']} without a prediction"
    ]
    for aspect, each in result["aspects"].items():
        lost = {name: each[name] for name in ("unparsed", "refused") if each[name]}
        told = "".join(f", {count} {name}" for name, count in lost.items())
        lines.append(f"{aspect}: {each['judged']} of {each['items']} judged{told}; {each['score_of_all']:.2f} over all")
    if result["aspects"]:
        judge = result["judge"]
        lines.append(f"scores {judge['rounding']}, prompts {judge['prompts']['version']} {judge['prompts']['digest']}")
        lines.append("grades of different judges or prompts cannot be compared")
    return "\n".join(lines)


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return estimate._asdict()
