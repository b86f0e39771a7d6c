"""What VBench reads is written as it reads it, and what it writes is read back; files as those of its repository."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.files import read_jsonl
from projects.text_to_video.requests import Captions
from projects.text_to_video.vbench import DIMENSIONS, VBenchError
from projects.text_to_video.vbench_prompts import vbench_prompts
from projects.text_to_video.vbench_scores import vbench_scores

INFO: list[dict[str, Any]] = [
    {"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a person swimming in ocean", "dimension": ["subject_consistency", "motion_smoothness"]},
    {
        "prompt_en": "The bund Shanghai, oil painting",
        "dimension": ["appearance_style"],
        "auxiliary_info": {"appearance_style": {"appearance_style": "oil painting"}},
    },
    {"prompt_en": "The bund Shanghai, oil painting", "dimension": ["overall_consistency", "imaging_quality"]},
    {"prompt_en": "enigmatic rock-carved fa\u00e7ades (soccer)", "dimension": ["overall_consistency"]},
]


def prepared(folder: Path, rows: Any = INFO, **changes: Any) -> dict[str, Any]:
    info = folder / "VBench_full_info.json"
    info.write_text(json.dumps(rows))
    options: dict[str, Any] = {
        "info": str(info),
        "videos": str(folder / "videos"),
        "dimensions": None,
        "samples": 5,
        "flickering": 25,
        "out": None,
    }
    return vbench_prompts(**(options | changes))


# Prompts


def test_every_prompt_gets_its_clips_under_the_names_that_vbench_looks_for(tmp_path: Path) -> None:
    found = prepared(tmp_path)
    assert (found["prompts"], found["clips"], found["missing"]) == (4, 25 + 3 * 5, 40)
    rows = read_jsonl(tmp_path / "videos.jsonl")
    names = {Path(row["file"]).name for row in rows}
    assert len(names) == 40
    for row in INFO:  # as its build_full_info_json does
        assert {f"{row['prompt_en']}-{index}.mp4" for index in range(5)} <= names
    assert "In a still frame, a stop sign-24.mp4" in names
    assert len({row["id"] for row in rows}) == 40  # of which the noise is drawn
    assert {row["prompt"] for row in rows} == {row["prompt_en"] for row in INFO}


def test_generate_takes_them(tmp_path: Path) -> None:
    prepared(tmp_path)
    request = {"prompt": None, "video": None, "file": str(tmp_path / "videos.jsonl"), "count": 6}
    rows = Captions(request=request, table="absent", frames=16, fps=8.0, size=[16, 16], latent=[4, 2, 2])
    assert len(rows) == 40
    assert rows.collate(rows.asked[:2]).files[1] == str(tmp_path / "videos" / "In a still frame, a stop sign-1.mp4")


def test_what_is_there_is_not_asked_for_again(tmp_path: Path) -> None:
    prepared(tmp_path)
    rows = read_jsonl(tmp_path / "videos.jsonl")
    for row in rows[:-1]:
        Path(row["file"]).touch()
    assert prepared(tmp_path)["missing"] == 1
    assert read_jsonl(tmp_path / "videos.jsonl") == rows[-1:]
    Path(rows[-1]["file"]).touch()
    assert prepared(tmp_path)["missing"] == 0


def test_some_dimensions(tmp_path: Path) -> None:
    assert prepared(tmp_path, dimensions=["imaging_quality"], samples=2)["clips"] == 2
    assert prepared(tmp_path, dimensions=["temporal_flickering"])["clips"] == 25
    with pytest.raises(VBenchError, match=r"task\.dimensions: imaging: no dimension of VBench"):
        prepared(tmp_path, dimensions=["imaging"])
    with pytest.raises(VBenchError, match=r"no prompts of color"):
        prepared(tmp_path, dimensions=["color"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"prompt_en": "a"}, r"VBench_full_info\.json: a list of prompts"),
        ([{"prompt": "a", "dimension": ["color"]}], r'row 1: a row has "prompt_en"'),
        ([{"prompt_en": "a", "dimension": "color"}], r'row 1: a row has "prompt_en"'),
        ([{"prompt_en": "a", "dimension": ["camera_motion"]}], r"row 1: camera_motion: no dimension of VBench"),
        ([{"prompt_en": "a cat/dog", "dimension": ["color"]}], r'no file can be named after "a cat/dog"'),
        ([{"prompt_en": "a\ncat", "dimension": ["color"]}], r"no file can be named after"),
        ([{"prompt_en": "x" * 240, "dimension": ["color"]}], r"is 240 bytes long, too long for the name of a file"),
    ],
)
def test_prompts_that_cannot_be_taken_are_named(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(VBenchError, match=message):
        prepared(tmp_path, rows)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a-0.gif").touch()
    with pytest.raises(VBenchError, match=r"videos holds a-0\.gif \(1 in all\)"):
        prepared(tmp_path)
    with pytest.raises(VBenchError, match=r"absent\.json: no such file"):
        prepared(tmp_path, info="absent.json")
    with pytest.raises(VBenchError, match=r"task\.videos=FOLDER"):
        prepared(tmp_path, videos=None)


# Scores

# Made up; what they come to was worked out with VBench's scripts/cal_final_score.py.
SCORES = {
    "subject_consistency": 0.95,
    "background_consistency": 0.96,
    "temporal_flickering": 0.98,
    "motion_smoothness": 0.97,
    "dynamic_degree": 0.5,
    "aesthetic_quality": 0.55,
    "imaging_quality": 0.62,
    "object_class": 0.8,
    "multiple_objects": 0.35,
    "human_action": 0.9,
    "color": 0.85,
    "spatial_relationship": 0.4,
    "scene": 0.45,
    "appearance_style": 0.22,
    "temporal_style": 0.24,
    "overall_consistency": 0.26,
}
QUALITY, SEMANTIC, TOTAL = 0.7936896653742966, 0.6656434319552981, 0.7680804186904969


def result(score: Any, clips: int) -> list[Any]:
    return [score, [{"video_path": f"videos/{n}.mp4", "video_results": score} for n in range(clips)]]


def results(folder: Path, name: str = "results_2026-01-01-00:00:00", **scores: Any) -> Path:
    """As VBench leaves its output folder: the scores, and beside them the list of what was scored."""
    folder.mkdir(exist_ok=True)
    content = {key: result(value, 5 * DIMENSIONS[key].prompts) for key, value in scores.items()}
    (folder / f"{name}_eval_results.json").write_text(json.dumps(content, indent=4))
    (folder / f"{name}_full_info.json").write_text(json.dumps(INFO))
    return folder


def scored(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    out = folder.parent / "out" / "metrics.json"
    told = vbench_scores(results=str(folder), out=str(out))
    return told, json.loads(out.read_text())


def test_totals_are_those_of_the_leaderboard(tmp_path: Path) -> None:
    told, kept = scored(results(tmp_path / "results", **SCORES))
    assert told["quality"] == pytest.approx(QUALITY, abs=1e-9)
    assert told["semantic"] == pytest.approx(SEMANTIC, abs=1e-9)
    assert told["total"] == pytest.approx(TOTAL, abs=1e-9)
    assert told["dimensions"] == 16
    assert kept["notes"] == []
    assert kept["rows"]["score"] == SCORES
    assert list(kept["rows"]["score"]) == list(DIMENSIONS)
    assert kept["rows"]["normalised"]["total"] == told["total"]
    assert kept["rows"]["clips"]["human_action"] == 500


def test_dimensions_of_several_runs_come_together_and_what_lacks_is_said(tmp_path: Path) -> None:
    quality = {name: SCORES[name] for name, each in DIMENSIONS.items() if not each.semantic}
    folder = results(tmp_path / "results", **quality)
    told, _ = scored(results(folder, "color", color=0.5))
    assert told["quality"] == pytest.approx(QUALITY)
    assert "semantic" not in told
    assert "total" not in told
    (note,) = told["notes"]
    assert note.startswith("no semantic score and no total: object_class, multiple_objects, human_action, spatial")
    assert "color" not in note


def test_fewer_clips_than_usual_are_said(tmp_path: Path) -> None:
    folder = results(tmp_path / "results")
    file = folder / "few_eval_results.json"
    (folder / "results_2026-01-01-00:00:00_eval_results.json").unlink()
    file.write_text(json.dumps({"imaging_quality": result(0.5, 6), "color": result(0.5, 400)}))
    told, _ = scored(folder)
    assert told["notes"][-1] == (
        "imaging_quality rests on 6 clips, the leaderboard's on 465: not to be compared"
    )  # color leaves out by rule


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], r"_eval_results\.json: \{dimension"),
        ({}, r"_eval_results\.json: \{dimension"),
        ({"color": 0.5}, r"color is \[score, \[clips\]\]"),
        ({"color": result(float("nan"), 3)}, r"color is nan of 3 clips; VBench found none"),
        ({"color": [0.5, []]}, r"color is 0\.5 of 0 clips"),
        ({"imaging_quality": result(61.0, 3)}, r"imaging_quality is 61\.0, scores of VBench lie within"),
        ({"i2v_subject": result(0.9, 3)}, r"i2v_subject: no dimension of VBench for text to video"),
    ],
)
def test_results_that_are_not_vbenchs_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x_eval_results.json").write_text(json.dumps(content))
    with pytest.raises(VBenchError, match=message):
        scored(tmp_path / "results")


def test_two_results_that_differ_are_refused(tmp_path: Path) -> None:
    folder = results(tmp_path / "results", "a", color=0.5)
    results(folder, "b", color=0.5)
    assert scored(folder)[0]["dimensions"] == 1
    results(folder, "c", color=0.6)
    with pytest.raises(VBenchError, match=r"color is 0\.5 in .*a_eval_results\.json and 0\.6 in .*c_eval"):
        scored(folder)
    with pytest.raises(VBenchError, match=r"holds no \*_eval_results\.json"):
        scored(tmp_path)
