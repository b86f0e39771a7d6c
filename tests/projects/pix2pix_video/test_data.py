"""Batches of edits: from the cache or encoded on the fly, the same numbers; what does not fit is refused."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import projects.pix2pix_video.frames as frames_file
from common.data.cache import StaleCacheError
from common.encoders.text import ClipText
from common.latent.vae import LatentCodec
from launchers import train
from launchers.command import compose
from projects.pix2pix_video.arrow import SetError, write_set
from projects.pix2pix_video.data import example, posterior
from projects.pix2pix_video.frames import EditFrames, FrameError
from projects.pix2pix_video.latents import NULL, TASK
from projects.pix2pix_video.module import Pix2PixVideo
from tests.projects.pix2pix_video.small_run import (
    SMALL_UNET,
    Small,
    batch_of,
    configured,
    fit,
    make_data,
    make_module,
    make_small,
)
from tests.projects.pix2pix_video.small_set import CLIP, CODEC, HISTORY, LATENT, ROWS, SIZE, TEXT, VAE


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


def copied(small: Small, folder: Path) -> Small:
    """The same in a folder of its own, that may be changed."""
    shutil.copytree(small.edits.parent, folder)
    return Small(folder / small.edits.name, folder / small.cache.name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many pictures and prompts are encoded, and how many frames are read."""
    found = {"pictures": 0, "prompts": 0, "frames": 0}

    def counting(owner: Any, name: str, kind: str, amount: Callable[..., int]) -> None:
        original = getattr(owner, name)

        def counted(*arguments: Any) -> Any:
            found[kind] += amount(*arguments)
            return original(*arguments)

        monkeypatch.setattr(owner, name, counted)

    counting(LatentCodec, "encode", "pictures", lambda codec, pixels: len(pixels))
    counting(ClipText, "forward", "prompts", lambda encoder, prompts: len(prompts))
    counting(frames_file, "read_rgb", "frames", lambda *_: 1)
    return found


# The same numbers from the cache and on the fly


