"""The task that decodes frames once: what training sees, the same bytes however it is run, bad files counted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from common.data.cache import Cache, CacheWriter, StaleCacheError
from common.types import Pick
from common.video.plan import FramesPerSecond, UniformFrames
from projects.llava_video import data as data_module
from projects.llava_video.frames import cache_frames
from tests.projects.llava_video.tiny import SIZE, batch_of, entry, make_rows

NAMES: list[Any] = ["long.mp4", "seven.mp4", "six.gif", "four", ["four/frame_2.png", "four/frame_0.png"], "one.png"]
ENTRIES = [*(entry(name) for name in NAMES), entry(None), entry("long.mp4", "Red?", "Yes.")]


def fill(media: Path, cache: Path, entries: Any = ENTRIES, **changes: Any) -> dict[str, int]:
    annotations = media / "cached.json"
    annotations.write_text(json.dumps(entries))
    settings: dict[str, Any] = {"plan": UniformFrames(frames=5), "image_size": SIZE, "resize_mode": "bicubic"}
    settings |= {"backend": "pyav", "shard_size": 2, "max_failed": 0.0, "num_workers": 0}
    return cache_frames(annotations=[str(annotations)], media=str(media), cache=str(cache), **{**settings, **changes})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("plan", [UniformFrames(frames=5), FramesPerSecond(fps=4, max_frames=5)])
def test_cached_and_fresh_frames_are_the_same(
    plan: Any, clips: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fill(clips, tmp_path, plan=plan) == {"videos": len(NAMES), "failed": 0, "shards made": 3}
    fresh = batch_of(make_rows(clips, ENTRIES, tokenizer, plan=plan))
    data = make_rows(clips, ENTRIES, tokenizer, plan=plan, cache=str(tmp_path))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded, with a cache at hand")

    monkeypatch.setattr(data_module, "read", never)
    cached = batch_of(data)
    assert cached.num_frames == fresh.num_frames
    assert cached.pixels is not None
    assert fresh.pixels is not None
    assert torch.equal(cached.pixels, fresh.pixels)
    assert not batch_of(make_rows(clips, ENTRIES, tokenizer, plan=plan, cache=str(tmp_path), view="blind")).pixels.any()  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match="decoded"):  # other views need the clips themselves
        make_rows(clips, ENTRIES, tokenizer, plan=plan, cache=str(tmp_path), view="shuffled")[Pick(0, 0, 1.0)]


def test_killed_half_way_and_begun_again_it_ends_with_the_same_bytes(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(clips, tmp_path / "whole")
    write = CacheWriter.write

    def killed(self: CacheWriter, number: int, *rest: Any) -> None:
        if number == 1:
            raise KeyboardInterrupt
        write(self, number, *rest)

    monkeypatch.setattr(CacheWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        fill(clips, tmp_path / "half")
    monkeypatch.setattr(CacheWriter, "write", write)
    with pytest.raises(FileNotFoundError, match="no finished cache"):
        Cache(tmp_path / "half")
    assert fill(clips, tmp_path / "half")["shards made"] == 2
    assert content(tmp_path / "half") == content(tmp_path / "whole")
    assert fill(clips, tmp_path / "half")["shards made"] == 0
    assert fill(clips, tmp_path / "workers", num_workers=2)["videos"] == len(NAMES)
    assert content(tmp_path / "workers") == content(tmp_path / "whole")


@pytest.mark.parametrize("changes", [{"image_size": 28}, {"resize_mode": "nearest"}, {"plan": UniformFrames(frames=4)}])
def test_other_settings_are_refused(
    changes: dict[str, Any], clips: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    fill(clips, tmp_path)
    with pytest.raises(StaleCacheError, match="other files or settings"):
        fill(clips, tmp_path, **changes)
    with pytest.raises(StaleCacheError, match="made with other settings"):
        make_rows(clips, ENTRIES, tokenizer, cache=str(tmp_path), **changes)


def test_bad_files_are_counted_and_their_rows_refused_by_name(
    clips: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    entries = [*ENTRIES, entry("broken.mp4"), entry("short.mp4")]
    with pytest.raises(ValueError, match="2 of 8 entries failed"):
        fill(clips, tmp_path, entries, max_failed=0.1)
    assert fill(clips, tmp_path, entries, max_failed=0.3)["failed"] == 2
    failures = {row["name"]: row["reason"] for row in json.loads((tmp_path / "failures.json").read_text())}
    assert failures.keys() == {"broken.mp4", "short.mp4"}
    assert "5 different frames asked of a clip of 3" in failures["short.mp4"]
    with pytest.raises(ValueError, match=r"2 videos have no frames in .*broken\.mp4.*failures\.json"):
        make_rows(clips, entries, tokenizer, cache=str(tmp_path))
    make_rows(clips, ENTRIES, tokenizer, cache=str(tmp_path))
