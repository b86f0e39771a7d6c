"""The cache of latents: what encoding gives, each picture once, the same bytes however it is run, bad rows named."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.cache import Cache, StaleCacheError
from common.encoders.text import ClipText
from common.latent.vae import LatentCodec
from projects.pix2pix_video.edit_latents import edit_latents
from projects.pix2pix_video.frames import EditFrames, SetError
from projects.pix2pix_video.latents import load_all, open_latents, open_text, settings_of, text_settings_of
from tests.experiments import in_turn
from tests.projects.pix2pix_video.small_set import (
    CLIP,
    CODEC,
    HISTORY,
    INSTRUCTIONS,
    LATENT,
    ROWS,
    SIZE,
    TEXT,
    VAE,
    make_set,
)

ROOT = Path(__file__).resolve().parents[3]
HALF_STEP = 2.0**-11  # of float16, relative
ALL = {"rows": 16, "failed": 0, "shards missing": 0}


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("edits"))


def run(edits: Path, cache: Path, **changes: Any) -> dict[str, float]:
    settings: dict[str, Any] = {"codec": CODEC, "text": TEXT, "size": SIZE, "history": HISTORY, "crop": "squash"}
    settings |= {"shard_size": 4, "pictures_at_once": 5, "prompts_at_once": 2, "max_failed": 0.0, "num_workers": 2}
    settings |= {"checked": 2, "devices": "cpu", "media": str(edits.parent / "media")}
    return edit_latents(folder=str(edits), cache=str(cache), **settings | changes)


def opened(edits: Path, split: str = "train", **changes: Any) -> EditFrames:
    settings: dict[str, Any] = {"size": SIZE, "history": HISTORY, "crop": "squash"} | changes
    return EditFrames(folder=str(edits), split=split, media=str(edits.parent / "media"), **settings)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(edits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("undisturbed")
    figures = run(edits, cache)
    assert figures.pop("decode_psnr") > 50
    # 5, 5 and 4 pictures of train, 5 of val and of test, instead of 4 a row; 5 shards and that of the prompts.
    assert figures == ALL | {"pictures encoded": 24, "shards made": 6}
    return cache


def test_entries_are_what_encoding_gives_rounded(edits: Path, undisturbed: Path) -> None:
    codec = CODEC()
    for split, count in ROWS.items():
        frames, cache = opened(edits, split), Cache(undisturbed / split)
        assert len(cache) == count
        for number, row in enumerate(frames.rows):
            mean, logvar = codec.encode(frames.pixels(number))
            entry = cache[row.id]
            assert entry.dtype == torch.float16
            assert entry.shape == (HISTORY + 2, *LATENT)
            expected = torch.cat([mean, logvar[-1:]])
            torch.testing.assert_close(entry.float(), expected, rtol=HALF_STEP, atol=1e-5)


def test_picture_by_picture_the_cache_and_encoding_on_the_fly_are_bit_equal(edits: Path, tmp_path: Path) -> None:
    run(edits, tmp_path, pictures_at_once=1)
    codec, frames, cache = CODEC(), opened(edits), Cache(tmp_path / "train")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for number, row in enumerate(frames.rows):
        fresh = [codec.encode(picture[None]) for picture in frames.pixels(number)]
        expected = torch.cat([*(mean for mean, _ in fresh), fresh[-1].logvar])
        assert torch.equal(cache[row.id], expected.half())
    torch.set_num_threads(threads)


def test_states_of_prompts_are_those_of_the_text_encoder(edits: Path, undisturbed: Path) -> None:
    table, encoder = Cache(undisturbed / "text"), TEXT()
    assert set(table) == {"", *INSTRUCTIONS}
    for prompt, states in table.items():
        assert states.dtype == torch.float16
        torch.testing.assert_close(states.float(), encoder([prompt])[0], rtol=HALF_STEP, atol=1e-5)


def test_without_a_text_encoder_there_is_no_table(edits: Path, tmp_path: Path) -> None:
    assert run(edits, tmp_path, text=None)["shards made"] == 5
    assert not (tmp_path / "text").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": ["cpu", "cpu"]},
        {"devices": ["cpu", "cpu", "cpu"], "num_workers": 1},
        {"num_workers": 0},
    ],
    ids=["two devices", "three devices, one decoder", "decoding in this process"],
)
def test_bytes_do_not_depend_on_devices_or_workers(
    edits: Path, undisturbed: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(edits, tmp_path, **changes)
    assert content(tmp_path) == content(undisturbed)


def test_machines_make_their_parts_and_the_last_one_the_index(edits: Path, undisturbed: Path, tmp_path: Path) -> None:
    first = run(edits, tmp_path, shard="0/2")  # shards 0 and 2 of train, 0 of val, test and the prompts
    assert first == {"rows": 12, "failed": 0, "shards missing": 1, "shards made": 5, "pictures encoded": 19}
    with pytest.raises(FileNotFoundError, match="task=edit_latents"):
        open_latents(tmp_path / "train", settings={})
    second = run(edits, tmp_path, shard="1/2")
    assert second.items() > (ALL | {"shards made": 1}).items()
    assert content(tmp_path) == content(undisturbed)


def test_what_is_there_is_not_made_again(edits: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(undisturbed)
    monkeypatch.setattr(LatentCodec, "encode", None)
    monkeypatch.setattr(ClipText, "forward", None)
    figures = run(edits, undisturbed)
    assert figures.items() > (ALL | {"shards made": 0, "pictures encoded": 0}).items()
    assert content(undisturbed) == before


def test_the_cost_of_the_storage_is_recorded(undisturbed: Path) -> None:
    record = json.loads((undisturbed / "precision.json").read_text())
    assert record["rows"] == ["train/0", "train/1"]
    assert all(value is None or value > 50 for value in record["decode_psnr"])


def test_a_coarser_precision_shows_in_what_is_recorded(edits: Path, tmp_path: Path) -> None:
    coarse = run(edits, tmp_path / "coarse", codec=partial(CODEC, dtype="bfloat16"), text=None)
    assert coarse["decode_psnr"] < run(edits, tmp_path / "fine", text=None)["decode_psnr"]


def test_bad_rows_are_named_counted_and_bounded(tmp_path: Path) -> None:
    edits = make_set(tmp_path)
    (tmp_path / "media" / "train" / "00.png").write_text("<html>not found</html>")  # of the rows 0 and 1
    (tmp_path / "media" / "test" / "03.png").unlink()  # of the row 2
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"2 of 9 entries failed.*0\.0.*failures\.json"):
        run(edits, cache)
    figures = run(edits, cache, max_failed=0.4)
    assert figures.items() > {"rows": 13, "failed": 3, "shards made": 0, "shards missing": 0}.items()
    failures = {
        each["name"]: each["reason"]
        for split in ROWS
        for each in json.loads((cache / split / "failures.json").read_text())
    }
    assert failures.keys() == {"train/0", "train/1", "test/2"}
    assert "00.png" in failures["train/0"]
    assert "03.png" in failures["test/2"]
    assert set(Cache(cache / "train")) == {f"train/{number}" for number in range(2, 9)}
    with pytest.raises(ValueError, match=r"lacks 2 of 9 entries, first 'train/0': .*00\.png.*task=edit_latents again"):
        load_all(Cache(cache / "train"), [row.id for row in opened(edits).rows])


def test_too_long_an_instruction_is_refused_before_a_frame_is_read(
    edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EditFrames, "pixels", None)
    with pytest.raises(ValueError, match=r'the prompt "keep the square moving" has 6 tokens.*takes 5; shorten it'):
        run(edits, tmp_path, text=partial(ClipText, weights=CLIP, max_tokens=5))


def test_numbers_that_float16_cannot_hold_are_an_error(
    edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = LatentCodec.encode
    monkeypatch.setattr(LatentCodec, "encode", lambda codec, pixels: encode(codec, pixels)._replace(
        mean=torch.full((len(pixels), *LATENT), 1e6)
    ))  # fmt: skip
    with pytest.raises(ValueError, match="cannot hold"):
        run(edits, tmp_path)


def test_two_rows_of_one_name_are_refused(edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = EditFrames.__init__

    def doubled(self: EditFrames, **settings: Any) -> None:
        original(self, **settings)
        self.rows[1] = self.rows[0]

    monkeypatch.setattr(EditFrames, "__init__", doubled)
    with pytest.raises(ValueError, match="rows with the same id"):
        run(edits, tmp_path)


def test_another_history_than_that_of_the_set_is_refused(edits: Path, tmp_path: Path) -> None:
    with pytest.raises(SetError, match=f"histories of {HISTORY} frames, and 5"):
        run(edits, tmp_path, history=5)


# Reading


def test_all_entries_in_one_tensor(edits: Path, undisturbed: Path) -> None:
    frames, codec = opened(edits), CODEC(encoder_only=True)
    settings = settings_of(codec, size=SIZE, crop="squash", history=HISTORY, rows=frames.fingerprint)
    cache = open_latents(undisturbed / "train", settings=settings)
    ids = [row.id for row in frames.rows][::-1]
    latents = load_all(cache, ids)
    assert latents.shape == (9, HISTORY + 2, *LATENT)
    assert all(torch.equal(latents[row], cache[name]) for row, name in enumerate(ids))
    table = open_text(undisturbed / "text", settings=text_settings_of(TEXT()))
    assert load_all(table, ["", *INSTRUCTIONS]).shape == (4, 12, 64)


@pytest.mark.parametrize(
    ("codec", "changes", "message"),
    [
        (partial(CODEC, seed=1), {}, "'vae': .*random:0:.*random:1:"),
        (CODEC, {"size": 32}, r"'size': \(16, 32\)"),
        (CODEC, {"crop": "centre"}, r"'crop': \('squash', 'centre'\)"),
        (CODEC, {"history": 1}, r"'history': \(3, 1\)"),
        (CODEC, {"rows": "other"}, r"'rows': .*'other'"),
        (partial(CODEC, architecture=VAE | {"scaling_factor": 0.5}), {}, r"'scaling_factor': \(0.18215, 0.5\)"),
    ],
    ids=["autoencoder", "size", "crop", "history", "rows", "scaling factor"],
)
def test_a_cache_of_something_else_names_both_values_and_the_remedy(
    undisturbed: Path, codec: Any, changes: dict[str, Any], message: str
) -> None:
    wanted: dict[str, Any] = {"size": SIZE, "crop": "squash", "history": HISTORY} | changes
    with pytest.raises(StaleCacheError, match=message) as raised:
        open_latents(undisturbed / "train", settings=settings_of(codec(), **wanted))
    assert "task=edit_latents with task.cache=<another folder>" in str(raised.value)
    assert "data.*.latents=null" in str(raised.value)


def test_the_precision_of_the_reader_is_its_own(undisturbed: Path) -> None:
    settings = settings_of(CODEC(dtype="bfloat16"), size=SIZE, crop="squash", history=HISTORY)
    assert open_latents(undisturbed / "val", settings=settings)
    assert json.loads((undisturbed / "val" / "plan.json").read_text())["settings"]["vae_dtype"] == "float32"


@pytest.mark.parametrize("changes", [{"max_tokens": 16}, {"weights": "random", "tokenizer": CLIP}])
def test_a_table_of_another_text_encoder_is_refused(undisturbed: Path, changes: dict[str, Any]) -> None:
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = TEXT(**changes, architecture=small)
    with pytest.raises(StaleCacheError, match=r"(max_tokens|text_encoder).*data\.\*\.text=null"):
        open_text(undisturbed / "text", settings=text_settings_of(encoder))


def test_a_folder_is_not_filled_twice_with_different_things(edits: Path, undisturbed: Path) -> None:
    with pytest.raises(StaleCacheError, match="remove it or choose another folder"):
        run(edits, undisturbed, codec=partial(CODEC, seed=1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda(edits: Path, undisturbed: Path, tmp_path: Path) -> None:
    run(edits, tmp_path / "one", devices="cuda:0")
    run(edits, tmp_path / "two", devices=["cuda:0", "cuda:0"])
    assert content(tmp_path / "one") == content(tmp_path / "two")
    for split in (*ROWS, "text"):
        for name, entry in Cache(undisturbed / split).items():
            torch.testing.assert_close(Cache(tmp_path / "one" / split)[name], entry, rtol=1e-2, atol=1e-2)


# Killed for real


def command(data: Path, cache: Path, *overrides: str) -> list[str]:
    task = ["task=edit_latents_tiny", "task.shard_size=8", "task.pictures_at_once=16", f"task.cache={cache}"]
    where = [f"paths.data={data}", f"paths.outputs={data}"]
    return [sys.executable, "-m", "launchers.prepare", *task, *where, *overrides]


def killed_when(condition: Callable[[], bool], arguments: list[str]) -> None:
    """Starts the task and kills it, by SIGKILL, when the condition holds."""
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not condition():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@in_turn(0)
def test_killed_twice_it_ends_with_the_same_bytes_and_repeats_no_shard(tmp_path: Path) -> None:
    prepare = [sys.executable, "-m", "launchers.prepare", f"paths.data={tmp_path}", f"paths.outputs={tmp_path}"]
    shapes = ["task=shapes", "task.parts=[edits]", "task.edits={train: 240, val: 20, test: 20}", "task.size=32"]
    subprocess.run([*prepare, *shapes, f"task.root={tmp_path}/shapes_edits"], cwd=ROOT, check=True)
    subprocess.run([*prepare, "task=edit_frames_tiny"], cwd=ROOT, check=True)
    subprocess.run(command(tmp_path, tmp_path / "whole"), cwd=ROOT, check=True)
    killed = tmp_path / "killed"

    def done() -> dict[str, tuple[int, int]]:
        """Identity and date of what belongs to a finished shard."""
        records = [path.with_suffix("") for path in killed.rglob("shard_*.json")]
        files = [path.with_suffix(end) for path in records for end in (".json", ".safetensors")]
        return {str(path.relative_to(killed)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

    killed_when(lambda: len(done()) >= 2 * 4, command(tmp_path, killed, "task.num_workers=1"))
    first = done()
    # Again later, and while a file is being written.
    killed_when(
        lambda: len(done()) >= 2 * 15 and any(killed.rglob(".shard_*.part")),
        command(tmp_path, killed, "task.devices=[cpu,cpu]"),
    )
    second = done()
    assert first.items() < second.items()
    assert not (killed / "test" / "index.json").exists()
    subprocess.run(command(tmp_path, killed), cwd=ROOT, check=True)
    assert second.items() < done().items()
    assert content(killed) == content(tmp_path / "whole")
