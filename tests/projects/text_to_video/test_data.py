"""Clips as batches: which captions, states and sizes training sees, and what is refused before it begins."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.cache import StaleCacheError
from common.files import read_jsonl, write_jsonl
from common.types import Pick
from projects.text_to_video.caption_check import RECORD, refuse_long
from projects.text_to_video.caption_states import NULL, caption_states
from projects.text_to_video.captions import CaptionError
from projects.text_to_video.chunks import Chunks
from projects.text_to_video.data import Clips
from projects.text_to_video.distributed import Distributed
from projects.text_to_video.frame_by_frame import FrameByFrame
from projects.text_to_video.joint import Joint
from projects.text_to_video.requests import Captions
from tests.projects.text_to_video.t2v_clips import (
    FPS,
    TEXT,
    caption,
    clips,
    fit,
    module,
    write_latents,
    write_rewritten,
)
from tests.projects.text_to_video.t2v_parts import tiny_unet

MIXED = [("8x8x5", 5), ("8x16x5", 5), ("8x8x5", 3), ("8x16x5", 5), ("8x8x5", 5), ("16x16x5", 5), ("8x8x5", 2)]


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    return write_latents(tmp_path / "latents", [("8x8x5", 5)] * 6)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write_latents(tmp_path / "mixed", MIXED)


def states_table(folder: Path, latents: Path, **changes: Any) -> str:
    """The table of states of the captions of a cache."""
    rows = [row | {"video": "v.mp4"} for row in read_jsonl(latents / "clips.jsonl")]
    write_jsonl(folder / "list" / "train.jsonl", rows)
    settings = {"text": TEXT, "captions_at_once": 4, "devices": "cpu"} | changes
    caption_states(table=str(folder / "list"), cache=str(folder / "states"), **settings)
    return str(folder / "states")


def batch_of(rows: Clips, *numbers: int) -> Any:
    return rows.collate([rows[Pick(number, position, 4.0)] for position, number in enumerate(numbers)])


# Rewritten captions


def test_training_reads_rewritten_captions(latents: Path, tmp_path: Path) -> None:
    new = {caption(number): f"{caption(number)} moves" for number in range(4)}
    rewritten = write_rewritten(tmp_path / "new", new)
    plain, told = clips(latents), clips(latents, captions=rewritten, text_dropout=0.0)
    assert [clip.caption for clip in told.clips] == [new[clip.caption] for clip in plain.clips]
    assert [clip.shown for clip in told.clips] == [clip.caption for clip in plain.clips]
    assert batch_of(told, 2, 0).prompts == (new[caption(2)], new[caption(0)])
    assert plain.fingerprint == clips(latents).fingerprint != told.fingerprint


def test_clips_without_a_rewritten_caption_are_refused_or_keep_their_own(latents: Path, tmp_path: Path) -> None:
    rewritten = write_rewritten(tmp_path / "new", {caption(0): "red", caption(1): "blue"})
    with pytest.raises(CaptionError, match=r"2 of 6 clips .*first clip2, clip3; .*task=recaption.*keep_originals=true"):
        clips(latents, captions=rewritten)
    kept = clips(latents, captions=rewritten, keep_originals=True)
    assert [clip.caption for clip in kept.clips] == ["red", "blue", caption(2), caption(3), "red", "blue"]
    with pytest.raises(CaptionError, match="no rewritten captions in"):
        clips(latents, captions=str(tmp_path / "none"))


def test_requests_of_a_table_read_them_and_those_of_a_user_do_not(latents: Path, tmp_path: Path) -> None:
    rewritten = write_rewritten(tmp_path / "new", {caption(number): f"new {number}" for number in range(2)})
    nothing: dict[str, Any] = {"prompt": None, "video": None, "file": None, "count": 2}
    sizes: dict[str, Any] = {"frames": 5, "fps": FPS, "size": [8, 8], "latent": [4, 4, 4]}
    table = str(latents / "clips.jsonl")
    asked = Captions(request=nothing, table=table, captions=rewritten, **sizes).asked
    assert [each.prompt for each in asked] == ["new 0", "new 1"]
    own = Captions(request=nothing | {"prompt": caption(0)}, table=table, captions=rewritten, **sizes).asked
    assert [each.prompt for each in own] == [caption(0)]
    three = nothing | {"count": 3}
    with pytest.raises(CaptionError, match=r"data\.predict\.captions=.*1 of 3 clips"):
        Captions(request=three, table=table, captions=rewritten, **sizes)


# Captions that are too long


def test_long_captions_are_refused_before_the_first_step(latents: Path, tmp_path: Path) -> None:
    new = {caption(number): caption(number) for number in range(3)} | {caption(3): "a red ring moves up and down"}
    rewritten = write_rewritten(tmp_path / "new", new)
    with pytest.raises(CaptionError, match=r"data\.train: 1 of 4 .* 8 tokens .*clip3 \(9\); .*task=recaption"):
        fit(module(), clips(latents, captions=rewritten))
    fit(module(), clips(latents), steps=1)


def test_tokens_are_counted_once_for_the_same_captions(
    latents: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counted: list[int] = []
    encoder = TEXT(tokens_only=True)
    monkeypatch.setattr(type(encoder), "lengths", lambda self, some: counted.append(len(some)) or [5] * len(some))
    clips(latents).refuse_captions(encoder)
    clips(latents, count=5).refuse_captions(encoder)  # the same four captions
    assert counted == [4]
    [record] = json.loads((latents / RECORD).read_text()).values()
    assert record == {"captions": 4, "longest": 5, "too_long": 0, "first": []}
    clips(latents, count=2).refuse_captions(encoder)
    clips(latents).refuse_captions(TEXT(tokens_only=True, max_tokens=9))
    assert counted == [4, 2, 4]


def test_a_folder_that_cannot_be_written_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    encoder = TEXT(tokens_only=True)
    refuse_long({"a red ring": "one"}, encoder, folder=tmp_path, key="data.train")
    with pytest.raises(CaptionError, match=r"first \(clip, tokens\) two \(11\)"):
        refuse_long({"a red ring": "one", "ring " * 9: "two"}, encoder, folder=tmp_path, key="data.train")
    assert not list(tmp_path.iterdir())


# The table of states


def test_states_of_the_table_are_those_of_the_encoder_after_rounding(latents: Path, tmp_path: Path) -> None:
    table = states_table(tmp_path, latents)
    fresh, read = batch_of(clips(latents), 0, 1, 2, 3, 4, 5), batch_of(clips(latents, states=table), 0, 1, 2, 3, 4, 5)
    assert fresh.text is None
    assert fresh.prompts == read.prompts
    assert NULL in read.prompts
    assert read.text.dtype == torch.float16
    run = module()
    torch.testing.assert_close(read.text.float(), run.states(read.prompts), rtol=2.0**-10, atol=1e-6)
    run.configure_model()
    with torch.no_grad():
        torch.testing.assert_close(run.errors(read), run.errors(fresh), rtol=1e-4, atol=1e-5)


def test_training_with_the_table_builds_no_text_encoder(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = states_table(tmp_path, latents)

    def built(*args: Any) -> None:
        raise AssertionError("a text encoder is built")

    class Similarity(torch.nn.Module):
        def forward(self, made: torch.Tensor, captions: list[str]) -> torch.Tensor:
            return torch.zeros(len(captions))

    monkeypatch.setattr("common.encoders.text._tower", built)
    with_table = clips(latents, states=table)
    fit(module(clip=Similarity, sampled=2), with_table)  # validation generates too
    with pytest.raises(AssertionError, match="is built"):
        fit(module(), clips(latents))


def test_a_table_of_others_is_refused_by_name(latents: Path, tmp_path: Path) -> None:
    table = states_table(tmp_path / "a", latents)
    with pytest.raises(StaleCacheError, match=r"'max_tokens': \(8, 9\).*task=caption_states"):
        fit(module(text_encoder=lambda **more: TEXT(max_tokens=9, **more)), clips(latents, states=table))
    with pytest.raises(StaleCacheError, match=r"'text_encoder': \('clip-text:"):
        fit(module(text_encoder=lambda **more: TEXT(seed=1, **more)), clips(latents, states=table))
    rewritten = write_rewritten(tmp_path / "new", {caption(number): f"ring {number}" for number in range(4)})
    with pytest.raises(ValueError, match=r'data\.train\.states=.*4 of 5 captions .*first "ring 0"; .*task\.captions'):
        clips(latents, states=table, captions=rewritten)
    with pytest.raises(FileNotFoundError, match="task=caption_states"):
        clips(latents, states=str(tmp_path / "none"))


def test_states_of_rewritten_captions(latents: Path, tmp_path: Path) -> None:
    rewritten = write_rewritten(tmp_path / "new", {caption(number): f"ring {number}" for number in range(3)})
    with pytest.raises(CaptionError, match=r"task\.captions=.*1 of 6 clips.*task\.keep_originals=true"):
        states_table(tmp_path / "b", latents, captions=rewritten)
    table = states_table(tmp_path / "a", latents, captions=rewritten, keep_originals=True)
    read = clips(latents, captions=rewritten, keep_originals=True, states=table, text_dropout=0.0)
    batch = batch_of(read, 0, 3)
    assert batch.prompts == ("ring 0", caption(3))
    torch.testing.assert_close(batch.text.float(), module().states(batch.prompts), rtol=2.0**-10, atol=1e-6)


def test_the_null_caption_is_in_the_table_or_it_is_refused(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projects.text_to_video.caption_states.NULL", caption(0))  # a table without the null one
    table = states_table(tmp_path, latents)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r'1 of 5 captions are not in the table, first ""'):
        clips(latents, states=table)


# Sizes and lengths


def test_clips_of_other_buckets_are_left_out_and_told(mixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = clips(mixed)
    assert [clip.id for clip in rows.clips] == ["clip0", "clip4"]
    assert rows.groups is None
    assert "2 of 7 clips are shorter than the buckets of their size (least 5 frames)" in caplog.text
    assert "3 of 7 clips are in other buckets (16x16x5: 1, 8x16x5: 2)" in caplog.text


def test_buckets_hold_clips_of_one_shape(mixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = clips(mixed, buckets=[[8, 8], [8, 16], [8, 8, 3]])
    assert [clip.id for clip in rows.clips] == ["clip0", "clip1", "clip2", "clip3", "clip4"]
    assert rows.groups.tolist() == [0, 1, 2, 1, 0]
    assert rows.fingerprint != clips(mixed).fingerprint
    wide, short = batch_of(rows, 3, 1), batch_of(rows, 2)
    assert wide.latents.shape == wide.draws.noise.shape == (2, 5, 4, 4, 8)
    assert short.latents.shape == short.draws.noise.shape == (1, 3, 4, 4, 4)
    assert torch.equal(wide.latents[0], rows.cache["clip3"])
    assert "1 of 7 clips are shorter than the buckets of their size (least 3 frames)" in caplog.text
    assert "1 of 7 clips are in other buckets (16x16x5: 1)" in caplog.text


def test_a_long_clip_may_be_trained_in_a_shorter_bucket(mixed: Path) -> None:
    rows = clips(mixed, buckets=[[8, 8, 2], [8, 8, 4]])
    assert {clip.id: rows.shape_of(number)[0] for number, clip in enumerate(rows.clips)} == {
        "clip0": 4,
        "clip2": 2,
        "clip4": 4,
        "clip6": 2,
    }
    assert torch.equal(batch_of(rows, 0).latents[0], rows.cache["clip0"][:4])


def test_a_run_over_buckets_trains_on_each(mixed: Path) -> None:
    shapes: set[tuple[int, ...]] = set()
    run = module(text_encoder=TEXT)
    errors = run.errors
    run.errors = lambda batch: shapes.add(tuple(batch.latents.shape[1:])) or errors(batch)  # type: ignore[method-assign]
    fit(run, clips(mixed, buckets=[[8, 8], [8, 16], [8, 8, 3]]), steps=6)
    assert shapes == {(5, 4, 4, 4), (5, 4, 4, 8), (3, 4, 4, 4)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buckets": [[8, 8], [32, 32]]}, r"data\.train\.buckets: 32x32x5, but .* has clips of 8x8, 8x16, 16x16"),
        ({"buckets": [[8, 8, 6]]}, r"data\.train\.buckets: \[8, 8, 6\] is longer than the 5 frames of data\.train\.f"),
        ({"buckets": [[8, 8], [8, 8, 5]]}, r"data\.train\.buckets=.*none twice"),
        ({"buckets": [[8, 9]]}, r"data\.train\.buckets: 8x9x5 has 9 pixels, no whole number of cells of 2"),
        ({"latent": [4, 2, 2]}, r"the latents of clip0 are \[5, 4, 4, 4\], those of \[5, 4, 2, 2\] are asked for"),
        ({"buckets": [[8, 8], [8, 16]], "latents": None, "table": "x"}, r"data\.train\.buckets needs data\.train\.lat"),
    ],
)
def test_what_the_cache_cannot_give_is_named(mixed: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clips(mixed, **changes)


def test_latents_with_a_variance_are_drawn(tmp_path: Path) -> None:
    rows = clips(write_latents(tmp_path / "latents", [("8x8x5", 5)] * 3, logvar=True))
    batch = batch_of(rows, 0, 1)
    assert batch.latents.shape == (2, 5, 8, 4, 4)
    clean = module().clean(batch)
    mean, logvar = batch.latents.float().chunk(2, dim=2)
    scale = module().codec.scaling_factor
    torch.testing.assert_close(clean, scale * (mean + (0.5 * logvar).exp() * batch.draws.posterior))


CONTEXT = {"frames": 6, "patch": 2, "depth": 1, "queries": 4, "heads": 2, "dim_head": 8, "width": 16, "targets": 2}
MOTION = {"motion": {"heads": 2}, "train_spatial": False}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Distributed, CONTEXT | {"frames": 4}, "a clip of 5 frames, but model.kind.frames=4"),
        (Distributed, CONTEXT | {"patch": 3}, "latents of 4 x 4 are not whole patches"),
        (FrameByFrame, CONTEXT | {"targets": 4}, "clips of 3 frames, but a step learns model.kind.targets=4"),
        (Joint, MOTION | {"frames": 4}, "clips of 5 frames, but model.kind.frames=4"),
        (Chunks, MOTION | {"window": 5, "context": 2}, "clips of 3 frames are shorter than model.kind.window=5"),
    ],
)
def test_buckets_that_a_kind_cannot_learn_from_are_refused_first(
    mixed: Path, kind: Any, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "errors", None)
    guidance = {"text_scale": 2.0, "context_scale": 1.0}
    run = module(
        kind=partial(kind, unet=tiny_unet, **changes),
        sampling={"scheduler": "DDIMScheduler", "steps": 2, "seed": 0, "guidance": guidance},
    )
    with pytest.raises(ValueError, match=message):
        fit(run, clips(mixed, buckets=[[8, 8], [8, 8, 3]]))
