"""The annotated real clips, learned by heart through the commands: cached, trained on, said again to the end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from common.data.conversations import load_conversations
from common.loggers import read_metrics
from common.types import Pick
from common.video.plan import UniformFrames
from launchers import generate, train
from launchers.command import compose
from projects.llava_video.frames import cache_frames
from tests.projects.llava_video.tiny import VOCABULARY, make_rows, make_tokenizer

FRAMES, SIZE = 5, 64


def annotations(media: Path, folder: Path) -> tuple[Path, list[str]]:
    """All annotated clips in one file, paths from the folder of media, and their answers."""
    rows = []
    for file in ("conversations/messages.json", "activitynet/video_instruct.json"):
        for row in load_conversations(media / file):
            video = f"{file.split('/')[0]}/{row.video}"
            question = row.turns[0].user.replace("<video>", "").strip()
            said = [{"role": "user", "content": f"<video>{question}"}]
            said += [{"role": "assistant", "content": str(row.turns[0].assistant)}]
            rows.append({"id": video, "messages": said, "videos": [video]})
    # The same question about each clip as well, so that the pixels alone can tell the answers apart.
    for row in rows[:4]:
        answer = row["messages"][1]["content"]
        said = [{"role": "user", "content": "<video>Say it."}, {"role": "assistant", "content": answer}]
        rows.append({"id": f"{row['id']} again", "messages": said, "videos": row["videos"]})
    path = folder / "real.json"
    path.write_text(json.dumps(rows))
    return path, [row["messages"][1]["content"] for row in rows]


def configure(media: Path, rows: Path, words: Path, cache: Path, run: Path, *overrides: str) -> DictConfig:
    text = {
        "vocab_size": VOCABULARY,
        "model_type": "qwen2",
        "hidden_size": 128,
        "intermediate_size": 344,
        "rope_parameters.rope_theta": 10000.0,
        "pad_token_id": "null",
        "bos_token_id": "null",
        "eos_token_id": "null",
    }
    patch = json.loads((words / "tokenizer.json").read_text())["added_tokens"]
    index = next(token["id"] for token in patch if token["content"] == "<image>")
    model = [f"model.model.architecture.text_config.{key}={value}" for key, value in text.items()]
    model += [f"model.model.architecture.image_token_index={index}", "model.model.language_model=null"]
    model += [f"model.tokenizer.path='{words}'", "model.lr.language_model=1e-3", "model.max_new_tokens=160"]
    data = [
        f"data.{split}.{key}={value}"
        for split in ("train", "val", "predict")
        for key, value in (
            ("annotations", f"'{rows}'"),
            ("media", f"'{media}'"),
            ("cache", f"'{cache}'"),
            ("plan.frames", FRAMES),
            ("template._target_", "common.text.prompt.llava_qwen"),
            ("resize_mode", "bicubic"),
            ("questions_at_once", 1),
        )
    ] + [f"~data.{split}.template.prompt" for split in ("train", "val", "predict")]
    small = [
        "steps=200",
        "validate_every=200",
        "batch.global=8",
        "batch.micro=8",
        "batch.eval=8",
        "prepare=[]",
        "data.by_length=false",
    ]
    where = [f"paths.run='{run}'", "objective=val/loss", "direction=min", "callbacks.metrics_log.every=1"]
    return compose("experiment=llava_video_tiny", *small, *where, *model, *data, *overrides)


@pytest.mark.slow
def test_real_clips_are_learned_by_heart(media: Path, tmp_path: Path) -> None:
    rows, answers = annotations(media, tmp_path)
    assert len(answers) == 8
    words = tmp_path / "words"
    make_tokenizer(answers).save_pretrained(words)
    cache = tmp_path / "frames"
    settings = {"image_size": SIZE, "resize_mode": "bicubic", "plan": UniformFrames(frames=FRAMES), "backend": "pyav"}
    cache_frames(
        annotations=[str(rows)],
        media=str(media),
        cache=str(cache),
        shard_size=4,
        max_failed=0,
        num_workers=0,
        **settings,
    )
    loss = train.main(configure(media, rows, words, cache, tmp_path / "run"))
    assert loss is not None
    assert loss < 0.05
    losses = read_metrics(tmp_path / "run" / "metrics.csv")["train/loss"]
    assert losses[1] > 3.0
    asked = [f"ckpt='{tmp_path}/run'", "request.count=null"]
    generate.main(configure(media, rows, words, cache, tmp_path / "answers", *asked))
    lines = [json.loads(line) for line in (tmp_path / "answers" / "generated.jsonl").read_text().splitlines()]
    # Word for word, and no word behind: an answer that did not end would go on to 160 tokens.
    assert [line["pred"] for line in lines] == answers


def test_frames_of_real_clips_are_distinct(media: Path, tmp_path: Path) -> None:
    rows, _ = annotations(media, tmp_path)
    entries = json.loads(rows.read_text())[:4]
    (tmp_path / "media").mkdir()
    for part in ("conversations", "activitynet"):
        (tmp_path / "media" / part).symlink_to(media / part)
    data = make_rows(tmp_path / "media", entries, make_tokenizer())
    for number in range(len(data)):
        seen = data[Pick(number, number, 1.0)].pixels
        assert isinstance(seen, torch.Tensor)
        assert len({frame.numpy().tobytes() for frame in seen}) == 5
        assert np.ptp(seen.numpy()) > 100
