"""VideoInstruct to the training file: parity on the input, noise, what is left out and why, splits by video."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.conversations import NOISE, load_conversations
from common.files import read_jsonl
from launchers.command import compose, run_task
from projects.video_chatgpt.instruct import convert_instruct


def rows(count: int = 12, videos: int = 6) -> list[dict[str, Any]]:
    made = [{"q": f"Q{n}?", "a": f"A{n}", "video_id": f"v_{n % videos}"} for n in range(count)]
    made[2]["a"] = f"A2\n{NOISE}"
    return made


def run(folder: Path, content: Any = None, **changes: Any) -> dict[str, int]:
    source = folder / "source.json"
    source.write_text(json.dumps(rows() if content is None else content))
    settings: dict[str, Any] = {"ids": None, "features": None, "media": None, "held_out": {}, "seed": 0}
    settings |= {"strip_noise": True, "max_bad": 0.0} | changes
    return convert_instruct(source=str(source), target=str(folder / "out"), **settings)


def read(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return list(json.loads((folder / "out" / f"{split}.json").read_text()))


def published(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The published form of a row, for its number in the input."""
    value = row["q"] + "\n<video>" if number % 2 == 0 else "<video>\n" + row["q"]
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": row["a"]}]
    return {"id": row["video_id"], "video": f"{row['video_id']}.pkl", "conversations": turns}


def test_the_published_form_with_parity_on_the_input(tmp_path: Path) -> None:
    run(tmp_path, strip_noise=False)
    assert read(tmp_path) == [published(row, number) for number, row in enumerate(rows())]


def test_parity_does_not_shift_when_rows_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("v_1\nv_4\nv_absent\n")
    figures = run(tmp_path, ids=str(tmp_path / "ids.txt"))
    kept = [published(row, n) for n, row in enumerate(rows()) if row["video_id"] in ("v_1", "v_4")]
    assert read(tmp_path) == kept
    assert figures == {
        "rows": 12,
        "videos": 2,
        "noise stripped": 0,
        "train": 4,
        "not in the list": 8,
        "listed videos without rows": 1,
    }


def test_noise_is_stripped_and_counted(tmp_path: Path) -> None:
    assert run(tmp_path)["noise stripped"] == 1
    assert read(tmp_path)[2]["conversations"][1]["value"] == "A2"
    assert NOISE not in json.dumps(read(tmp_path))


def test_what_has_no_features_or_video_is_reported(tmp_path: Path) -> None:
    for folder, names in {"features": ["v_0.pkl", "v_1.mp4.pkl", "v_2.pkl"], "media": ["v_1.mp4", "v_2.mkv"]}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"")
    figures = run(tmp_path, features=str(tmp_path / "features"), media=str(tmp_path / "media"))
    assert (figures["without features"], figures["without video"], figures["train"]) == (6, 2, 4)
    left = read_jsonl(tmp_path / "out" / "left_out.jsonl")
    assert len(left) == 8
    assert left[0] == {"row": 0, "video": "v_0", "reason": "without video", "detail": None}
    assert {row["id"] for row in read(tmp_path)} == {"v_1", "v_2"}


def test_a_video_is_in_one_split_and_the_seed_chooses(tmp_path: Path) -> None:
    figures = run(tmp_path, held_out={"val": 1, "test": 2})
    videos = {split: {row["id"] for row in read(tmp_path, split)} for split in ("train", "val", "test")}
    assert [len(videos[split]) for split in ("train", "val", "test")] == [3, 1, 2]
    assert len(set.union(*videos.values())) == 6
    assert (figures["train"], figures["val"], figures["test"]) == (6, 2, 4)
    chosen = set()
    for seed in range(6):
        (tmp_path / str(seed)).mkdir()
        run(tmp_path / str(seed), held_out={"val": 2}, seed=seed)
        chosen.add(frozenset(row["id"] for row in read(tmp_path / str(seed), "val")))
    assert len(chosen) > 1
    with pytest.raises(ValueError, match="asks for 6 of 6 videos"):
        run(tmp_path, held_out={"val": 6})


def test_bad_rows_are_refused_or_left_out_with_their_reason(tmp_path: Path) -> None:
    content = [*rows(), {"q": "?", "video_id": "v_1"}, {"q": "?", "a": NOISE, "video_id": "v_1"}, "text"]
    with pytest.raises(ValueError, match=r"3 of 15 rows are bad, first: .*source\.json row 12, keys"):
        run(tmp_path, content)
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, content, max_bad=0.5)["bad"] == 3
    details = [row["detail"] for row in read_jsonl(tmp_path / "out" / "left_out.jsonl")]
    assert NOISE in details[1]
    assert "row 14" in details[2]


def test_again_is_the_same_and_other_files_are_not_overwritten(tmp_path: Path) -> None:
    assert run(tmp_path) == run(tmp_path)
    with pytest.raises(ValueError, match=r"train\.json holds something else"):
        run(tmp_path, strip_noise=False)


def test_the_training_reads_what_is_written(tmp_path: Path) -> None:
    run(tmp_path)
    loaded = load_conversations(tmp_path / "out" / "train.json")
    assert [row.video for row in loaded] == [row["video_id"] for row in rows()]
    assert loaded[1].turns[0].user == "<video>\nQ1?"


def test_the_published_list_and_a_real_row(media: Path, tmp_path: Path) -> None:
    real = media / "activitynet"
    (tmp_path / "features").mkdir()
    array = np.zeros((356, 1024), dtype=np.float16)
    (tmp_path / "features" / "v_rBMQFpHspmo.pkl").write_bytes(pickle.dumps(array))
    where = [f"task.source='{real}/video_instruct.json'", f"task.ids='{real}/train_video_ids.txt'"]
    where += [f"task.media='{real}'", f"task.features='{tmp_path}/features'", f"paths.data='{tmp_path}'"]
    figures = run_task(compose("task=video_instruct", "paths.run=.", *where, config_name="prepare"))
    assert (figures["train"], figures["listed videos without rows"]) == (1, 13302)
