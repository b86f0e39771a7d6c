"""VBench (arXiv:2311.17982): its dimensions, how the leaderboard weighs them, and its file of prompts.

The numbers are those of `scripts/constant.py` of github.com/Vchitect/VBench (revision 45e79ec), the counts those of its
`VBench_full_info.json`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0  # of the two sub-scores in the total
SAMPLES = 5  # clips that are scored of each prompt: indices 0 to 4
FLICKERING = "temporal_flickering"  # scored on clips that a filter finds static, so more are sampled


@dataclass(frozen=True)
class Dimension:
    """One of the 16 scores.

    Attributes:
        prompts: how many it is measured on.
        low: score that counts 0 in a sub-score.
        high: score that counts 1.
        weight: in its sub-score.
        semantic: of the semantic sub-score; else of the one of quality.
    """

    prompts: int
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0
    semantic: bool = False


DIMENSIONS = {
    "subject_consistency": Dimension(72, 0.1462),
    "background_consistency": Dimension(86, 0.2615),
    FLICKERING: Dimension(75, 0.6293),
    "motion_smoothness": Dimension(72, 0.706, 0.9975),
    "dynamic_degree": Dimension(72, weight=0.5),
    "aesthetic_quality": Dimension(93),
    "imaging_quality": Dimension(93),
    "object_class": Dimension(79, semantic=True),
    "multiple_objects": Dimension(82, semantic=True),
    "human_action": Dimension(100, semantic=True),
    "color": Dimension(85, semantic=True),
    "spatial_relationship": Dimension(84, semantic=True),
    "scene": Dimension(86, high=0.8222, semantic=True),
    "appearance_style": Dimension(90, 0.0009, 0.2855, semantic=True),
    "temporal_style": Dimension(100, high=0.364, semantic=True),
    "overall_consistency": Dimension(93, high=0.364, semantic=True),
}


class VBenchError(ValueError):
    """A file of VBench is not of its form, or a clip cannot be named as it wants: names the file and the remedy."""


def refuse_unknown(dimensions: list[str], *, where: str) -> None:
    """Raises VBenchError for a name that is none of the 16."""
    if unknown := sorted(set(dimensions) - set(DIMENSIONS)):
        raise VBenchError(
            f"{where}: {', '.join(unknown)}: no dimension of VBench for text to video, which are "
            f"{', '.join(DIMENSIONS)} (other benchmarks of its family have others)"
        )


def read_prompts(info: Path) -> dict[str, list[str]]:
    """Prompts in the order of the file, each once, with the dimensions that are measured on it.

    Args:
        info: `VBench_full_info.json`.

    Raises:
        VBenchError: it is not of that form.
    """
    content = read_json(info)
    if not isinstance(content, list) or not content:
        raise VBenchError(f"{info}: a list of prompts, as VBench_full_info.json of github.com/Vchitect/VBench is")
    prompts: dict[str, list[str]] = {}
    for number, row in enumerate(content, start=1):
        where = f"{info} row {number}"
        told = row if isinstance(row, dict) else {}
        prompt, dimensions = told.get("prompt_en"), told.get("dimension")
        if not isinstance(prompt, str) or not prompt.strip() or not isinstance(dimensions, list) or not dimensions:
            raise VBenchError(f'{where}: a row has "prompt_en" (a text) and "dimension" (a list of names)')
        refuse_unknown([str(each) for each in dimensions], where=where)
        known = prompts.setdefault(prompt, [])
        known += [each for each in dimensions if each not in known]
    return prompts


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        VBenchError: there is no such file, or it is not JSON.
    """
    if not path.is_file():
        raise VBenchError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VBenchError(f"{path}: not JSON ({error})") from error
