"""Reading a judge's reply: the dictionary that was asked for, and the ways in which models miswrite it."""

import ast
import json
import math
import re
from typing import Any, Literal, NamedTuple

TOP = 5  # the best score
Rounding = Literal["truncate", "exact"]

SCORE = re.compile(r"score[^\w-]{0,6}?(\d+(?:\.\d+)?)(?:\s*/\s*5(?!\.?\d))?(?!\s*[-/]|[\d.]*\d)", re.IGNORECASE)
PRED = re.compile(r"pred\w*\W{1,6}?(yes|no)\b", re.IGNORECASE)


class Grade(NamedTuple):
    """What a reply says: a score, 0..5, and for a zero-shot question whether the answer is right."""

    score: float
    right: bool | None


def read_reply(reply: str, *, verdict: bool) -> Grade | None:
    """The grade in a reply, or None where there is none that can be told for sure.

    Taken: a Python or JSON dictionary with other text around it; without its closing brace; with doubled, missing or
    typographic quotes; a score as text or as "4/5". Not taken: a score outside 0..5, no braces at all, or several
    dictionaries that differ.

    Args:
        reply: the judge's text.
        verdict: whether `pred` yes or no is asked for too.
    """
    texts = re.findall(r"\{[^{}]*\}", reply) or re.findall(r"\{[^{}]*\Z", reply)
    grades = {_grade(_fields(text), verdict=verdict) for text in texts}
    return grades.pop() if len(grades) == 1 else None


def rounded(score: float, rounding: Rounding) -> float:
    """The score as it is averaged: `truncate` cuts the fraction off as the published evaluation does (4.8 is 4)."""
    return float(int(score)) if rounding == "truncate" else score


def _fields(text: str) -> dict[str, Any]:
    for parse in (ast.literal_eval, json.loads):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            return {str(key).strip().lower(): each for key, each in value.items()}
    score, pred = SCORE.search(text), PRED.search(text)
    return {"score": score and score[1], "pred": pred and pred[1]}


def _grade(fields: dict[str, Any], *, verdict: bool) -> Grade | None:
    score, right = _number(fields.get("score")), None
    if verdict:
        right = {"yes": True, "no": False}.get(str(fields.get("pred")).strip(" .'\"").lower())
        if right is None:
            return None
    return None if score is None else Grade(score, right)


def _number(value: Any) -> float | None:
    """A score as a number in 0..5, from a number or from "4" or "4/5"."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        score = float(re.sub(r"\s*/\s*5\s*\Z", "", value) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return score if math.isfinite(score) and 0 <= score <= TOP else None