def test_cached_and_encoded_batches_agree(small: Small) -> None:
    """On CPU in float32: latents to a step of float16, since pictures are encoded in other batches; so the loss."""
    module = configured()
    cached, fresh = (batch_of(small.rows(cached=each, dropout=0.2)) for each in (True, False))
    assert cached.frames is None
    assert cached.latents is not None
    assert cached.latents.dtype == torch.float16
    assert cached.latents.shape == (9, HISTORY + 2, *LATENT)
    assert fresh.latents is None
    assert fresh.text is None
    assert fresh.frames is not None
    assert fresh.frames.shape == (9, HISTORY + 1, 3, SIZE, SIZE)
    assert cached.prompts == fresh.prompts
    (history, target), (again, same) = module.latents(cached), module.latents(fresh)
    for one, other in ((history, again), *zip(target, same, strict=True)):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(other, other.half().float())  # rounded as the cache is
        torch.testing.assert_close(one, other, rtol=2.0**-10, atol=1e-4)
    for one, other in zip(module.text(cached), module.text(fresh), strict=True):
        torch.testing.assert_close(one, other, rtol=2.0**-10, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(module.errors(cached), module.errors(fresh), rtol=1e-3, atol=1e-5)


def test_the_same_latents_give_the_same_loss_bit_by_bit(small: Small) -> None:
    """Once the numbers are there, nothing tells where they came from."""
    module, rows = configured(), small.rows(cached=False)
    fresh = batch_of(rows)
    assert fresh.frames is not None
    encoded = module.codec.encode(fresh.frames.flatten(0, 1))
    mean, logvar = (part.unflatten(0, fresh.frames.shape[:2]) for part in encoded)
    states = TEXT()([*fresh.prompts, NULL]).half()
    cached = fresh._replace(
        latents=torch.cat([mean, logvar[:, -1:]], dim=1).half(), frames=None, text=states[:-1], null_text=states[-1:]
    )
    with torch.no_grad():
        assert torch.equal(module.errors(cached), module.errors(fresh))


def test_a_warm_cache_makes_no_call_of_an_encoder_and_reads_no_image(small: Small, calls: dict[str, int]) -> None:
    fit(make_module(), make_data(small, steps=3))
    assert calls == {"pictures": 0, "prompts": 0, "frames": 0}
    fit(make_module(), make_data(small, steps=3, cached=False))
    rows = 3 * 4
    micro_batches = 3 * 2
    assert calls == {"pictures": rows * (HISTORY + 1), "prompts": rows + micro_batches, "frames": rows * (HISTORY + 1)}


def test_frames_are_read_only_where_pictures_are_wanted(small: Small, tmp_path: Path) -> None:
    moved = copied(small, tmp_path / "copy")
    shutil.rmtree(moved.edits.parent / "media")
    batch = batch_of(moved.rows())
    assert batch.frames is None
    with pytest.raises(FrameError, match="say in media where the frames are now"):
        batch_of(moved.rows(pictures=True))
    with pytest.raises(FrameError, match=r"row train/0: .*00\.png"):
        batch_of(moved.rows(cached=False))
    whole = batch_of(small.rows(pictures=True))
    assert whole.frames is not None
    assert whole.latents is not None
    assert torch.equal(whole.frames[2], EditFrames(**frames_of(small)).pixels(2))


def frames_of(small: Small, **changes: Any) -> dict[str, Any]:
    keys = ("folder", "split", "media", "size", "crop", "history")
    return {key: small.arguments(**changes)[key] for key in keys}


# Which rows


def novel_set(root: Path, small: Small) -> Path:
    """The small set with every third row of each split novel."""
    folder = root / "novel"
    folder.mkdir()
    splits = {}
    for split in ROWS:
        rows = EditFrames(**frames_of(small, split=split)).rows
        splits[split] = [type(row)(**{**row.__dict__, "novel": number % 3 == 0}) for number, row in enumerate(rows)]
    write_set(folder, splits, media=small.edits.parent / "media", history=HISTORY)
    return folder


def test_rows_that_training_shows_and_novel_ones(small: Small, tmp_path: Path) -> None:
    folder = str(novel_set(tmp_path, small))
    whole, seen, novel = (small.rows(folder=folder, novel=each) for each in (None, False, True))
    assert (len(whole), len(seen), len(novel)) == (9, 6, 3)
    assert seen.numbers == [1, 2, 4, 5, 7, 8]
    assert [row.id for row in novel.chosen(torch.tensor([2, 0]))] == ["train/6", "train/0"]
    assert whole.latents is not None
    assert novel.latents is not None
    assert torch.equal(novel.latents[1], whole.latents[3])  # the third row of the set
    batch = batch_of(small.rows(folder=folder, novel=True, pictures=True), 1)
    assert batch.frames is not None
    assert torch.equal(batch.frames[0], EditFrames(**frames_of(small)).pixels(3))
    assert batch.prompts == (whole.prompts[3],)
    with pytest.raises(ValueError, match=r"split train of .* has no rows with novel=True"):
        small.rows(novel=True)


def test_the_fingerprint_changes_with_the_rows(small: Small, tmp_path: Path) -> None:
    folder = str(novel_set(tmp_path, small))
    prints = [
        small.rows().fingerprint,
        small.rows(split="val").fingerprint,
        small.rows(folder=folder).fingerprint,
        small.rows(folder=folder, novel=False).fingerprint,
        small.rows(folder=folder, novel=True).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert small.rows().fingerprint == small.rows(cached=False, dropout=0.3).fingerprint


def test_a_batch_without_data(small: Small) -> None:
    batch = example(rows=3, history=HISTORY, latent=list(LATENT), text=[12, 64], steps=1000)
    real = batch_of(small.rows(), 0, 1, 2)
    for one, other in ((batch.latents, real.latents), (batch.text, real.text), (batch.null_text, real.null_text)):
        assert one is not None
        assert other is not None
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert batch.normalizer == real.normalizer == 3.0
    assert configured().training_step(batch, 0).isfinite()


def test_history_and_posterior_of_what_is_stored() -> None:
    stored = torch.arange(5).view(1, 5, 1, 1, 1).half()
    history, target = posterior(stored)
    assert history.flatten().tolist() == [0, 1, 2]
    assert (float(target.mean), float(target.logvar)) == (3.0, 4.0)
    assert history.dtype == target.mean.dtype == torch.float32


# What does not fit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 32}, r"'size': \(16, 32\).*task=edit_latents"),
        ({"crop": "centre"}, r"'crop'.*task=edit_latents"),
    ],
)
def test_a_cache_of_another_size_is_refused_when_it_is_opened(
    small: Small, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StaleCacheError, match=message):
        small.rows(**changes)


def test_a_cache_of_another_history_is_refused(small: Small, tmp_path: Path) -> None:
    other = copied(small, tmp_path / "copy")
    path = other.cache / "train" / "plan.json"
    plan = json.loads(path.read_text())
    plan["settings"]["history"] = 5
    path.write_text(json.dumps(plan))
    with pytest.raises(StaleCacheError, match=r"'history': \(5, 3\).*task=edit_latents"):
        other.rows()
    with pytest.raises(SetError, match=r"histories of 3 frames, and 5.*task\.history=5"):
        small.rows(history=5)


def test_latents_of_another_shape_name_the_key(small: Small) -> None:
    with pytest.raises(ValueError, match=r"data\.train\.latent=\[4, 32, 32\].*holds latents of \[4, 8, 8\]; set it"):
        small.rows(latent=[4, 32, 32])


def test_an_instruction_that_is_not_in_the_table_is_named(small: Small, tmp_path: Path) -> None:
    changed = copied(small, tmp_path / "copy")
    rows = changed.rows()
    rows.prompts[4] = "dance"
    assert batch_of(rows, 3).text is not None
    with pytest.raises(ValueError, match=r'the instruction "dance" is not in .*text; .*task=edit_latents.*text=null'):
        batch_of(rows, 3, 4)


