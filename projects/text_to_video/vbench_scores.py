"""The preparation task that reads what VBench found: dimensions, sub-scores, and the total of its leaderboard."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common.files import atomic_write_text
from common.metrics.table import show
from projects.text_to_video.vbench import (
    DIMENSIONS,
    QUALITY_WEIGHT,
    SAMPLES,
    SEMANTIC_WEIGHT,
    VBenchError,
    read_json,
    refuse_unknown,
)

PATTERN = "*_eval_results.json"
UNEVEN = ("color", "temporal_flickering")  # leave clips out by rule: without the object, or not static


class Found(NamedTuple):
    """One dimension of a result file.

    Attributes:
        score: as VBench gives it.
        clips: how many it rests on.
        file: that holds it.
    """

    score: float
    clips: int
    file: Path


def vbench_scores(*, results: str, out: str) -> dict[str, Any]:
    """Prints a table, and writes it with its notes.

    Sub-scores and total are those of the leaderboard: each score is normalised, (score - low) / (high - low), not cut
    to 0..1; quality and semantic score are weighted means of theirs; the total weighs them 4 to 1.

    Args:
        results: a result of VBench (`*_eval_results.json`), or the folder with several, of other dimensions each.
        out: JSON file to write.

    Returns:
        The totals that there are, the number of dimensions, and the notes.

    Raises:
        VBenchError: no results, one that is not of VBench's form, or two that differ about one dimension.
    """
    found = _read(Path(results))
    rows, notes = _rows(found), _notes(found)
    show({name: rows[name] for name in ("score", "normalised")}, title=f"VBench: {results}")
    files = sorted({str(each.file) for each in found.values()})
    atomic_write_text(Path(out), json.dumps({"results": files, "rows": rows, "notes": notes}, indent=2) + "\n")
    return {**totals(found), "dimensions": len(found), "notes": notes}


def totals(found: Mapping[str, Found]) -> dict[str, float]:
    """Quality, semantic and total score, those whose dimensions are all there."""
    result = {}
    for name, semantic in (("quality", False), ("semantic", True)):
        parts = {key: each.weight for key, each in DIMENSIONS.items() if each.semantic == semantic}
        if set(parts) <= set(found):
            weighted = sum(weight * normalised(key, found[key].score) for key, weight in parts.items())
            result[name] = weighted / sum(parts.values())
    if len(result) == 2:
        both = QUALITY_WEIGHT * result["quality"] + SEMANTIC_WEIGHT * result["semantic"]
        result["total"] = both / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    return result


def normalised(dimension: str, score: float) -> float:
    """A score on the scale of the leaderboard."""
    scale = DIMENSIONS[dimension]
    return (score - scale.low) / (scale.high - scale.low)


def _rows(found: Mapping[str, Found]) -> dict[str, dict[str, float]]:
    """Rows of the table; columns are the dimensions in their order, then the totals."""
    ordered = {name: found[name] for name in DIMENSIONS if name in found}
    return {
        "score": {name: each.score for name, each in ordered.items()},
        "normalised": {name: normalised(name, each.score) for name, each in ordered.items()} | totals(found),
        "clips": {name: float(each.clips) for name, each in ordered.items()},
    }


def _notes(found: Mapping[str, Found]) -> list[str]:
    notes = []
    for name, semantic in (("quality", False), ("semantic", True)):
        lacking = [key for key, each in DIMENSIONS.items() if each.semantic == semantic and key not in found]
        if lacking:
            notes.append(f"no {name} score and no total: {', '.join(lacking)} not measured")
    for name, each in found.items():
        usual = SAMPLES * DIMENSIONS[name].prompts
        if each.clips < usual and name not in UNEVEN:
            notes.append(f"{name} rests on {each.clips} clips, the leaderboard's on {usual}: not to be compared")
    return notes


def _read(path: Path) -> dict[str, Found]:
    """Dimensions of all result files."""
    files = sorted(path.glob(PATTERN)) if path.is_dir() else [path]
    if not files:
        raise VBenchError(f"{path} holds no {PATTERN}; give the --output_path of vbench evaluate")
    found: dict[str, Found] = {}
    for file in files:
        content = read_json(file)
        if not isinstance(content, dict) or not content:
            raise VBenchError(f"{file}: {{dimension: [score, [clips]]}}, as VBench writes it in {PATTERN}")
        refuse_unknown(list(content), where=str(file))
        for name, value in content.items():
            one = _found(name, value, file)
            other = found.setdefault(name, one)
            if (other.score, other.clips) != (one.score, one.clips):
                raise VBenchError(f"{name} is {other.score} in {other.file} and {one.score} in {file}; take one away")
    return found


def _found(name: str, value: Any, file: Path) -> Found:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], list):
        raise VBenchError(f"{file}: {name} is [score, [clips]] in a result of VBench")
    score, clips = value
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score) or not clips:
        raise VBenchError(f"{file}: {name} is {score} of {len(clips)} clips; VBench found none, see its log")
    if not -1 <= score <= 1:
        raise VBenchError(f"{file}: {name} is {score}, scores of VBench lie within -1..1")
    return Found(float(score), len(clips), file)
