"""The cache of latents of clips: what encoding gives, the same bytes however it is run, others refused by name."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from common.data.cache import StaleCacheError
from common.disk import DiskSpaceError
from common.files import read_jsonl, write_jsonl
from common.latent.vae import LatentCodec, load_codec
from common.video.write import encode_h264
from projects.text_to_video import encode_videos
from projects.text_to_video.clip_lists import ClipListError
from projects.text_to_video.encode_videos import video_latents
from projects.text_to_video.video_latents import (
    VideoLatents,
    clip_frames,
    encode_clip,
    latent_settings,
    open_video_latents,
)
from tests.experiments import in_turn

ROOT = Path(__file__).resolve().parents[3]
VAE: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 16,
}
CODEC = partial(load_codec, weights="random", architecture=VAE)
FPS, SECONDS = 8.0, 1.0
CLIP_BYTES = 8 * 4 * 8 * 8 * 2
# Height, width, frames at 12 a second, of each clip.
CLIPS = {
    "train": [(16, 16, 12), (16, 32, 12), (16, 16, 24), (16, 16, 6), (32, 32, 12), (16, 32, 14), (16, 16, 12)],
    "val": [(16, 16, 12), (16, 16, 12)],
}
STORED = {"train": 6, "val": 2}
WHOLE = {"clips": 8, "short": 1, "unreadable": 0, "shards missing": 0}


def make_clips(root: Path) -> Path:
    """Videos of noise with lists of them, as the built-in captions are."""
    rng = np.random.default_rng(0)
    for split, sizes in CLIPS.items():
        rows = []
        for number, (height, width, frames) in enumerate(sizes):
            path = root / "clips" / split / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (frames, height, width, 3), np.uint8)
            path.write_bytes(encode_h264(pixels, fps=12.0))
            rows.append(
                {"id": f"{split}/{number}", "video": f"clips/{split}/{number}.mp4", "caption": f"clip {number}"}
            )
            rows[-1] |= {"novel": number % 2 == 0, "fps": 12.0}
        write_jsonl(root / "captions" / f"{split}.jsonl", rows)
    return root


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clips(tmp_path_factory.mktemp("clips"))


def run(clips: Path, cache: Path, **changes: Any) -> dict[str, float]:
    settings: dict[str, Any] = {"table": str(clips / "captions"), "media": None, "codec": CODEC, "fps": FPS}
    settings |= {"seconds": SECONDS, "buckets": [[16, 16]], "crop": "centre", "min_frames": None, "logvar": False}
    settings |= {"dtype": "bfloat16", "backend": "pyav", "shard_mib": 2 * CLIP_BYTES / 2**20, "frames_at_once": 3}
    settings |= {"max_failed": 0.0, "num_workers": 1, "checked": 0, "devices": "cpu"}
    return video_latents(cache=str(cache), **settings | changes)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("undisturbed")
    figures = run(clips, cache, checked=2)
    assert figures.pop("decode_psnr") > 40
    # 6 and 2 clips in shards of 2. Of 12 frames a second, each time at 8 a second has a frame of its own.
    assert figures == WHOLE | {"clips encoded": 8, "shards made": 4, "frames": 64, "repeated frames": 0}
    return cache


@pytest.fixture
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(clips: Path, row: dict[str, Any], size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    return clip_frames(clips / row["video"], fps=FPS, frames=8, size=size, crop="centre", backend="pyav")


@pytest.mark.usefixtures("one_thread")
def test_cached_and_fresh_latents_are_bit_equal_after_rounding(clips: Path, undisturbed: Path) -> None:
    codec = CODEC()
    for split, count in STORED.items():
        latents = open_video_latents(undisturbed / split, settings=latent_settings(codec) | {"fps": FPS})
        assert len(latents) == count
        for row in latents.rows:
            frames = fresh(clips, row)
            made = encode_clip(codec, frames, at_once=3, logvar=False, dtype="bfloat16")
            assert torch.equal(latents[row["id"]], made)
            exact = codec.encode(frames).mean
            torch.testing.assert_close(latents[row["id"]].float(), exact, rtol=2.0**-8, atol=1e-5)


def test_the_index_carries_what_the_list_says(undisturbed: Path) -> None:
    rows = open_video_latents(undisturbed / "train", settings={}).rows
    assert [row["id"] for row in rows] == [f"train/{number}" for number in (0, 1, 2, 4, 5, 6)]
    expected = {"id": "train/1", "caption": "clip 1", "frames": 8, "bucket": "16x16x8", "fps": FPS, "repeated": 0}
    assert rows[1] == expected | {"video": "clips/train/1.mp4", "novel": False, "source_fps": 12.0}


def test_short_clips_are_left_out_and_listed(undisturbed: Path) -> None:
    [skipped] = read_jsonl(undisturbed / "train" / "skipped.jsonl")
    assert skipped == {"id": "train/3", "video": "clips/train/3.mp4", "kind": "short",
                       "reason": "gives 4 frames of the 8 needed"}  # fmt: skip


def test_short_clips_are_stored_with_their_true_length_where_they_may_be(clips: Path, tmp_path: Path) -> None:
    figures = run(clips, tmp_path, min_frames=4)
    assert figures.items() > {"clips": 9, "short": 0, "frames": 68}.items()
    latents = open_video_latents(tmp_path / "train", settings={})
    assert {row["id"]: row["frames"] for row in latents.rows}["train/3"] == 4
    assert latents["train/3"].shape == (4, 4, 8, 8)
    assert (latents["train/3"].float().flatten(1).std(1) > 0).all()


def test_the_log_variance_stands_behind_the_mean(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    run(clips, tmp_path, logvar=True, dtype="float32")
    both, means = (open_video_latents(folder / "val", settings={}) for folder in (tmp_path, undisturbed))
    posterior = CODEC().encode(fresh(clips, both.rows[0]))
    torch.testing.assert_close(both["val/0"], torch.cat([*posterior], 1), rtol=1e-4, atol=1e-5)
    assert torch.equal(both["val/0"][:, :4].bfloat16(), means["val/0"])


def test_repeated_frames_are_encoded_once_and_counted(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = [], LatentCodec.encode

    def counting(codec: LatentCodec, pixels: torch.Tensor) -> Any:
        encoded.append(len(pixels))
        return encode(codec, pixels)

    monkeypatch.setattr(LatentCodec, "encode", counting)
    figures = run(clips, tmp_path, fps=24.0)
    assert figures.items() > {"clips": 8, "frames": 8 * 24, "repeated frames": 8 * 12}.items()
    assert sum(encoded) == 8 * 12
    latents = open_video_latents(tmp_path / "val", settings={})
    assert latents.rows[0]["repeated"] == 12
    alike = (latents["val/0"][1:] == latents["val/0"][:-1]).flatten(1).all(1)
    assert alike.sum() == 12


def test_each_bucket_has_its_cache(clips: Path, tmp_path: Path) -> None:
    figures = run(clips, tmp_path, buckets=[[16, 16], [16, 32], [16, 16, 4]])
    assert figures.items() > {"clips": 9, "short": 0}.items()
    latents = open_video_latents(tmp_path / "train", settings={})
    where = {row["id"]: row["bucket"] for row in latents.rows}
    assert list(where.values()) == ["16x16x8", "16x32x8", "16x16x8", "16x16x4", "16x16x8", "16x32x8", "16x16x8"]
    assert latents["train/1"].shape == (8, 4, 8, 16)
    assert latents["train/3"].shape == (4, 4, 8, 8)
    wide = open_video_latents(tmp_path / "train", settings={"height": 16, "width": 32, "frames": 8})
    assert [*wide] == ["train/1", "train/5"] == [row["id"] for row in wide.rows]
    with pytest.raises(StaleCacheError, match=r"'width'.*32.*64|'width'.*16.*64"):
        open_video_latents(tmp_path / "train", settings={"height": 16, "width": 64, "frames": 8})


@pytest.mark.parametrize(
    "changes", [{"devices": ["cpu", "cpu", "cpu"]}, {"num_workers": 0}], ids=["devices", "workers"]
)
def test_bytes_do_not_depend_on_devices_or_workers(
    clips: Path, undisturbed: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(clips, tmp_path, checked=2, **changes)
    assert content(tmp_path) == content(undisturbed)


def test_machines_make_their_parts_and_the_last_one_the_index(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    first = run(clips, tmp_path, shard="0/2", checked=2)  # shards 0 and 2 of train, 0 of val
    assert first == {"clips encoded": 6, "shards made": 3, "shards missing": 1}
    with pytest.raises(FileNotFoundError, match="task=video_latents"):
        open_video_latents(tmp_path / "train", settings={})
    second = run(clips, tmp_path, shard="1/2", checked=2)
    assert second.items() > (WHOLE | {"shards made": 1}).items()
    assert content(tmp_path) == content(undisturbed)


def test_what_is_there_is_not_made_again(clips: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(undisturbed)
    monkeypatch.setattr(LatentCodec, "encode", None)
    figures = run(clips, undisturbed, checked=2)
    assert figures.items() > (WHOLE | {"shards made": 0, "clips encoded": 0}).items()
    assert content(undisturbed) == before


def test_other_captions_keep_the_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, cache = make_clips(tmp_path / "clips"), tmp_path / "cache"
    run(clips, cache)
    table = clips / "captions" / "val.jsonl"
    write_jsonl(table, [row | {"caption": "rewritten"} for row in read_jsonl(table)])
    monkeypatch.setattr(LatentCodec, "encode", None)
    run(clips, cache)
    assert {row["caption"] for row in open_video_latents(cache / "val", settings={}).rows} == {"rewritten"}


def test_bad_files_are_listed_counted_and_bounded(tmp_path: Path) -> None:
    clips, cache = make_clips(tmp_path / "clips"), tmp_path / "cache"
    (clips / "clips" / "train" / "0.mp4").write_text("<html>not found</html>")
    (clips / "clips" / "train" / "4.mp4").unlink()
    with pytest.raises(ValueError, match=r"2 of 7 clips cannot be read.*0\.0.*skipped\.jsonl"):
        run(clips, cache)
    with pytest.raises(FileNotFoundError, match="no finished cache"):
        open_video_latents(cache / "train", settings={})
    figures = run(clips, cache, max_failed=0.3)
    assert figures.items() > {"clips": 6, "short": 1, "unreadable": 2, "clips encoded": 0}.items()
    kinds = {row["id"]: row["kind"] for row in read_jsonl(cache / "train" / "skipped.jsonl")}
    assert kinds == {"train/0": "unreadable", "train/3": "short", "train/4": "unreadable"}
    assert set(open_video_latents(cache / "train", settings={})) == {f"train/{number}" for number in (1, 2, 5, 6)}


def test_a_file_that_cannot_be_decoded_is_listed_too(tmp_path: Path) -> None:
    """Its packets can be told, its frames cannot."""
    clips, cache = make_clips(tmp_path / "clips"), tmp_path / "cache"
    path = clips / "clips" / "val" / "1.mp4"
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start + 900 : start + 4000] = bytes(3100)
    path.write_bytes(data)
    figures = run(clips, cache, max_failed=0.5)
    assert figures["unreadable"] == 1
    [skipped] = read_jsonl(cache / "val" / "skipped.jsonl")
    assert skipped["id"] == "val/1"


def test_a_file_that_changes_under_the_work_is_refused(tmp_path: Path) -> None:
    clips, cache = make_clips(tmp_path / "clips"), tmp_path / "cache"
    run(clips, cache)
    path = clips / "clips" / "val" / "1.mp4"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(StaleCacheError, match=r"val/1\.mp4 has .* bytes, and had .*remove"):
        run(clips, cache)


def test_a_full_disk_is_told_before_the_work(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("common.disk.free_bytes", lambda folder: 8 * CLIP_BYTES - 1)
    monkeypatch.setattr(LatentCodec, "encode", None)
    caplog.set_level("INFO")
    with pytest.raises(DiskSpaceError, match=r"8 clips .*4\.00 KiB \(4,096 bytes\) a clip.* 1 bytes are missing"):
        run(clips, tmp_path)
    assert "latents of 8 clips, 32.00 KiB (32,768 bytes) in all" in caplog.text


def test_what_is_there_already_needs_no_room(clips: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.disk.free_bytes", lambda folder: 0)
    assert run(clips, undisturbed)["shards made"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (latent_settings(CODEC(seed=1)), "'vae': .*random:0:.*random:1:"),
        (latent_settings(CODEC(architecture=VAE | {"scaling_factor": 0.5})), r"'scaling_factor': \(0.18215, 0.5\)"),
        ({"fps": 16.0}, r"'fps': \(8.0, 16.0\)"),
        ({"height": 32, "width": 32}, r"'height': \(16, 32\)"),
        ({"frames": 16}, r"'frames': \(8, 16\)"),
        ({"crop": "squash"}, r"'crop': \('centre', 'squash'\)"),
    ],
    ids=["autoencoder", "scaling", "fps", "resolution", "frames", "crop"],
)
def test_a_cache_of_something_else_names_both_values_and_the_remedy(
    undisturbed: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(StaleCacheError, match=message) as raised:
        open_video_latents(undisturbed / "train", settings=settings)
    assert "task=video_latents with task.cache=<another folder>" in str(raised.value)


@pytest.mark.parametrize("changes", [{"codec": partial(CODEC, seed=1)}, {"fps": 4.0}, {"crop": "squash"}])
def test_a_folder_is_not_filled_twice_with_different_things(
    clips: Path, undisturbed: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(StaleCacheError, match=r"remove it,? or choose another"):
        run(clips, undisturbed, **changes)


def test_the_precision_is_told_and_recorded(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    record = json.loads((undisturbed / "precision.json").read_text())
    assert record["clips"] == ["train/0", "train/1"]
    assert (
        json.loads((undisturbed / "train" / "16x16x8" / "plan.json").read_text())["settings"]["vae_dtype"] == "float32"
    )
    coarse = run(clips, tmp_path, codec=partial(CODEC, dtype="bfloat16"), checked=2)
    assert coarse["decode_psnr"] <= min(value for value in record["decode_psnr"] if value is not None)
    assert open_video_latents(tmp_path / "val", settings=latent_settings(CODEC()))


def test_numbers_that_the_storage_cannot_hold_are_an_error(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = LatentCodec.encode
    monkeypatch.setattr(LatentCodec, "encode", lambda codec, pixels: encode(codec, pixels)._replace(
        mean=torch.full((len(pixels), 4, 8, 8), 1e6)
    ))  # fmt: skip
    with pytest.raises(ValueError, match="float16 cannot hold"):
        run(clips, tmp_path, dtype="float16")


def test_latents_travel_to_loader_processes(undisturbed: Path) -> None:
    latents = open_video_latents(undisturbed / "val", settings={})
    first = latents["val/0"]
    copy: VideoLatents = pickle.loads(pickle.dumps(latents))
    assert torch.equal(copy["val/0"], first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "task.dtype=int8"),
        ({"crop": "middle"}, f"crop is one of {', '.join(get_args(encode_videos.Crop))}"),
        ({"buckets": [[16, 15]]}, "multiples of 2"),
        ({"shard": "2/2"}, "shard=2/2"),
        ({"devices": "tpu"}, "task.devices=tpu"),
    ],
)
def test_settings_that_are_none_are_refused(clips: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(clips, tmp_path, **changes)


def test_lists_are_read_in_all_their_forms(clips: Path, tmp_path: Path, undisturbed: Path) -> None:
    rows = [row | {"split": split} for split in CLIPS for row in read_jsonl(clips / "captions" / f"{split}.jsonl")]
    table = tmp_path / "table"
    write_jsonl(table / "clips.jsonl", rows)
    (table / "clips.json").write_text(json.dumps({"media": os.path.relpath(clips, table)}))
    assert run(clips, tmp_path / "a", table=str(table))["clips"] == 8
    assert run(clips, tmp_path / "b", table=str(table / "clips.jsonl"), media=str(clips))["clips"] == 8
    weights = "train/16x16x8/shard_00000.safetensors"
    assert len({(folder / weights).read_bytes() for folder in (tmp_path / "a", tmp_path / "b", undisturbed)}) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no clips"),
        ([{"id": "a", "video": "a.mp4", "caption": "a"}] * 2, "two clips of split train have the id a"),
        ([{"id": "a", "video": "a.mp4"}], "train.jsonl row 1: caption is missing"),
    ],
)
def test_other_lists_are_refused(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    write_jsonl(tmp_path / "captions" / "train.jsonl", rows)
    with pytest.raises(ClipListError, match=message):
        run(tmp_path, tmp_path / "cache")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda(clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    run(clips, tmp_path / "one", devices="cuda:0")
    run(clips, tmp_path / "two", devices=["cuda:0", "cuda:0"])
    assert content(tmp_path / "one") == content(tmp_path / "two")
    for split in CLIPS:
        for name, entry in open_video_latents(undisturbed / split, settings={}).items():
            made = open_video_latents(tmp_path / "one" / split, settings={})[name]
            torch.testing.assert_close(made.float(), entry.float(), rtol=2e-2, atol=1e-2)


# Real clips, killed for real


def real_list(media: Path, folder: Path) -> None:
    """Each real clip twice: of 3 to 30 frames a second, H.264, MPEG-4 and VP9, one of them short."""
    files = [path.relative_to(media) for path in sorted(media.rglob("*")) if path.suffix in (".mp4", ".avi", ".webm")]
    rows = [{"id": f"{number}/{path.stem}", "video": str(path), "caption": path.stem, "split": split}
            for number, split in enumerate(("train", "val")) for path in files]  # fmt: skip
    write_jsonl(folder / "clips.jsonl", rows)


def command(media: Path, data: Path, cache: Path, *overrides: str) -> list[str]:
    task = ["task=video_latents_tiny", f"task.table={data}", f"task.media={media}", f"task.cache={cache}"]
    task += ["task.fps=16", "task.seconds=4", "task.buckets=[[64,64],[48,80],[48,80,32]]", "task.shard_mib=0.25"]
    where = [f"paths.data={data}", f"paths.outputs={data}", "task.devices=cpu", "task.num_workers=1", "task.checked=1"]
    return [sys.executable, "-m", "launchers.prepare", *task, *where, *overrides]


def killed_when(condition: Callable[[], bool], arguments: list[str]) -> None:
    """Starts the task and kills it, by SIGKILL, when the condition holds."""
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not condition():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@in_turn(4)
def test_real_clips_killed_twice_end_with_the_same_bytes_and_no_shard_is_repeated(media: Path, tmp_path: Path) -> None:
    real_list(media, tmp_path)
    subprocess.run(command(media, tmp_path, tmp_path / "whole"), cwd=ROOT, check=True)
    killed = tmp_path / "killed"

    def done() -> dict[str, tuple[int, int]]:
        """Identity and date of what belongs to a finished shard."""
        records = [path.with_suffix("") for path in killed.rglob("shard_*.json")]
        files = [path.with_suffix(end) for path in records for end in (".json", ".safetensors")]
        return {str(path.relative_to(killed)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

    killed_when(lambda: len(done()) >= 2 * 2, command(media, tmp_path, killed))
    first = done()
    # Again later, and while a file is being written.
    late = command(media, tmp_path, killed, "task.devices=[cpu,cpu]", "task.num_workers=2")
    killed_when(lambda: len(done()) >= len(first) + 2 * 2 and any(killed.rglob(".shard_*.part")), late)
    second = done()
    assert first.items() < second.items()
    assert not (killed / "val" / "clips.jsonl").exists()
    subprocess.run(command(media, tmp_path, killed), cwd=ROOT, check=True)
    assert second.items() < done().items()
    assert content(killed) == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_real_clips_cached_and_fresh_agree_after_rounding(media: Path, tmp_path: Path) -> None:
    real_list(media, tmp_path)
    settings: dict[str, Any] = {"codec": partial(load_codec, weights="common/tiny/weights/vae"), "fps": 16.0}
    run(
        tmp_path, tmp_path / "cache", table=str(tmp_path), media=str(media), seconds=2.0, buckets=[[32, 56]], **settings
    )
    latents = open_video_latents(tmp_path / "cache" / "val", settings={})
    codec = settings["codec"]()
    assert len(latents) == 8
    assert {row["id"]: row["repeated"] for row in latents.rows}["1/v_rBMQFpHspmo"] == 25  # 3 frames a second
    for row in latents.rows:
        path = media / row["video"]
        frames = clip_frames(path, fps=16.0, frames=32, size=(32, 56), crop="centre", backend="pyav")
        made = encode_clip(codec, frames, at_once=3, logvar=False, dtype="bfloat16")
        assert torch.equal(latents[row["id"]], made)
        torch.testing.assert_close(latents[row["id"]].float(), codec.encode(frames).mean, rtol=2.0**-8, atol=1e-4)
