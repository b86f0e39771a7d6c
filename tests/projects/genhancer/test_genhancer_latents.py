"""Latents and embeddings from a cache are those that a run makes by itself; a stale or forbidden cache is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from common.config import ROOT
from common.data.cache import StaleCacheError
from common.encoders.tower import ContrastiveTower, load_tower
from common.latent.vae import LatentCodec, load_codec
from common.types import Pick
from projects.genhancer import latent_pipeline
from projects.genhancer.batch import Batch
from projects.genhancer.clip_media import ClipTars
from projects.genhancer.crops import Crops
from projects.genhancer.data import Images
from projects.genhancer.genhancer_latents import genhancer_latents
from projects.genhancer.latent_pipeline import latents_of
from projects.genhancer.media import ImageFolder
from projects.genhancer.samplers import Sliding
from tests.projects.genhancer.small_clips import clips, images, write_clips, write_images

TINY_CLIP, TINY_VAE = (str(ROOT / "common" / "tiny" / "weights" / name) for name in ("clip", "vae"))
CROPS = Crops(area=[0.5, 0.9], count=2)
SIZES: dict[str, Any] = {"size": 64, "target": 32, "latent": [4, 8, 8]}


@pytest.fixture(scope="module")
def tower() -> ContrastiveTower:
    return load_tower(weights=TINY_CLIP)


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return load_codec(weights=TINY_VAE, encoder_only=True)


def make(media: Any, cache: Path, **changes: Any) -> dict[str, float]:
    arguments: dict[str, Any] = {
        "media": {"train": media},
        "crops": {"train": CROPS},
        "cache": str(cache),
        "codec": partial(load_codec, weights=TINY_VAE),
        "tower": partial(load_tower, weights=TINY_CLIP),
        "size": 64,
        "target": 32,
        "shard_size": 2,
        "pictures_at_once": 7,
        "max_failed": 0.0,
        "num_workers": 0,
        "devices": "cpu",
    }
    return genhancer_latents(**{**arguments, **changes})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five pictures and their caches."""
    folder = tmp_path_factory.mktemp("pictures")
    write_images(folder / "images", 5)
    figures = make(partial(ImageFolder, folder=str(folder / "images")), folder / "cache")
    assert figures == {"pictures encoded": 20, "shards made": 6, "rows": 10, "failed": 0, "shards missing": 0}
    return folder / "images", folder / "cache" / "train"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three clips of different lengths and their caches."""
    folder = tmp_path_factory.mktemp("videos")
    write_clips(folder / "clips", [5, 7, 6])
    make(partial(ClipTars, folder=str(folder / "clips")), folder / "cache")
    return folder / "clips", folder / "cache" / "train"


def cached(cache: Path) -> dict[str, str]:
    return {"latents": str(cache / "latents"), "embeddings": str(cache / "embeddings")}


def batch_of(rows: Images, count: int = 8) -> Batch:
    return rows.collate([rows[Pick(position % len(rows), position, 1.0)] for position in range(count)])


def check(plain: Images, kept: Images, tower: ContrastiveTower, codec: LatentCodec) -> None:
    """Whether a batch from the cache is what the encoders make of the batch without it."""
    fresh, stored = batch_of(plain), batch_of(kept)
    assert (stored.conditions, stored.target) == (None, None)
    assert fresh.conditions is not None
    assert fresh.target is not None
    assert stored.embeddings is not None
    assert stored.latents is not None
    with torch.no_grad():
        embeddings = tower.images(fresh.conditions.flatten(0, 1)).view_as(stored.embeddings)
    assert torch.allclose(stored.embeddings, embeddings, atol=1e-4)
    expected = latents_of(fresh.target, codec).float()
    assert stored.latents.dtype == torch.float16
    assert torch.allclose(stored.latents.float(), expected, atol=2e-2, rtol=2e-3)
    assert torch.equal(fresh.times, stored.times)
    assert all(torch.equal(one, two) for one, two in zip(fresh.draws, stored.draws, strict=True))


def test_pictures_from_the_cache(pictures: tuple[Path, Path], tower: ContrastiveTower, codec: LatentCodec) -> None:
    folder, cache = pictures
    kept = images(folder, crops=CROPS, **SIZES, **cached(cache))
    kept.refuse_other_codec(codec)
    kept.refuse_other_tower(tower, learns=False)
    check(images(folder, crops=CROPS, **SIZES), kept, tower, codec)


def test_clips_from_the_cache(videos: tuple[Path, Path], tower: ContrastiveTower, codec: LatentCodec) -> None:
    folder, cache = videos
    changes: dict[str, Any] = {"crops": CROPS, "sampler": Sliding(count=2, step=0.125), **SIZES}
    check(clips(folder, **changes), clips(folder, **changes, **cached(cache)), tower, codec)


def test_both_crops_are_used(pictures: tuple[Path, Path]) -> None:
    folder, cache = pictures
    rows = images(folder, crops=CROPS, **SIZES, **cached(cache))
    found = [rows[Pick(0, position, 1.0)].latents for position in range(20)]
    assert len({each.numpy().tobytes() for each in found if each is not None}) == 2


def test_pictures_come_beside_the_cache_where_they_are_asked_for(pictures: tuple[Path, Path]) -> None:
    folder, cache = pictures
    batch = batch_of(images(folder, crops=CROPS, **SIZES, **cached(cache), pictures=True))
    fresh = batch_of(images(folder, crops=CROPS, **SIZES))
    assert batch.conditions is not None
    assert fresh.conditions is not None
    assert torch.equal(batch.conditions, fresh.conditions)
    assert batch.latents is not None


def test_the_second_stage_refuses_cached_embeddings_by_name(
    pictures: tuple[Path, Path], tower: ContrastiveTower
) -> None:
    folder, cache = pictures
    rows = images(folder, crops=CROPS, **SIZES, **cached(cache))
    with pytest.raises(ValueError, match=r"data\.train\.embeddings=.*the tower learns.*data\.train\.embeddings=null"):
        rows.refuse_other_tower(tower, learns=True)
    images(folder, crops=CROPS, **SIZES, latents=str(cache / "latents")).refuse_other_tower(tower, learns=True)


def test_caches_of_another_encoder_are_refused(pictures: tuple[Path, Path]) -> None:
    folder, cache = pictures
    rows = images(folder, crops=CROPS, **SIZES, **cached(cache))
    other_codec = load_codec(weights=TINY_VAE)
    other_codec.identity = "another"
    with pytest.raises(StaleCacheError, match=r"'vae'.*another.*task=genhancer_latents.*data\.\*\.latents=null"):
        rows.refuse_other_codec(other_codec)
    other_tower = load_tower(weights=TINY_CLIP)
    other_tower.identity = "another"
    with pytest.raises(StaleCacheError, match=r"'tower'.*another.*data\.\*\.embeddings=null"):
        rows.refuse_other_tower(other_tower, learns=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crops": Crops(area=[0.5, 0.8], count=2)}, "crop_area"),
        ({"crops": Crops(area=[0.5, 0.9], count=3)}, "crop_count"),
        ({"target": 16, "latent": [4, 4, 4]}, "size"),
        ({"crops": Crops(area=[0.5, 0.9])}, r"data\.train\.crops\.count=null"),
    ],
)
def test_caches_of_other_crops_or_sizes_are_refused(
    pictures: tuple[Path, Path], changes: dict[str, Any], message: str
) -> None:
    folder, cache = pictures
    with pytest.raises(ValueError, match=message):
        images(folder, **{"crops": CROPS, **SIZES, **cached(cache), **changes})


def test_caches_of_other_rows_are_refused(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    with pytest.raises(StaleCacheError, match="rows"):
        images(tmp_path, crops=CROPS, **SIZES, **cached(pictures[1]))


def test_a_cache_that_is_not_there_says_how_it_is_made(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="task=genhancer_latents"):
        images(pictures[0], crops=CROPS, **SIZES, latents=str(tmp_path))


# The task


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_killed_task_goes_on_and_ends_with_the_same_bytes(
    pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = partial(ImageFolder, folder=str(pictures[0]))
    real, written = latent_pipeline._write, []

    def killed(*arguments: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(real(*arguments))  # type: ignore[func-returns-value]

    monkeypatch.setattr(latent_pipeline, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        make(media, tmp_path)
    monkeypatch.setattr(latent_pipeline, "_write", real)
    assert make(media, tmp_path)["shards made"] == 4
    assert everything(tmp_path / "train") == everything(pictures[1])
    assert make(media, tmp_path)["shards made"] == 0


def test_machines_and_processes_make_the_same_bytes(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    media = partial(ImageFolder, folder=str(pictures[0]))
    assert make(media, tmp_path, shard="1/2")["shards missing"] == 4
    assert make(media, tmp_path, shard="0/2", num_workers=2, devices=["cpu", "cpu"])["shards missing"] == 0
    assert everything(tmp_path / "train") == everything(pictures[1])


def test_what_cannot_be_read_is_listed_and_left_out(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 5)
    (folder / "0001.png").write_bytes((folder / "0001.png").read_bytes()[:100])
    media = partial(ImageFolder, folder=str(folder))
    with pytest.raises(ValueError, match=r"1 of 5 entries failed, more than the allowed share 0\.1"):
        make(media, tmp_path / "cache", max_failed=0.1)
    assert make(media, tmp_path / "cache", max_failed=0.3)["failed"] == 2
    rows = images(folder, crops=CROPS, **SIZES, **cached(tmp_path / "cache" / "train"))
    assert [rows.name(row) for row in range(len(rows))] == ["0000.png", "0002.png", "0003.png", "0004.png"]
    batch_of(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crops": {"train": Crops()}}, r"task\.crops\.train\.count=null"),
        ({"crops": {"val": CROPS}}, "give both for each split"),
        ({"size": 32, "codec": None}, r"task\.size=32, and the tower sees 64"),
    ],
)
def test_settings_that_contradict_each_other(
    pictures: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(partial(ImageFolder, folder=str(pictures[0])), tmp_path, **changes)


def test_latents_alone(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    assert make(partial(ImageFolder, folder=str(pictures[0])), tmp_path, tower=None)["rows"] == 5
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["latents"]


def test_pixels_of_three_channels_are_cached_of_any_picture(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (70, 90), 128).save(tmp_path / "images" / "grey.png")
    assert make(partial(ImageFolder, folder=str(tmp_path / "images")), tmp_path / "cache")["rows"] == 2
