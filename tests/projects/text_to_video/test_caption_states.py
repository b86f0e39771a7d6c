"""The table of captions: what the text encoder gives, each caption once, apart from the latents."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.cache import StaleCacheError
from common.data.prompt_table import text_settings_of
from common.disk import DiskSpaceError
from common.encoders.text import ClipText
from common.files import write_jsonl
from projects.text_to_video.caption_states import caption_states, open_states

TEXT = partial(ClipText, weights=str(Path(__file__).resolve().parents[3] / "common/tiny/weights/clip"), max_tokens=12)
CAPTIONS = ("a red ring moves up", "a blue square moves down", "a red ring moves up")


def run(folder: Path, captions: tuple[str, ...] = CAPTIONS, **changes: Any) -> dict[str, float]:
    rows = [{"id": str(number), "video": f"{number}.mp4", "caption": text} for number, text in enumerate(captions)]
    write_jsonl(folder / "captions" / "train.jsonl", rows)
    settings: dict[str, Any] = {"text": TEXT, "captions_at_once": 2, "devices": "cpu"} | changes
    return caption_states(table=str(folder / "captions"), cache=str(folder / "states"), **settings)


def test_each_caption_once_and_the_null_one(tmp_path: Path) -> None:
    assert run(tmp_path) == {"captions": 3, "shards made": 1, "shards missing": 0}
    encoder = TEXT()
    table = open_states(tmp_path / "states", settings=text_settings_of(encoder))
    assert {*table} == {"", *CAPTIONS}
    for caption, states in table.items():
        torch.testing.assert_close(states.float(), encoder([caption])[0], rtol=2.0**-10, atol=1e-4)
    assert run(tmp_path)["shards made"] == 0


def test_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="task=caption_states"):
        open_states(tmp_path / "states", settings={})
    with pytest.raises(ValueError, match="a blue square moves down"):
        run(tmp_path, text=partial(TEXT, max_tokens=4))
    run(tmp_path)
    with pytest.raises(StaleCacheError, match=r"max_tokens.*task=caption_states"):
        open_states(tmp_path / "states", settings={"max_tokens": 77})
    with pytest.raises(StaleCacheError, match="remove it or choose another folder"):
        run(tmp_path, ("a red ring moves down",))
    monkeypatch.setattr("common.disk.free_bytes", lambda folder: 1000)
    with pytest.raises(DiskSpaceError, match="3 captions of"):
        run(tmp_path / "full")