def test_no_cache_names_the_task(small: Small, tmp_path: Path) -> None:
    for key in ("latents", "text"):
        with pytest.raises(FileNotFoundError, match=rf"task=edit_latents, or set data\.\*\.{key}=null"):
            small.rows(**{key: str(tmp_path / "none")})


def first_step(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes when a training step begins."""
    steps: list[str] = []
    monkeypatch.setattr(Pix2PixVideo, "training_step", lambda *_: steps.append("step"))
    return steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": partial(CODEC, seed=1)}, r"'vae': .*random:0:.*random:1:.*data\.\*\.latents=null encodes"),
        ({"vae": partial(CODEC, architecture=VAE | {"scaling_factor": 0.5})}, r"'scaling_factor'.*task\.cache="),
        ({"text_encoder": partial(TEXT, max_tokens=16)}, r"'max_tokens': \(12, 16\).*data\.\*\.text=null encodes"),
        (
            {"text_encoder": partial(TEXT, weights="random", tokenizer=CLIP, architecture={"hidden_size": 64})},
            "'text_encoder': .*task=edit_latents",
        ),
    ],
    ids=["autoencoder", "scaling factor", "length of prompts", "text encoder"],
)
def test_a_cache_of_other_encoders_is_refused_before_the_first_step(
    small: Small, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = first_step(monkeypatch)
    with pytest.raises(StaleCacheError, match=message):
        fit(make_module(**changes), make_data(small))
    assert steps == []


def test_a_cache_of_other_rows_is_refused_before_the_first_step(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = first_step(monkeypatch)
    with pytest.raises(StaleCacheError, match=r"'rows': .*task=edit_latents"):
        fit(make_module(), make_data(small, folder=str(novel_set(tmp_path, small))))
    assert steps == []


def test_the_caches_of_validation_are_looked_at_too(small: Small, tmp_path: Path) -> None:
    folder = str(novel_set(tmp_path, small))
    with pytest.raises(StaleCacheError, match="'rows'"):
        fit(make_module(), make_data(small, val={"folder": folder}))


# By the command


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the small set, at the size of the tiny experiment, and its cache."""
    from launchers.command import prepare

    root = tmp_path_factory.mktemp("data")
    place = root / "shapes_edits"
    place.mkdir()
    small = make_small(place)
    shutil.rmtree(small.cache)
    settings = [f"task.media='{place}/media'", f"task.history={HISTORY}", "task.num_workers=0", "task.devices=cpu"]
    cfg = compose("experiment=pix2pix_video_tiny", "paths.run=.", f"paths.data='{root}'")
    prepare([["task=edit_latents_tiny", *settings]], paths=cfg.paths)
    return root


COMMAND = (
    "experiment=pix2pix_video_tiny",
    "prepare=[]",
    "steps=2",
    "validate_every=2",
    "batch.global=4",
    "batch.micro=2",
    f"model.unet.history={HISTORY}",
    "model.unet.architecture.block_out_channels=[16, 32]",
    "model.follow=false",
    "model.sampling.steps=2",
    "data.val.novel=null",
)


def run(data: Path, folder: Path, *overrides: str) -> float | None:
    media = f"{data}/shapes_edits/media"
    where = [f"paths.data='{data}'", f"paths.run='{folder}'"]
    both = [f"data.{split}.media='{media}'" for split in ("train", "val")]
    return train.main(compose(*COMMAND, *where, *both, *overrides))


OTHER_VAE = (
    "model.vae.weights=random",
    "model.vae.architecture.block_out_channels=[32, 32, 32]",
    "model.vae.architecture.down_block_types=[DownEncoderBlock2D, DownEncoderBlock2D, DownEncoderBlock2D]",
    "model.vae.architecture.up_block_types=[UpDecoderBlock2D, UpDecoderBlock2D, UpDecoderBlock2D]",
)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (OTHER_VAE, r"'vae': .*random:0"),
        (("data.train.size=16",), r"'size': \(32, 16\)"),
        (("data.val.size=16",), r"'size': \(32, 16\)"),
        (("model.unet.history=2",), r"histories of 3 frames, and 2.*task=edit_frames task\.history=2"),
        (("model.text_encoder.max_tokens=16",), r"'max_tokens': \(12, 16\)"),
    ],
    ids=["autoencoder", "size", "size of validation", "history", "text encoder"],
)
def test_training_refuses_a_cache_of_something_else(
    data: Path, tmp_path: Path, overrides: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = first_step(monkeypatch)
    with pytest.raises(ValueError, match=message) as raised:
        run(data, tmp_path / "run", *overrides)
    assert steps == []
    assert isinstance(raised.value, SetError) or TASK in str(raised.value)


def test_training_on_the_cache_encodes_nothing(data: Path, tmp_path: Path, calls: dict[str, int]) -> None:
    value = run(
        data, tmp_path / "run", "callbacks=ema", "trainer.limit_val_batches=0", "callbacks.checkpointing.every=2"
    )
    assert value is None
    assert calls == {"pictures": 0, "prompts": 0, "frames": 0}


def test_the_unet_of_these_tests_takes_the_history() -> None:
    assert SMALL_UNET().conv_in.in_channels == LATENT[0] * (1 + HISTORY)
